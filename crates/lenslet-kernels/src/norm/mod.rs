//! Normalisation: batch norm with its fused residual and activation, layer norm, and local response norm; forward and backward.

mod batch;
mod layer;
mod response;

pub use batch::{BatchNorm, Preactivation, Statistics, batch_statistics, inverse_std};
pub use layer::LayerNorm;
pub use response::LocalResponseNorm;

#[cfg(test)]
mod tests;
