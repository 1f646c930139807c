//! Boxes in pictures, as plain numbers: overlap, suppression of duplicates, letterbox, average
//! precision as COCO defines it.

mod letterbox;
mod precision;
mod rect;
mod suppress;

pub use letterbox::Letterbox;
pub use precision::{AveragePrecision, Found, Truth, average_precision};
pub use rect::Rect;
pub use suppress::{Scored, suppress};
