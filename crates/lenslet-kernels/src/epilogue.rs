//! What happens to a product before it is written: scale, bias, residual addition, activation.

use crate::error::{KernelError, expect_len};
use crate::moments::Moments;
use crate::simd::{Kernel, Simd, dispatch};
use crate::vmath;

/// An element-wise function.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Activation {
    /// x
    #[default]
    None,
    /// max(x, 0)
    Relu,
    /// min(max(x, 0), 6)
    Relu6,
    /// x where positive, else this slope times x
    LeakyRelu(f32),
    /// x / (1 + e^-x)
    Silu,
    /// x relu6(x + 3) / 6
    HardSwish,
    /// relu6(x + 3) / 6
    HardSigmoid,
    /// 1 / (1 + e^-x)
    Sigmoid,
    /// tanh x
    Tanh,
    /// x Phi(x), with the error function
    Gelu,
    /// the tanh approximation of GELU
    GeluTanh,
}

impl Activation {
    /// Applies the function to a vector.
    #[inline(always)]
    pub fn apply<S: Simd>(self, s: S, x: S::V) -> S::V {
        match self {
            Activation::None => x,
            Activation::Relu => s.max(s.zero(), x),
            Activation::Relu6 => s.min(s.splat(6.0), s.max(s.zero(), x)),
            Activation::LeakyRelu(slope) => {
                s.select(s.lt(x, s.zero()), s.mul(x, s.splat(slope)), x)
            }
            Activation::Silu => vmath::silu(s, x),
            Activation::HardSwish => vmath::hard_swish(s, x),
            Activation::HardSigmoid => vmath::hard_sigmoid(s, x),
            Activation::Sigmoid => vmath::sigmoid(s, x),
            Activation::Tanh => vmath::tanh(s, x),
            Activation::Gelu => vmath::gelu(s, x),
            Activation::GeluTanh => vmath::gelu_tanh(s, x),
        }
    }

    /// Applies the function to every vector of an array, which is faster than one by one for the functions that are long.
    #[inline(always)]
    pub fn apply_all<S: Simd, const N: usize>(self, s: S, x: [S::V; N]) -> [S::V; N] {
        match self {
            Activation::Silu => vmath::silus(s, x),
            Activation::Sigmoid => vmath::sigmoids(s, x),
            Activation::Gelu => vmath::gelus(s, x),
            other => {
                let mut y = x;
                for i in 0..N {
                    y[i] = other.apply(s, x[i]);
                }
                y
            }
        }
    }

    /// Applies the function to every element of a slice, on the calling thread.
    pub fn apply_slice(self, x: &mut [f32]) {
        dispatch(ApplySlice(self, x));
    }

    /// The bounds of a clamp, for those functions that are one.
    pub(crate) fn clamp(self) -> Option<(f32, f32)> {
        match self {
            Activation::None => Some((f32::NEG_INFINITY, f32::INFINITY)),
            Activation::Relu => Some((0.0, f32::INFINITY)),
            Activation::Relu6 => Some((0.0, 6.0)),
            _ => None,
        }
    }
}

/// A function of every element of a slice.
pub(crate) struct ApplySlice<'a>(pub Activation, pub &'a mut [f32]);

impl Kernel for ApplySlice<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for part in self.1.chunks_mut(S::LANES) {
            let x = s.load_slice(part);
            s.store_slice(part, self.0.apply(s, x));
        }
    }
}

/// Where a residual is added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResidualPosition {
    /// y = act(product + residual), as in ResNet.
    BeforeActivation,
    /// y = act(product) + residual, as in a pre-activation network.
    AfterActivation,
}

/// A tensor of the output's shape that is added to the output.
#[derive(Clone, Copy, Debug)]
pub struct Residual<'a> {
    /// Its elements; row `r`, column `c` is element `r * ld + c`.
    pub data: &'a [f32],
    /// Floats from one row (pixel) to the next.
    pub ld: usize,
    /// Before or after the activation.
    pub position: ResidualPosition,
}

/// y = act(scale * product + bias + residual), or with the residual after the activation.
///
/// `scale` and `bias` have one value per output channel.
#[derive(Clone, Copy, Debug, Default)]
pub struct Epilogue<'a> {
    /// Factor per output channel (a folded batch norm).
    pub scale: Option<&'a [f32]>,
    /// Summand per output channel.
    pub bias: Option<&'a [f32]>,
    /// Tensor to add.
    pub residual: Option<Residual<'a>>,
    /// Function to apply.
    pub activation: Activation,
    /// What notes mean and variance of every channel of the finished output.
    pub moments: Option<&'a Moments>,
}

impl<'a> Epilogue<'a> {
    /// The product as it is.
    pub const NONE: Epilogue<'static> = Epilogue {
        scale: None,
        bias: None,
        residual: None,
        activation: Activation::None,
        moments: None,
    };

    /// A bias and an activation.
    pub fn bias_activation(bias: Option<&'a [f32]>, activation: Activation) -> Self {
        Epilogue {
            bias,
            activation,
            ..Epilogue::NONE
        }
    }

    /// Checks the lengths against an output of `rows` x `cols`.
    pub(crate) fn check(&self, rows: usize, cols: usize) -> Result<(), KernelError> {
        if let Some(scale) = self.scale {
            expect_len("epilogue scale", scale.len(), cols)?;
        }
        if let Some(bias) = self.bias {
            expect_len("epilogue bias", bias.len(), cols)?;
        }
        if let Some(residual) = self.residual {
            crate::error::expect_rows("residual", residual.data.len(), rows, cols, residual.ld)?;
        }
        Ok(())
    }

    /// The form that tiles use.
    pub(crate) fn raw(&self) -> Post {
        let (lo, hi) = self
            .activation
            .clamp()
            .unwrap_or((f32::NEG_INFINITY, f32::INFINITY));
        let after = self
            .residual
            .is_some_and(|r| r.position == ResidualPosition::AfterActivation);
        // A residual after "no activation" is the same as one before it.
        let after = after && self.activation != Activation::None;
        let in_tile = self.activation.clamp().is_some() && !after;
        Post {
            scale: self.scale.map_or(std::ptr::null(), <[f32]>::as_ptr),
            bias: self.bias.map_or(std::ptr::null(), <[f32]>::as_ptr),
            residual: self.residual.map_or(std::ptr::null(), |r| r.data.as_ptr()),
            ld_residual: self.residual.map_or(0, |r| r.ld),
            lo: if in_tile { lo } else { f32::NEG_INFINITY },
            hi: if in_tile { hi } else { f32::INFINITY },
            late: if in_tile {
                Activation::None
            } else {
                self.activation
            },
            residual_late: after,
            moments: self.moments.map_or(std::ptr::null(), std::ptr::from_ref),
            row_means: std::ptr::null_mut(),
        }
    }
}

/// Loads a vector, of which the first `n` lanes count if `PARTIAL`.
///
/// # Safety
///
/// `p` must be readable for `n` floats, or for a vector where not partial.
#[inline(always)]
pub(crate) unsafe fn load<S: Simd, const PARTIAL: bool>(s: S, p: *const f32, n: usize) -> S::V {
    // SAFETY: the caller's promise.
    unsafe { if PARTIAL { s.load_n(p, n) } else { s.load(p) } }
}

/// An [`Epilogue`] whose slices are checked, as pointers (null for "none").
#[derive(Clone, Copy)]
pub(crate) struct Post {
    pub scale: *const f32,
    pub bias: *const f32,
    pub residual: *const f32,
    pub ld_residual: usize,
    /// Bounds applied in registers.
    pub lo: f32,
    pub hi: f32,
    /// What is applied in a second pass over a tile that is still in the first cache level.
    pub late: Activation,
    pub residual_late: bool,
    pub moments: *const Moments,
    /// Where a depthwise convolution writes the means of its output's rows of pixels, channel by channel, if anywhere.
    pub row_means: *mut f32,
}

// SAFETY: the pointers come from slices that outlive the job; they are only read, but for the means, of which chunks write their own.
unsafe impl Send for Post {}
// SAFETY: as above.
unsafe impl Sync for Post {}

impl Post {
    /// The same for an output that begins with column `col`.
    pub fn columns_from(&self, col: usize) -> Self {
        let moved = |at: *const f32| match at.is_null() {
            true => at,
            false => at.wrapping_add(col),
        };
        Post {
            scale: moved(self.scale),
            bias: moved(self.bias),
            residual: moved(self.residual),
            row_means: moved(self.row_means).cast_mut(),
            ..*self
        }
    }

    /// Where the output's moments go, if anywhere.
    ///
    /// # Safety
    ///
    /// The epilogue that this was made of must be alive.
    pub unsafe fn moments(&self) -> Option<&Moments> {
        // SAFETY: null, or a reference that the epilogue holds.
        unsafe { self.moments.as_ref() }
    }

    /// Applies everything to `n` columns from `col` of output row `row`; all lanes count unless `PARTIAL`.
    ///
    /// # Safety
    ///
    /// The pointers must be valid for this row and these columns.
    #[inline(always)]
    pub unsafe fn apply<S: Simd, const PARTIAL: bool>(
        &self,
        s: S,
        x: S::V,
        row: usize,
        col: usize,
        n: usize,
    ) -> S::V {
        // SAFETY: the caller's promise.
        unsafe {
            let mut x = self.apply_early::<S, PARTIAL>(s, x, row, col, n);
            if self.late != Activation::None {
                x = self.late.apply(s, x);
            }
            if !self.residual.is_null() && self.residual_late {
                let residual = self.residual.wrapping_add(row * self.ld_residual + col);
                x = s.add(x, load::<S, PARTIAL>(s, residual, n));
            }
            x
        }
    }

    /// Applies all but the second pass (see [`crate::late::Late`]).
    ///
    /// # Safety
    ///
    /// As for [`Post::apply`].
    #[inline(always)]
    pub unsafe fn apply_early<S: Simd, const PARTIAL: bool>(
        &self,
        s: S,
        x: S::V,
        row: usize,
        col: usize,
        n: usize,
    ) -> S::V {
        let mut x = x;
        // SAFETY: the caller's promise.
        unsafe {
            if !self.scale.is_null() {
                x = s.mul(x, load::<S, PARTIAL>(s, self.scale.add(col), n));
            }
            if !self.bias.is_null() {
                x = s.add(x, load::<S, PARTIAL>(s, self.bias.add(col), n));
            }
            if self.reads_residual() {
                let residual = self.residual.wrapping_add(row * self.ld_residual + col);
                x = s.add(x, load::<S, PARTIAL>(s, residual, n));
            }
            s.min(s.splat(self.hi), s.max(s.splat(self.lo), x))
        }
    }

    /// Whether a residual is added in registers.
    #[inline(always)]
    pub fn reads_residual(&self) -> bool {
        !self.residual.is_null() && !self.residual_late
    }

    pub fn has_late_pass(&self) -> bool {
        self.residual_late || self.late != Activation::None
    }
}
