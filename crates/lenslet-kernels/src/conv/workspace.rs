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
        let operands = conv.operands(shape.n, x, MatrixMut::new(&mut *y.data, y.ld), epilogue)?;
        let once = |size: &Size| are_few(*size, shape.n, operands.output, operands.c_out);
        if let Some(size) = size.filter(once) {
            expect_len("convolution weight", weight.len(), shape.weight_len())?;
            let filters = Filters::new(shape, weight, pass == Pass::Forward);
            // SAFETY: `operands` checked every pixel and channel.
            unsafe { few_tiles::run(size, &filters, &operands, &mut self.scratch.a) };
        } else {
            conv.pack(weight)?;
            conv.run(shape.n, x, y, &mut self.scratch, epilogue)?;
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
