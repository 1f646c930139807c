//! Weights in the form that an algorithm reads, and the call that runs it.

use super::depthwise::Depthwise;
use super::filters::Filters;
use super::indirect::Indirect;
use super::narrow::Narrow;
use super::winograd::{self, Size, Winograd};
use super::{Algorithm, Conv2d, Pass};
use crate::buffer::Scratch;
use crate::epilogue::Epilogue;
use crate::error::{KernelError, elements, expect_len};
use crate::matrix::{Matrix, MatrixMut};
use crate::product::Output;
use crate::simd::Isa;

/// A convolution with its weights packed. `Send` and `Sync`: one object serves any number of threads.
#[derive(Debug)]
pub struct PackedConv {
    pub(super) shape: Conv2d,
    /// Output height and width of the forward pass.
    pub(super) output: [usize; 2],
    pass: Pass,
    algorithm: Algorithm,
    pub(super) weights: Weights,
}

/// The memory of every algorithm; that of the one in use holds the weights.
#[derive(Debug, Default)]
pub(super) struct Weights {
    pub indirect: Indirect,
    pub winograd: Winograd,
    pub depthwise: Depthwise,
    narrow: Narrow,
}

impl PackedConv {
    /// Packs `weight` (`[c_out, c_in / groups, kh, kw]`) for one pass of a convolution, with the algorithm that
    /// [`Algorithm::choose`] names.
    ///
    /// # Errors
    ///
    /// If the shape is impossible or the weight has another length.
    pub fn new(shape: &Conv2d, pass: Pass, weight: &[f32]) -> Result<Self, KernelError> {
        Self::with_algorithm(shape, pass, Algorithm::choose(shape, pass), weight)
    }

    /// As [`PackedConv::new`], with a given algorithm.
    ///
    /// # Errors
    ///
    /// Also if the algorithm does not serve the shape.
    pub fn with_algorithm(
        shape: &Conv2d,
        pass: Pass,
        algorithm: Algorithm,
        weight: &[f32],
    ) -> Result<Self, KernelError> {
        let mut packed = Self::unpacked(shape, pass, algorithm, Weights::default())?;
        packed.pack(weight)?;
        Ok(packed)
    }

    /// A convolution whose weights have to be packed yet, in the memory of others.
    pub(super) fn unpacked(
        shape: &Conv2d,
        pass: Pass,
        algorithm: Algorithm,
        weights: Weights,
    ) -> Result<Self, KernelError> {
        let output = shape.output_size()?;
        if !algorithm.serves(shape, pass) {
            return Err(KernelError::Shape {
                what: "convolution",
                why: format!(
                    "{} does not serve the {pass:?} pass of {shape:?}",
                    algorithm.name()
                ),
            });
        }
        Ok(PackedConv {
            shape: *shape,
            output,
            pass,
            algorithm,
            weights,
        })
    }

    /// Packs the weights.
    pub(super) fn pack(&mut self, weight: &[f32]) -> Result<(), KernelError> {
        expect_len("convolution weight", weight.len(), self.shape.weight_len())?;
        let Weights {
            indirect,
            winograd,
            depthwise,
            narrow,
        } = &mut self.weights;
        let (shape, forward) = (&self.shape, self.pass == Pass::Forward);
        match self.algorithm {
            Algorithm::Indirect | Algorithm::KernelRows if forward => {
                let kernel_rows = self.algorithm == Algorithm::KernelRows;
                indirect.pack_forward(shape, self.output, weight, kernel_rows);
            }
            Algorithm::Indirect | Algorithm::KernelRows => indirect.pack_gradient(shape, weight),
            Algorithm::WinogradF2 => winograd.pack(Size::F2, &Filters::new(shape, weight, forward)),
            Algorithm::WinogradF4 => winograd.pack(Size::F4, &Filters::new(shape, weight, forward)),
            Algorithm::Depthwise => depthwise.pack(shape, self.output, self.pass, weight),
            Algorithm::Narrow => narrow.pack(shape, self.pass, weight),
        }
        Ok(())
    }

    /// The convolution's shape.
    pub fn shape(&self) -> &Conv2d {
        &self.shape
    }

    /// The algorithm in use.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The instruction set the weights are packed for.
    pub fn isa(&self) -> Isa {
        let weights = &self.weights;
        match self.algorithm {
            Algorithm::Indirect | Algorithm::KernelRows => weights.indirect.isa(),
            Algorithm::WinogradF2 | Algorithm::WinogradF4 => weights.winograd.isa(),
            Algorithm::Depthwise => weights.depthwise.isa(),
            Algorithm::Narrow => weights.narrow.isa(),
        }
    }

    /// Runs the pass over `n` images (which need not be the shape's number).
    ///
    /// Forward: `x` is the input, `[n, h, w]` rows of `c_in`; `y` the output, `[n, oh, ow]` rows of `c_out`. Input gradient:
    /// `x` is the output's gradient, `y` receives the input's. The epilogue's channels are those of `y`. Every element of
    /// `y`'s rows is written; what lies between the rows is not touched.
    ///
    /// # Errors
    ///
    /// If a slice is too short or a row stride too small.
    pub fn run(
        &self,
        n: usize,
        x: Matrix<'_>,
        y: MatrixMut<'_>,
        scratch: &mut Scratch,
        epilogue: &Epilogue<'_>,
    ) -> Result<(), KernelError> {
        let pass = self.operands(n, x, y, epilogue)?;
        // SAFETY: `operands` checked every pixel and channel of input, output and epilogue.
        unsafe { self.run_pass(&pass, scratch) };
        Ok(())
    }

    /// As [`PackedConv::run`] of a [depthwise convolution](PackedConv::is_depthwise), which also writes the mean of every row of pixels of
    /// its output to `means` (`[n, oh]` rows of `c_out`): averages over the map need not read it again then.
    ///
    /// # Errors
    ///
    /// As [`PackedConv::run`], and if it is no depthwise convolution or `means` has another length.
    pub fn run_with_means(
        &self,
        n: usize,
        x: Matrix<'_>,
        y: MatrixMut<'_>,
        means: &mut [f32],
        epilogue: &Epilogue<'_>,
    ) -> Result<(), KernelError> {
        if !self.is_depthwise() {
            return Err(KernelError::Shape {
                what: "convolution",
                why: format!("{:?} gives no means of its rows", self.shape),
            });
        }
        let mut pass = self.operands(n, x, y, epilogue)?;
        let rows = elements([n, pass.output[0], pass.c_out]);
        expect_len("means of rows", means.len(), rows)?;
        pass.post.row_means = means.as_mut_ptr();
        // SAFETY: as for `run`; there is a mean for every row and channel.
        unsafe { self.run_pass(&pass, &mut Scratch::new()) };
        Ok(())
    }

    /// Runs a pass.
    ///
    /// # Safety
    ///
    /// Input, output and post must cover its images.
    pub(super) unsafe fn run_pass(&self, pass: &winograd::Pass<'_>, scratch: &mut Scratch) {
        let winograd::Pass {
            n,
            x,
            input,
            output,
            c_in,
            y,
            post,
            ..
        } = *pass;
        if n == 0 {
            return;
        }
        let (shape, weights) = (&self.shape, &self.weights);
        // SAFETY: the caller's promise.
        unsafe {
            match self.algorithm {
                Algorithm::Indirect | Algorithm::KernelRows => {
                    let scratch = &mut scratch.a;
                    (weights.indirect).run(shape, n, x, input, output, y, post, scratch);
                }
                Algorithm::WinogradF2 | Algorithm::WinogradF4 => {
                    (weights.winograd).run(pass, [&mut scratch.a, &mut scratch.b]);
                }
                Algorithm::Depthwise => {
                    (weights.depthwise).run(n, c_in, x, input, output, y, post);
                }
                Algorithm::Narrow => weights.narrow.run(n, x, input, output, y, post),
            }
        }
    }

    /// Checks what a run reads and writes.
    pub(super) fn operands<'a>(
        &self,
        n: usize,
        x: Matrix<'a>,
        y: MatrixMut<'_>,
        epilogue: &Epilogue<'_>,
    ) -> Result<winograd::Pass<'a>, KernelError> {
        let shape = &self.shape;
        let whole = [shape.h, shape.w];
        let (input, output, c_in, c_out) = match self.pass {
            Pass::Forward => (whole, self.output, shape.c_in, shape.c_out),
            Pass::InputGradient => (self.output, whole, shape.c_out, shape.c_in),
        };
        let rows = elements([n, output[0], output[1]]);
        x.check("convolution input", elements([n, input[0], input[1]]), c_in)?;
        y.check("convolution output", rows, c_out)?;
        epilogue.check(rows, c_out)?;
        let [top, left, ..] = shape.padding;
        let padding = match self.pass {
            Pass::Forward => [top, left],
            Pass::InputGradient => [2usize.wrapping_sub(top), 2usize.wrapping_sub(left)],
        };
        Ok(winograd::Pass {
            n,
            x,
            input,
            output,
            padding,
            c_in,
            c_out,
            y: Output {
                data: y.data.as_mut_ptr(),
                ld: y.ld,
            },
            post: epilogue.raw(),
        })
    }

    /// Whether it is the forward pass of a depthwise convolution by the kernel for those.
    pub fn is_depthwise(&self) -> bool {
        self.pass == Pass::Forward && self.algorithm == Algorithm::Depthwise
    }

    /// Whether [`PackedConv::run_gated`] serves this convolution: forward, 1 x 1, one group.
    pub fn takes_gate(&self) -> bool {
        let pointwise = self.shape.is_pointwise() && self.shape.groups == 1;
        self.pass == Pass::Forward && self.algorithm == Algorithm::Indirect && pointwise
    }

    /// As [`PackedConv::run`] over `x` times `gate`, `n` rows of a factor per input channel (squeeze-and-excitation).
    ///
    /// The product of both is never written out: every thread multiplies the weights where pixels are many, else the rows that it reads.
    ///
    /// # Errors
    ///
    /// If a slice is too short or a row stride too small, or if the convolution takes no gate.
    pub fn run_gated(
        &self,
        n: usize,
        x: Matrix<'_>,
        gate: &[f32],
        y: MatrixMut<'_>,
        epilogue: &Epilogue<'_>,
    ) -> Result<(), KernelError> {
        let Conv2d {
            h, w, c_in, c_out, ..
        } = self.shape;
        if !self.takes_gate() {
            return Err(KernelError::Shape {
                what: "convolution",
                why: format!("{:?} takes no gate", self.shape),
            });
        }
        let rows = elements([n, h, w]);
        x.check("convolution input", rows, c_in)?;
        y.check("convolution output", rows, c_out)?;
        expect_len("gate", gate.len(), elements([n, c_in]))?;
        epilogue.check(rows, c_out)?;
        let y = Output {
            data: y.data.as_mut_ptr(),
            ld: y.ld,
        };
        // SAFETY: the checks above cover every pixel and channel of input, gate, output and epilogue.
        unsafe {
            let (indirect, post) = (&self.weights.indirect, epilogue.raw());
            indirect.run_gated(n, h * w, x, gate, y, post);
        }
        Ok(())
    }
}
