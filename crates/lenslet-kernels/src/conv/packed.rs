//! Weights in the form that an algorithm reads, and the call that runs it.

use super::depthwise::Depthwise;
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
///
/// Packing again (in training, after every step) reuses the memory.
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
#[derive(Debug)]
pub(super) struct Weights {
    pub indirect: Indirect,
    winograd: Winograd,
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
        let mut packed = PackedConv {
            shape: *shape,
            output: [0; 2],
            pass,
            algorithm,
            weights: Weights {
                indirect: Indirect::default(),
                winograd: Winograd::new(),
                depthwise: Depthwise::new(),
                narrow: Narrow::default(),
            },
        };
        packed.repack_as(shape, pass, algorithm, weight)?;
        Ok(packed)
    }

    /// Packs the weights of another convolution, into the memory that is there.
    ///
    /// # Errors
    ///
    /// As [`PackedConv::with_algorithm`].
    pub fn repack_as(
        &mut self,
        shape: &Conv2d,
        pass: Pass,
        algorithm: Algorithm,
        weight: &[f32],
    ) -> Result<(), KernelError> {
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
        (self.shape, self.output) = (*shape, output);
        (self.pass, self.algorithm) = (pass, algorithm);
        self.repack(weight)
    }

    /// Packs other weights for the same convolution, into the memory that is there.
    ///
    /// # Errors
    ///
    /// If the weight has another length than the shape says.
    pub fn repack(&mut self, weight: &[f32]) -> Result<(), KernelError> {
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
            Algorithm::WinogradF2 => winograd.pack(Size::F2, shape, weight, forward),
            Algorithm::WinogradF4 => winograd.pack(Size::F4, shape, weight, forward),
            Algorithm::Depthwise => depthwise.pack(shape, self.output, self.pass, weight),
            Algorithm::Narrow => narrow.pack(shape, self.pass, weight),
        }
        Ok(())
    }

    /// As [`Conv2d::weight_gradient`] of any convolution, partly in the memory of these weights, which have to be packed again before
    /// they can be run: a step packs weights for every pass, and the gradients of Winograd's transformed weights are as large.
    ///
    /// # Errors
    ///
    /// As [`Conv2d::weight_gradient`].
    pub fn weight_gradient_in_place(
        &mut self,
        shape: &Conv2d,
        x: Matrix<'_>,
        dy: Matrix<'_>,
        dw: &mut [f32],
        scratch: &mut Scratch,
    ) -> Result<(), KernelError> {
        let winograd = &mut self.weights.winograd;
        winograd.trade(&mut scratch.b);
        let result = shape.weight_gradient(x, dy, dw, scratch);
        winograd.trade(&mut scratch.b);
        result
    }

    /// Gives back the memory that only packing again would use.
    pub fn settle(&mut self) {
        self.weights.winograd.settle();
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
        if n == 0 {
            return Ok(());
        }
        let y = Output {
            data: y.data.as_mut_ptr(),
            ld: y.ld,
        };
        let post = epilogue.raw();
        let weights = &self.weights;
        match self.algorithm {
            // SAFETY: the checks above cover every pixel and channel of input, output and epilogue.
            Algorithm::Indirect | Algorithm::KernelRows => unsafe {
                let scratch = &mut scratch.a;
                (weights.indirect).run(shape, n, x, input, output, y, post, scratch);
            },
            Algorithm::WinogradF2 | Algorithm::WinogradF4 => {
                let [top, left, ..] = shape.padding;
                let padding = match self.pass {
                    Pass::Forward => [top, left],
                    Pass::InputGradient => [2 - top, 2 - left],
                };
                let pass = winograd::Pass {
                    n,
                    x,
                    input,
                    output,
                    padding,
                    c_in,
                    c_out,
                    y,
                    post,
                };
                // SAFETY: as above.
                unsafe { (weights.winograd).run(&pass, [&mut scratch.a, &mut scratch.b]) };
            }
            // SAFETY: as above.
            Algorithm::Depthwise => unsafe {
                (weights.depthwise).run(n, c_in, x, input, output, y, post);
            },
            // SAFETY: as above.
            Algorithm::Narrow => unsafe { weights.narrow.run(n, x, input, output, y, post) },
        }
        Ok(())
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
