//! The layers' operations on the CPU: hand-written kernels with hand-written gradients.
//!
//! Every function here gives `None` where it does not apply (another device, another type of
//! number, gradient checkpointing, a graph that is being captured); the layer then composes
//! Burn's own operations.

mod conv;
mod linear;
mod op;

pub(crate) use conv::conv2d;
pub(crate) use linear::linear;
