//! Normalisation: batch norm with its fused residual and activation, and layer norm; forward and backward.

mod batch;
mod layer;

pub use batch::{BatchNorm, Preactivation, Statistics, batch_statistics, inverse_std};
pub use layer::LayerNorm;

#[cfg(test)]
mod tests;
