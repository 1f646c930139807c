//! Training, evaluation and prediction with image models.

mod loss;
mod optim;
mod schedule;

pub use loss::cross_entropy;
pub use optim::{Optimizer, Rule, global_norm};
pub use schedule::Schedule;
