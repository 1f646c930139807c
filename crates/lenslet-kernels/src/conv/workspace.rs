//! Convolutions whose weights serve one run, as in training.

use super::few_tiles::{self, are_few};
use super::filters::Filters;
use super::packed::{PackedConv, Weights};
use super::winograd::Size;
use super::{Algorithm, Conv2d, Pass};
use crate::buffer::Scratch;
use crate::epilogue::Epilogue;
use crate::error::{KernelError, expect_len};
use crate::matrix::{Matrix, MatrixMut};

/// Memory that one convolution of a training step leaves for the next: give the same one to call after call.
#[derive(Debug, Default)]
pub struct ConvWorkspace {
    weights: Weights,
    scratch: Scratch,
}

impl ConvWorkspace {
    /// Without any memory yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// As [`PackedConv::run`] over the shape's images with `weight`, by the algorithm that [`Algorithm::choose_repacked`] names.
    ///
    /// # Errors
    ///
    /// As [`PackedConv::new`] and [`PackedConv::run`].
    pub fn run(
        &mut self,
        shape: &Conv2d,
        pass: Pass,
        weight: &[f32],
        x: Matrix<'_>,
        y: MatrixMut<'_>,
        epilogue: &Epilogue<'_>,
    ) -> Result<(), KernelError> {
        let algorithm = Algorithm::choose_repacked(shape, pass);
        self.run_by(algorithm, (shape, pass), weight, x, y, epilogue)
    }

    /// As [`ConvWorkspace::run`], with a given algorithm.
    ///
    /// # Errors
    ///
    /// Also if the algorithm does not serve the shape.
    pub fn run_by(
        &mut self,
        algorithm: Algorithm,
        (shape, pass): (&Conv2d, Pass),
        weight: &[f32],
        x: Matrix<'_>,
        y: MatrixMut<'_>,
        epilogue: &Epilogue<'_>,
    ) -> Result<(), KernelError> {
        let memory = std::mem::take(&mut self.weights);
        let mut conv = PackedConv::unpacked(shape, pass, algorithm, memory)?;
        let size = match algorithm {
            Algorithm::WinogradF2 => Some(Size::F2),
            Algorithm::WinogradF4 => Some(Size::F4),
            _ => None,
        };
        let operands = conv.operands(shape.n, x, y, epilogue)?;
        let few = |size: &Size| are_few(*size, shape.n, operands.output, operands.c_out);
        if let Some(size) = size.filter(few) {
            expect_len("convolution weight", weight.len(), shape.weight_len())?;
            let filters = Filters::new(shape, weight, pass == Pass::Forward);
            // SAFETY: `operands` checked every pixel and channel.
            unsafe { few_tiles::run(size, &filters, &operands, &mut self.scratch.a) };
        } else {
            conv.pack(weight)?;
            // SAFETY: as above.
            unsafe { conv.run_pass(&operands, &mut self.scratch) };
        }
        self.weights = conv.weights;
        Ok(())
    }

    /// As [`Conv2d::weight_gradient`].
    ///
    /// # Errors
    ///
    /// As [`Conv2d::weight_gradient`].
    pub fn weight_gradient(
        &mut self,
        shape: &Conv2d,
        x: Matrix<'_>,
        dy: Matrix<'_>,
        dw: &mut [f32],
    ) -> Result<(), KernelError> {
        let algorithm = Algorithm::choose_weight_gradient(shape);
        self.weight_gradient_by(algorithm, shape, x, dy, dw)
    }

    /// As [`Conv2d::weight_gradient_by`].
    ///
    /// # Errors
    ///
    /// As [`Conv2d::weight_gradient_by`].
    pub fn weight_gradient_by(
        &mut self,
        algorithm: Algorithm,
        shape: &Conv2d,
        x: Matrix<'_>,
        dy: Matrix<'_>,
        dw: &mut [f32],
    ) -> Result<(), KernelError> {
        // The sums of transformed weights' gradients are as large as those weights, which nobody needs any more.
        let winograd = &mut self.weights.winograd;
        winograd.trade(&mut self.scratch.b);
        let result = shape.weight_gradient_by(algorithm, x, dy, dw, &mut self.scratch);
        winograd.trade(&mut self.scratch.b);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::moments::Moments;
    use crate::pool::set_num_threads;
    use crate::testing::{poisoned, random, with_each_isa};

    #[test]
    fn one_convolution_after_the_other() {
        let shape = Conv2d::new([2, 14, 14, 32], 48, [3, 3]).padding(1);
        let [x, weight] = [2 * 14 * 14 * 32, shape.weight_len()].map(|len| random(len, 3));
        let dy = random(2 * 14 * 14 * 48, 4);
        let (x, dy) = (Matrix::new(&x, 32), Matrix::new(&dy, 48));
        let forward = |workspace: &mut ConvWorkspace, algorithm, weight: &[f32]| {
            let mut y = poisoned(2 * 14 * 14 * 48);
            let (to, call) = (MatrixMut::new(&mut y, 48), (&shape, Pass::Forward));
            let done = workspace.run_by(algorithm, call, weight, x, to, &Epilogue::NONE);
            done.map(|()| y)
        };
        let both = [Algorithm::WinogradF4, Algorithm::Indirect];
        let run = |workspace: &mut ConvWorkspace| {
            both.map(|algorithm| {
                let y = forward(workspace, algorithm, &weight).unwrap();
                let mut dw = poisoned(weight.len());
                workspace.weight_gradient(&shape, x, dy, &mut dw).unwrap();
                (y, dw)
            })
        };
        with_each_isa(|_| {
            let mut workspace = ConvWorkspace::new();
            let first = run(&mut workspace);
            assert!(run(&mut workspace) == first, "another result");
            for algorithm in both {
                let refused = forward(&mut workspace, algorithm, &weight[1..]);
                assert!(refused.is_err(), "a weight is missing");
            }
            let again = run(&mut workspace);
            assert!(again == first, "another result after an error");
        });
    }

    #[test]
    fn few_tiles_by_any_number_of_threads() {
        let shape = Conv2d::new([2, 7, 7, 70], 300, [3, 3]).padding(1);
        let (x, weight) = (random(2 * 49 * 70, 1), random(shape.weight_len(), 2));
        let run = |algorithm| {
            let (mut y, moments) = (poisoned(2 * 49 * 300), Moments::new());
            let epilogue = Epilogue {
                moments: Some(&moments),
                ..Epilogue::NONE
            };
            let (x, to) = (Matrix::new(&x, 70), MatrixMut::new(&mut y, 300));
            let call = (&shape, Pass::Forward);
            let done = ConvWorkspace::new().run_by(algorithm, call, &weight, x, to, &epilogue);
            done.unwrap();
            (y, moments.finish(300).unwrap())
        };
        with_each_isa(|_| {
            for (size, algorithm) in [
                (Size::F2, Algorithm::WinogradF2),
                (Size::F4, Algorithm::WinogradF4),
            ] {
                assert!(are_few(size, 2, [7, 7], 300));
                set_num_threads(1);
                let one = run(algorithm);
                for threads in [2, 5] {
                    set_num_threads(threads);
                    assert!(run(algorithm) == one, "{algorithm:?}, {threads} threads");
                }
                set_num_threads(0);
            }
        });
    }
}
