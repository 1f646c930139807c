//! Element-wise passes: activations, sums, scalings, dropout, optimiser steps.

mod activation;
mod dropout;
mod scale;
mod strided;
mod update;

pub use activation::{Saved, activation_backward, activation_forward, add_forward};
pub use dropout::{dropout, dropout_mask};
pub use scale::{Factor, Scaling};
pub use strided::{ElementMap, Reduce};
pub use update::{AdamW, Sgd, add_scaled, scale_in_place, sum_of_squares};

#[cfg(test)]
mod tests;
