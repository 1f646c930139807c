//! Which algorithm a convolution takes: a pure function of its shape.

use super::Conv2d;

/// Which way data flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pass {
    /// From input to output.
    Forward,
    /// From the output's gradient to the input's gradient; also the forward pass of a transposed convolution.
    InputGradient,
}

/// How a convolution is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// Matrix product of pointers to input pixels with packed weights; serves every shape.
    Indirect,
    /// The same over a padded copy of the input, a kernel row at a time; for few input channels.
    KernelRows,
}

impl Algorithm {
    /// The name that benchmarks print.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Indirect => "indirect",
            Algorithm::KernelRows => "kernel-rows",
        }
    }

    /// All of them.
    pub const ALL: [Algorithm; 2] = [Algorithm::Indirect, Algorithm::KernelRows];

    /// How many times the rounding error of a plain sum of products it may have.
    pub fn error_factor(self) -> f64 {
        match self {
            Algorithm::Indirect | Algorithm::KernelRows => 1.0,
        }
    }

    /// Whether the algorithm can compute this shape.
    pub fn serves(self, shape: &Conv2d, pass: Pass) -> bool {
        match self {
            Algorithm::Indirect => true,
            Algorithm::KernelRows => pass == Pass::Forward && shape.reads_kernel_rows(),
        }
    }

    /// The algorithm that is fastest for this shape as far as measured.
    pub fn choose(shape: &Conv2d, pass: Pass) -> Algorithm {
        if Algorithm::KernelRows.serves(shape, pass) {
            return Algorithm::KernelRows;
        }
        Algorithm::Indirect
    }
}
