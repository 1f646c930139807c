//! Activations over whole buffers, forward and backward, and the sum of two buffers with one.

use crate::columns::{ColumnMap, Layout, map_columns};
use crate::derivative::{Known, with_known};
use crate::epilogue::Activation;
use crate::error::{KernelError, expect_len};
use crate::inout::{In, InOut, Out};
use crate::simd::Simd;

/// What a backward pass takes an activation's derivative from.
#[derive(Clone, Copy, Debug)]
pub enum Saved<'a> {
    /// The activation's input.
    Input(&'a [f32]),
    /// The two summands of its input.
    Summands(&'a [f32], &'a [f32]),
    /// Its output, for the functions of which [`Activation::derivative_from_output_exists`].
    Output(&'a [f32]),
}

/// y = act(x).
///
/// # Errors
///
/// If the slices have different lengths.
pub fn activation_forward(activation: Activation, mut x_y: InOut<'_>) -> Result<(), KernelError> {
    let len = x_y.len();
    let (x, y) = x_y.check("activation input and output", len)?;
    forward(activation, len, x, In::optional(None), y);
    Ok(())
}

/// y = act(a + b).
///
/// # Errors
///
/// If the slices have different lengths.
pub fn add_forward(
    activation: Activation,
    mut a_y: InOut<'_>,
    b: &[f32],
) -> Result<(), KernelError> {
    let len = b.len();
    let (a, y) = a_y.check("first summand and output", len)?;
    forward(activation, len, a, In::new(b), y);
    Ok(())
}

fn forward(activation: Activation, len: usize, a: In, b: In, y: Out) {
    with_known!(activation, activation => run(len, &Forward { a, b, y, activation }));
}

/// dx = dy * act'. For a sum with an activation, dx is the gradient of both summands.
///
/// # Errors
///
/// If the slices have different lengths, or the derivative cannot be had from the output.
pub fn activation_backward(
    activation: Activation,
    saved: Saved<'_>,
    mut dy_dx: InOut<'_>,
) -> Result<(), KernelError> {
    let len = dy_dx.len();
    let (dy, dx) = dy_dx.check("gradients of output and input", len)?;
    let (a, b, from_output) = match saved {
        Saved::Input(x) => (x, None, false),
        Saved::Summands(a, b) => (a, Some(b), false),
        Saved::Output(y) => (y, None, true),
    };
    expect_len("saved activation", a.len(), len)?;
    expect_len("saved summand", b.map_or(len, <[f32]>::len), len)?;
    if from_output && !activation.derivative_from_output_exists() {
        return Err(KernelError::Shape {
            what: "activation",
            why: format!("the derivative of {activation:?} needs its input, not its output"),
        });
    }
    with_known!(activation, activation => {
        let map = Backward { a: In::new(a), b: In::optional(b), from_output, dy, dx, activation };
        run(len, &map);
    });
    Ok(())
}

/// Runs a map without parameters whose buffers all have `len` elements.
fn run<M: ColumnMap>(len: usize, map: &M) {
    // SAFETY: the callers in this module have checked the buffers.
    unsafe { map_columns(&Layout::flat(len), map) };
}

struct Forward<const KIND: u8> {
    a: In,
    b: In,
    y: Out,
    activation: Known<KIND>,
}

impl<const KIND: u8> ColumnMap for Forward<KIND> {
    type Params<S: Simd> = ();

    #[inline(always)]
    unsafe fn params<S: Simd, const PARTIAL: bool>(&self, _: S, _: usize, _: usize) {}

    #[inline(always)]
    unsafe fn apply<S: Simd, const PARTIAL: bool>(&self, s: S, (): (), at: usize, n: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut x = self.a.get::<S, PARTIAL>(s, at, n);
            if self.b.is_some() {
                x = s.add(x, self.b.get::<S, PARTIAL>(s, at, n));
            }
            let y = self.activation.get().apply(s, x);
            self.y.put::<S, PARTIAL>(s, at, n, y);
        }
    }
}

struct Backward<const KIND: u8> {
    a: In,
    b: In,
    from_output: bool,
    dy: In,
    dx: Out,
    activation: Known<KIND>,
}

impl<const KIND: u8> ColumnMap for Backward<KIND> {
    type Params<S: Simd> = ();

    #[inline(always)]
    unsafe fn params<S: Simd, const PARTIAL: bool>(&self, _: S, _: usize, _: usize) {}

    #[inline(always)]
    unsafe fn apply<S: Simd, const PARTIAL: bool>(&self, s: S, (): (), at: usize, n: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut x = self.a.get::<S, PARTIAL>(s, at, n);
            if self.b.is_some() {
                x = s.add(x, self.b.get::<S, PARTIAL>(s, at, n));
            }
            let dy = self.dy.get::<S, PARTIAL>(s, at, n);
            let slope = if self.from_output {
                self.activation.get().derivative_from_output(s, x)
            } else {
                self.activation.get().derivative(s, x)
            };
            self.dx.put::<S, PARTIAL>(s, at, n, s.mul(dy, slope));
        }
    }
}
