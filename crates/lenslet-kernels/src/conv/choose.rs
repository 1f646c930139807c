//! Which algorithm a convolution takes: a pure function of its shape.

use super::Conv2d;
use super::winograd::{self, Size};
use super::{narrow, winograd_gradient};

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
    /// Winograd's F(2x2, 3x3): 2.25 times fewer multiplications, hardly any loss of accuracy.
    WinogradF2,
    /// Winograd's F(4x4, 3x3): 4 times fewer multiplications, errors around 1e-6 of the largest output.
    WinogradF4,
    /// One input and one output channel per group, vectors across channels.
    Depthwise,
    /// Few output channels and no horizontal stride, vectors across columns.
    Narrow,
}

impl Algorithm {
    /// The name that benchmarks print.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Indirect => "indirect",
            Algorithm::KernelRows => "kernel-rows",
            Algorithm::WinogradF2 => "winograd-f2",
            Algorithm::WinogradF4 => "winograd-f4",
            Algorithm::Depthwise => "depthwise",
            Algorithm::Narrow => "narrow",
        }
    }

    /// When it is taken.
    pub fn rule(self) -> &'static str {
        match self {
            Algorithm::Indirect => {
                "convolutions that no other algorithm serves in less time: all of 1 x 1"
            }
            Algorithm::KernelRows => {
                "few input channels, so that a row of the kernel is one stretch of memory"
            }
            Algorithm::WinogradF2 => {
                "3 x 3 of stride 1, where its operations, transforms and 16 weights a filter take least by estimate"
            }
            Algorithm::WinogradF4 => {
                "3 x 3 of stride 1, where its operations, transforms and 36 weights a filter take least by estimate"
            }
            Algorithm::Depthwise => "one input and one output channel a group",
            Algorithm::Narrow => "at most 8 output channels without a horizontal stride",
        }
    }

    /// All of them.
    pub const ALL: [Algorithm; 6] = [
        Algorithm::Depthwise,
        Algorithm::Indirect,
        Algorithm::KernelRows,
        Algorithm::Narrow,
        Algorithm::WinogradF2,
        Algorithm::WinogradF4,
    ];

    /// How many times the rounding error of a plain sum of products it may have.
    pub fn error_factor(self) -> f64 {
        match self {
            Algorithm::Indirect
            | Algorithm::KernelRows
            | Algorithm::Depthwise
            | Algorithm::Narrow => 1.0,
            // Sums of the largest rows of the transforms' matrices bound how much rounding is amplified; these are near what is
            // seen on random data, times four.
            Algorithm::WinogradF2 => 4.0,
            Algorithm::WinogradF4 => 16.0,
        }
    }

    /// Whether the algorithm can compute this shape.
    pub fn serves(self, shape: &Conv2d, pass: Pass) -> bool {
        match self {
            Algorithm::Indirect => true,
            Algorithm::KernelRows => pass == Pass::Forward && shape.reads_kernel_rows(),
            Algorithm::WinogradF2 | Algorithm::WinogradF4 => winograd::serves(shape),
            Algorithm::Depthwise => shape.is_depthwise(),
            Algorithm::Narrow => narrow::serves(shape, pass),
        }
    }

    /// The fastest algorithm for weights that are packed once, as in inference.
    pub fn choose(shape: &Conv2d, pass: Pass) -> Algorithm {
        Self::choose_for(shape, pass, false)
    }

    /// The fastest algorithm for weights that are packed before every run, as in training.
    pub fn choose_repacked(shape: &Conv2d, pass: Pass) -> Algorithm {
        Self::choose_for(shape, pass, true)
    }

    /// Whether the algorithm can compute the weight gradient of this shape.
    pub fn serves_weight_gradient(self, shape: &Conv2d) -> bool {
        match self {
            Algorithm::Depthwise => shape.is_depthwise(),
            Algorithm::Indirect => !shape.is_depthwise() && !shape.reads_kernel_rows(),
            Algorithm::KernelRows => shape.reads_kernel_rows(),
            Algorithm::WinogradF2 | Algorithm::WinogradF4 => {
                winograd::serves(shape) && !shape.reads_kernel_rows()
            }
            Algorithm::Narrow => false,
        }
    }

    /// The fastest algorithm for the weight gradient.
    pub fn choose_weight_gradient(shape: &Conv2d) -> Algorithm {
        if shape.is_depthwise() {
            return Algorithm::Depthwise;
        }
        if shape.reads_kernel_rows() {
            return Algorithm::KernelRows;
        }
        let output = shape.output_size().ok();
        match output.and_then(|output| winograd_gradient::choose(shape, output)) {
            Some(Size::F2) => Algorithm::WinogradF2,
            Some(Size::F4) => Algorithm::WinogradF4,
            None => Algorithm::Indirect,
        }
    }

    fn choose_for(shape: &Conv2d, pass: Pass, packs: bool) -> Algorithm {
        if shape.is_depthwise() {
            return Algorithm::Depthwise;
        }
        if narrow::choose(shape, pass) {
            return Algorithm::Narrow;
        }
        if Algorithm::KernelRows.serves(shape, pass) {
            return Algorithm::KernelRows;
        }
        let Ok(output) = shape.output_size() else {
            return Algorithm::Indirect;
        };
        let (output, channels) = match pass {
            Pass::Forward => (output, [shape.c_in, shape.c_out]),
            Pass::InputGradient => ([shape.h, shape.w], [shape.c_out, shape.c_in]),
        };
        match winograd::choose(shape, output, channels, packs) {
            Some(Size::F2) => Algorithm::WinogradF2,
            Some(Size::F4) => Algorithm::WinogradF4,
            None => Algorithm::Indirect,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices() {
        let conv = |n, size, c_in, c_out, k: usize| {
            Conv2d::new([n, size, size, c_in], c_out, [k, k]).padding(k / 2)
        };
        let cases = [
            (conv(1, 56, 64, 64, 3), Algorithm::WinogradF4),
            (conv(1, 14, 256, 256, 3), Algorithm::WinogradF2),
            (conv(8, 14, 256, 256, 3), Algorithm::WinogradF4),
            // On small maps transformed weights are most of the traffic.
            (conv(1, 7, 512, 512, 3), Algorithm::WinogradF2),
            (conv(8, 7, 512, 512, 3), Algorithm::WinogradF4),
            (conv(1, 1, 512, 512, 3), Algorithm::Indirect),
            (conv(1, 56, 64, 128, 3).stride(2), Algorithm::Indirect),
            (conv(1, 56, 64, 64, 3).dilation(2), Algorithm::Indirect),
            (conv(1, 56, 64, 64, 3).groups(2), Algorithm::Indirect),
            (conv(1, 56, 64, 256, 1), Algorithm::Indirect),
            (conv(1, 224, 3, 64, 7).stride(2), Algorithm::KernelRows),
            (conv(1, 28, 6, 16, 5), Algorithm::KernelRows),
            (conv(1, 28, 1, 2, 5), Algorithm::Narrow),
            (conv(1, 112, 32, 32, 3).groups(32), Algorithm::Depthwise),
        ];
        for (shape, want) in cases {
            assert_eq!(Algorithm::choose(&shape, Pass::Forward), want, "{shape:?}");
            for pass in [Pass::Forward, Pass::InputGradient] {
                for choose in [Algorithm::choose, Algorithm::choose_repacked] {
                    assert!(choose(&shape, pass).serves(&shape, pass), "{shape:?}");
                }
            }
        }
        // Where weights are transformed for every run, and written out, more of them cost more; where they stay in a cache, they do not.
        let repacked = |shape| Algorithm::choose_repacked(&shape, Pass::Forward);
        assert_eq!(repacked(conv(16, 7, 128, 128, 3)), Algorithm::WinogradF4);
        assert_eq!(repacked(conv(3, 7, 200, 200, 3)), Algorithm::WinogradF2);
        assert_eq!(repacked(conv(8, 7, 512, 512, 3)), Algorithm::WinogradF4);
    }

    #[test]
    fn names_differ() {
        let names: std::collections::HashSet<_> = Algorithm::ALL.iter().map(|a| a.name()).collect();
        assert_eq!(names.len(), Algorithm::ALL.len());
    }
}
