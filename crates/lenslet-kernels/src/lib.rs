//! CPU kernels for image models on plain `f32` slices: no tensor type, no autodiff, no framework.
//!
//! Conventions that hold everywhere in this crate:
//!
//! - Activations are `[N, H, W, C]`, channels innermost and contiguous. Where a *row stride* (`ld`) can be given, the
//!   channels of neighbouring pixels lie `ld` floats apart, so that a kernel reads from, or writes into, a channel slice of
//!   a wider buffer.
//! - Weights arrive in PyTorch's layouts: `[c_out, c_in / groups, kh, kw]` for convolutions, `[out, in]` for linear
//!   layers. Kernels pack them; a packed weight remembers the instruction set it was packed for.
//! - The instruction set is chosen at run time (see [`simd`]), work is shared by the crate's own threads (see [`pool`]), and
//!   a result never depends on the number of threads.

// Loops over arrays of vectors are counted loops, which is how the compiler unrolls them best.
#![allow(clippy::needless_range_loop)]

mod affine;
mod attention;
mod buffer;
mod channels;
mod columns;
mod conv;
mod derivative;
mod elementwise;
mod epilogue;
mod error;
mod gather;
mod gemm;
mod inout;
mod late;
mod listing;
mod matrix;
mod moments;
mod norm;
mod outer;
mod panels;
mod peak;
mod placement;
pub mod pool;
mod pool2d;
mod product;
mod resize;
pub mod simd;
mod softmax;
#[cfg(test)]
mod testing;
mod tile;
pub mod vmath;

pub use affine::affine;
pub use attention::{Attention, AttentionGradients, AttentionSaved, ScoreBias};
pub use buffer::{AlignedBuf, Scratch};
pub use channels::{channels_last, concat_channels, slice_channels};
pub use conv::{
    Algorithm, Conv2d, ConvTranspose2d, ConvWorkspace, InvertedResidual, PackedConv, Part,
    PartConv, Pass, PlanesConv, column_sums, strip_chunks, takes_panels,
};
pub use elementwise::{
    AdamW, ElementMap, Factor, Reduce, Saved, Scaling, Sgd, activation_backward,
    activation_forward, add_forward, add_scaled, dropout, dropout_mask, scale_in_place,
    sum_of_squares,
};
pub use epilogue::{Activation, Epilogue, Residual, ResidualPosition};
pub use error::KernelError;
pub use gemm::{
    Batch, BatchedShape, Order, PackedMatrix, batched_product, product, transposed_product,
};
pub use inout::InOut;
pub use listing::{KernelChoice, kernel_choices};
pub use matrix::{Matrix, MatrixMut};
pub use moments::Moments;
pub use norm::{
    BatchNorm, LayerNorm, LocalResponseNorm, Preactivation, Statistics, batch_statistics,
    inverse_std,
};
pub use peak::{peak_bandwidth, peak_operations};
pub use pool2d::{AdaptiveAveragePool2d, AveragePool2d, MaxPool2d, Pool2d};
pub use resize::{Interpolation, Resize2d};
pub use softmax::{CrossEntropy, log_softmax, log_softmax_backward, softmax, softmax_backward};
