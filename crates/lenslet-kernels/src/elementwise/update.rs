//! What an optimiser does with parameters and gradients, each in one pass.

use crate::columns::{ColumnMap, ColumnTerms, Layout, channel_sums, map_columns};
use crate::error::{KernelError, expect_len};
use crate::inout::{In, InOut, Out};
use crate::simd::Simd;

/// The sum of the squares, in f64 over blocks of a fixed size; add up several buffers and take the root for a gradient norm.
pub fn sum_of_squares(x: &[f32]) -> f64 {
    // SAFETY: `x` has the layout's elements; the terms have no parameters.
    let sums = unsafe { channel_sums(&Layout::flat(x.len()), 1, &Squares(In::new(x))) };
    sums[0][0]
}

struct Squares(In);

impl ColumnTerms for Squares {
    type Params<S: Simd> = ();

    #[inline(always)]
    unsafe fn params<S: Simd, const PARTIAL: bool>(&self, _: S, _: usize, _: usize, _: usize) {}

    #[inline(always)]
    unsafe fn terms<S: Simd, const PARTIAL: bool>(
        &self,
        s: S,
        (): (),
        at: usize,
        n: usize,
    ) -> [S::V; 2] {
        // SAFETY: the caller's promise.
        let x = unsafe { self.0.get::<S, PARTIAL>(s, at, n) };
        [s.mul(x, x), s.zero()]
    }
}

/// y = a * x + b * y.
struct Combine {
    x: In,
    y: In,
    out: Out,
    a: f32,
    b: f32,
}

impl ColumnMap for Combine {
    type Params<S: Simd> = ();

    #[inline(always)]
    unsafe fn params<S: Simd, const PARTIAL: bool>(&self, _: S, _: usize, _: usize) {}

    #[inline(always)]
    unsafe fn apply<S: Simd, const PARTIAL: bool>(&self, s: S, (): (), at: usize, n: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut y = s.mul(self.y.get::<S, PARTIAL>(s, at, n), s.splat(self.b));
            if self.x.is_some() {
                y = s.mul_add(self.x.get::<S, PARTIAL>(s, at, n), s.splat(self.a), y);
            }
            self.out.put::<S, PARTIAL>(s, at, n, y);
        }
    }
}

/// y = a * x + y.
///
/// # Errors
///
/// If the slices have different lengths.
pub fn add_scaled(a: f32, x: &[f32], y: &mut [f32]) -> Result<(), KernelError> {
    let len = y.len();
    expect_len("summand", x.len(), len)?;
    let (y, out) = InOut::InPlace(y).check("sum", len)?;
    let x = In::new(x);
    // SAFETY: both have `len` elements.
    unsafe {
        map_columns(
            &Layout::flat(len),
            &Combine {
                x,
                y,
                out,
                a,
                b: 1.0,
            },
        )
    };
    Ok(())
}

/// y = b * y.
pub fn scale_in_place(b: f32, y: &mut [f32]) {
    let layout = Layout::flat(y.len());
    let data = y.as_mut_ptr();
    let map = Combine {
        x: In::optional(None),
        y: In::at(data),
        out: Out::at(data),
        a: 0.0,
        b,
    };
    // SAFETY: `y` has the layout's elements.
    unsafe { map_columns(&layout, &map) };
}

/// Adam with decoupled weight decay (Loshchilov and Hutter 2019), with the parameters and the formula of
/// `torch.optim.AdamW`.
#[derive(Clone, Copy, Debug)]
pub struct AdamW {
    /// Learning rate.
    pub lr: f64,
    /// Decay rates of the two moments.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Weight decay per step, times the learning rate.
    pub weight_decay: f64,
}

impl AdamW {
    /// Step number `step` (the first is 1) of `param` with the moments `m` and `v`. The gradient is multiplied by
    /// `grad_scale` as it is read (for clipping, or for the mean over accumulated batches).
    ///
    /// # Errors
    ///
    /// If the slices have different lengths.
    pub fn step(
        &self,
        step: u64,
        grad_scale: f32,
        param: &mut [f32],
        grad: &[f32],
        m: &mut [f32],
        v: &mut [f32],
    ) -> Result<(), KernelError> {
        let len = param.len();
        expect_len("gradient", grad.len(), len)?;
        let (param, param_out) = InOut::InPlace(param).check("parameter", len)?;
        let (m, m_out) = InOut::InPlace(m).check("first moment", len)?;
        let (v, v_out) = InOut::InPlace(v).check("second moment", len)?;
        let [b1, b2] = self.betas;
        let correction = |beta: f64| 1.0 - beta.powf(step as f64);
        let map = AdamMap {
            buffers: [(param, param_out), (m, m_out), (v, v_out)],
            grad: In::new(grad),
            grad_scale,
            decay: (1.0 - self.lr * self.weight_decay) as f32,
            betas: [b1 as f32, b2 as f32],
            rest: [(1.0 - b1) as f32, (1.0 - b2) as f32],
            rate: (self.lr / correction(b1)) as f32,
            root: (1.0 / correction(b2).sqrt()) as f32,
            eps: self.eps as f32,
        };
        // SAFETY: all buffers have `len` elements.
        unsafe { map_columns(&Layout::flat(len), &map) };
        Ok(())
    }
}

struct AdamMap {
    /// Parameter and moments.
    buffers: [(In, Out); 3],
    grad: In,
    grad_scale: f32,
    decay: f32,
    betas: [f32; 2],
    rest: [f32; 2],
    rate: f32,
    root: f32,
    eps: f32,
}

impl ColumnMap for AdamMap {
    type Params<S: Simd> = ();

    #[inline(always)]
    unsafe fn params<S: Simd, const PARTIAL: bool>(&self, _: S, _: usize, _: usize) {}

    #[inline(always)]
    unsafe fn apply<S: Simd, const PARTIAL: bool>(&self, s: S, (): (), at: usize, n: usize) {
        let [param, m, v] = self.buffers;
        // SAFETY: the caller's promise.
        unsafe {
            let grad = self.grad.get::<S, PARTIAL>(s, at, n);
            let grad = s.mul(grad, s.splat(self.grad_scale));
            let old = s.mul(m.0.get::<S, PARTIAL>(s, at, n), s.splat(self.betas[0]));
            let first = s.mul_add(grad, s.splat(self.rest[0]), old);
            let old = s.mul(v.0.get::<S, PARTIAL>(s, at, n), s.splat(self.betas[1]));
            let second = s.mul_add(s.mul(grad, grad), s.splat(self.rest[1]), old);
            let root = s.mul_add(s.sqrt(second), s.splat(self.root), s.splat(self.eps));
            let change = s.mul(s.splat(self.rate), s.div(first, root));
            let kept = s.mul(param.0.get::<S, PARTIAL>(s, at, n), s.splat(self.decay));
            param.1.put::<S, PARTIAL>(s, at, n, s.sub(kept, change));
            m.1.put::<S, PARTIAL>(s, at, n, first);
            v.1.put::<S, PARTIAL>(s, at, n, second);
        }
    }
}

/// Stochastic gradient descent with momentum, with the parameters and the formula of `torch.optim.SGD`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sgd {
    /// Learning rate.
    pub lr: f32,
    /// Share of the last change that is kept.
    pub momentum: f32,
    /// Share of the gradient that is left out of the momentum, except at the first step.
    pub dampening: f32,
    /// Added to the gradient, times the parameter.
    pub weight_decay: f32,
    /// Whether to look ahead along the momentum.
    pub nesterov: bool,
}

impl Sgd {
    /// Step number `step` (the first is 1) of `param`. `velocity` is needed where there is momentum; its contents do not matter
    /// at the first step. The gradient is multiplied by `grad_scale` as it is read.
    ///
    /// # Errors
    ///
    /// If the slices have different lengths or there is momentum without a velocity.
    pub fn step(
        &self,
        step: u64,
        grad_scale: f32,
        param: &mut [f32],
        grad: &[f32],
        velocity: Option<&mut [f32]>,
    ) -> Result<(), KernelError> {
        let len = param.len();
        expect_len("gradient", grad.len(), len)?;
        let (param, param_out) = InOut::InPlace(param).check("parameter", len)?;
        let velocity = match velocity {
            Some(velocity) if self.momentum != 0.0 => {
                Some(InOut::InPlace(velocity).check("velocity", len)?)
            }
            None if self.momentum != 0.0 => {
                return Err(KernelError::Length {
                    what: "velocity",
                    expected: len,
                    found: 0,
                });
            }
            _ => None,
        };
        let map = SgdMap {
            sgd: *self,
            first: step <= 1,
            grad_scale,
            param,
            param_out,
            grad: In::new(grad),
            velocity: velocity.map_or(In::optional(None), |v| v.0),
            velocity_out: velocity.map_or(Out::optional(None), |v| v.1),
        };
        // SAFETY: all buffers have `len` elements.
        unsafe { map_columns(&Layout::flat(len), &map) };
        Ok(())
    }
}

struct SgdMap {
    sgd: Sgd,
    first: bool,
    grad_scale: f32,
    param: In,
    param_out: Out,
    grad: In,
    velocity: In,
    velocity_out: Out,
}

impl ColumnMap for SgdMap {
    type Params<S: Simd> = ();

    #[inline(always)]
    unsafe fn params<S: Simd, const PARTIAL: bool>(&self, _: S, _: usize, _: usize) {}

    #[inline(always)]
    unsafe fn apply<S: Simd, const PARTIAL: bool>(&self, s: S, (): (), at: usize, n: usize) {
        let sgd = &self.sgd;
        // SAFETY: the caller's promise.
        unsafe {
            let param = self.param.get::<S, PARTIAL>(s, at, n);
            let grad = self.grad.get::<S, PARTIAL>(s, at, n);
            let grad = s.mul(grad, s.splat(self.grad_scale));
            let mut change = s.mul_add(param, s.splat(sgd.weight_decay), grad);
            if self.velocity.is_some() {
                let velocity = if self.first {
                    change
                } else {
                    let old = self.velocity.get::<S, PARTIAL>(s, at, n);
                    let part = s.mul(change, s.splat(1.0 - sgd.dampening));
                    s.mul_add(old, s.splat(sgd.momentum), part)
                };
                self.velocity_out.put::<S, PARTIAL>(s, at, n, velocity);
                change = if sgd.nesterov {
                    s.mul_add(velocity, s.splat(sgd.momentum), change)
                } else {
                    velocity
                };
            }
            let next = s.neg_mul_add(change, s.splat(sgd.lr), param);
            self.param_out.put::<S, PARTIAL>(s, at, n, next);
        }
    }
}
