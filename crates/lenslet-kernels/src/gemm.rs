//! Matrix products: linear layers, their gradients, and batches of small products.

use std::cell::RefCell;

use crate::epilogue::Epilogue;
use crate::error::{KernelError, expect_rows};
use crate::matrix::{Matrix, MatrixMut};
use crate::outer::{Outer, Side, Span};
use crate::panels::{Packed, Panels, Source};
use crate::pool::parallel_for;
use crate::product::{MatrixRows, Output, Product};
use crate::simd::{Isa, isa};

/// How a right-hand operand of `k` x `n` lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Element (k, n) at `k * ld + n`.
    RowMajor,
    /// Element (k, n) at `n * ld + k`: the transpose is row-major, as PyTorch's linear weights `[out, in]` are.
    Transposed,
}

impl Order {
    /// How far apart the rows and the columns of a checked operand lie.
    fn strides(self, b: Matrix<'_>, k: usize, n: usize) -> Result<(usize, usize), KernelError> {
        match self {
            Order::RowMajor => {
                b.check("right-hand matrix", k, n)?;
                Ok((b.ld, 1))
            }
            Order::Transposed => {
                b.check("right-hand matrix", n, k)?;
                Ok((1, b.ld))
            }
        }
    }
}

/// A right-hand operand, packed for the kernels. Packing again reuses the memory.
#[derive(Debug)]
pub struct PackedMatrix {
    k: usize,
    n: usize,
    packed: Packed,
}

impl Default for PackedMatrix {
    fn default() -> Self {
        Self::empty()
    }
}

impl PackedMatrix {
    /// An operand of 0 x 0, to be packed later.
    pub fn empty() -> Self {
        PackedMatrix {
            k: 0,
            n: 0,
            packed: Packed::empty(),
        }
    }

    /// Packs `b`, a matrix of `k` x `n`.
    ///
    /// # Errors
    ///
    /// If `b` is too short or its row stride too small.
    pub fn new(b: Matrix<'_>, order: Order, k: usize, n: usize) -> Result<Self, KernelError> {
        let mut packed = Self::empty();
        packed.pack(b, order, k, n)?;
        Ok(packed)
    }

    /// As [`PackedMatrix::new`], into memory that is already there.
    ///
    /// # Errors
    ///
    /// If `b` is too short or its row stride too small.
    pub fn pack(
        &mut self,
        b: Matrix<'_>,
        order: Order,
        k: usize,
        n: usize,
    ) -> Result<(), KernelError> {
        let (channel_stride, col_stride) = order.strides(b, k, n)?;
        self.k = k;
        self.n = n;
        self.packed.repack(n, 1, |_| Source {
            data: b.data,
            taps: &[0],
            tap_stride: 0,
            channels: k,
            channel_stride,
            col_stride,
        });
        Ok(())
    }

    /// Rows (the length of the reduction) and columns.
    pub fn shape(&self) -> [usize; 2] {
        [self.k, self.n]
    }

    /// The instruction set it is packed for.
    pub fn isa(&self) -> Isa {
        self.packed.panels.isa
    }

    /// c = epilogue(a b), with `rows` x `k` elements in `a` and `rows` x `n` in `c`.
    ///
    /// With few rows this is a matrix-vector product that streams `b` once through all threads.
    ///
    /// # Errors
    ///
    /// If a slice is too short or a row stride too small.
    pub fn multiply(
        &self,
        rows: usize,
        a: Matrix<'_>,
        c: MatrixMut<'_>,
        epilogue: &Epilogue<'_>,
    ) -> Result<(), KernelError> {
        self.run(rows, a, c, epilogue, false)
    }

    /// c = c + a b.
    ///
    /// # Errors
    ///
    /// If a slice is too short or a row stride too small.
    pub fn multiply_add(
        &self,
        rows: usize,
        a: Matrix<'_>,
        c: MatrixMut<'_>,
    ) -> Result<(), KernelError> {
        self.run(rows, a, c, &Epilogue::NONE, true)
    }

    fn run(
        &self,
        rows: usize,
        a: Matrix<'_>,
        c: MatrixMut<'_>,
        epilogue: &Epilogue<'_>,
        accumulate: bool,
    ) -> Result<(), KernelError> {
        c.check("output matrix", rows, self.n)?;
        epilogue.check(rows, self.n)?;
        let output = Output {
            data: c.data.as_mut_ptr(),
            ld: c.ld,
        };
        // SAFETY: the checks above cover every row and column that is written, and the epilogue's.
        unsafe { self.run_to(rows, a, output, epilogue, accumulate) }
    }

    /// The product, written to rows whose columns between may belong to other threads.
    ///
    /// # Safety
    ///
    /// Output and epilogue must cover the rows and columns; nobody else may read or write those of the output.
    pub(crate) unsafe fn run_to(
        &self,
        rows: usize,
        a: Matrix<'_>,
        output: Output,
        epilogue: &Epilogue<'_>,
        accumulate: bool,
    ) -> Result<(), KernelError> {
        a.check("left-hand matrix", rows, self.k)?;
        let product = Product {
            rows: &MatrixRows {
                data: a.data.as_ptr(),
                ld: a.ld,
                count: rows,
            },
            taps: 1,
            weights: &self.packed,
            output,
            post: Some(epilogue.raw()),
            accumulate,
            group_steps: [0, 0],
        };
        // SAFETY: checked for what is read, promised for what is written.
        unsafe { product.run() };
        Ok(())
    }
}

thread_local! {
    /// A slice of a right-hand operand on its way into a product.
    static SLICE: RefCell<Packed> = RefCell::new(Packed::empty());
}

/// Length of the reduction that [`product`] packs at once: a slice of a panel stays in the second cache level.
const SLICE_K: usize = 1024;

/// c = epilogue(a b) as [`PackedMatrix::multiply`] computes it, for an operand that is used once by few `rows`: each thread packs what it
/// reads next into its caches, so that `b` is read once and no copy of it is written.
///
/// # Errors
///
/// If a slice is too short or a row stride too small, or if the epilogue asks for moments.
#[allow(clippy::too_many_arguments)]
pub fn product(
    rows: usize,
    a: Matrix<'_>,
    b: Matrix<'_>,
    order: Order,
    [k, n]: [usize; 2],
    c: MatrixMut<'_>,
    epilogue: &Epilogue<'_>,
) -> Result<(), KernelError> {
    let (channel_stride, col_stride) = order.strides(b, k, n)?;
    a.check("left-hand matrix", rows, k)?;
    c.check("output matrix", rows, n)?;
    epilogue.check(rows, n)?;
    if epilogue.moments.is_some() {
        return Err(KernelError::Shape {
            what: "product",
            why: "moments of its output".to_owned(),
        });
    }
    let panels = Panels::new(isa(), n);
    let (post, output) = (
        epilogue.raw(),
        Output {
            data: c.data.as_mut_ptr(),
            ld: c.ld,
        },
    );
    // An empty sum is written too.
    let slices = k.div_ceil(SLICE_K).max(1);
    parallel_for(panels.count, |i| {
        let panel = panels.get(i);
        SLICE.with_borrow_mut(|packed| {
            for slice in 0..slices {
                let part = slice * k / slices..(slice + 1) * k / slices;
                let first = part.start * channel_stride + panel.col * col_stride;
                packed.repack(panel.cols, 1, |_| Source {
                    data: b.data.get(first..).unwrap_or(&[]),
                    taps: &[0],
                    tap_stride: 0,
                    channels: part.len(),
                    channel_stride,
                    col_stride,
                });
                let product = Product {
                    rows: &MatrixRows {
                        data: a.data.as_ptr().wrapping_add(part.start),
                        ld: a.ld,
                        count: rows,
                    },
                    taps: 1,
                    weights: packed,
                    output: output.columns_from(panel.col),
                    post: (slice + 1 == slices).then(|| post.columns_from(panel.col)),
                    accumulate: slice > 0,
                    group_steps: [0, 0],
                };
                // SAFETY: the checks above cover every row and column that is read or written; panels have different columns.
                unsafe { product.run_here() };
            }
        });
    });
    Ok(())
}

/// c = a^T b, reduced over `rows`: `a` is `rows` x `m`, `b` is `rows` x `n`, `c` is `m` x `n` and contiguous.
///
/// With `a` the gradient of a linear layer's output and `b` its input, `c` is the gradient of its weight in PyTorch's
/// `[out, in]` layout.
///
/// # Errors
///
/// If a slice is too short or a row stride too small.
pub fn transposed_product(
    rows: usize,
    a: Matrix<'_>,
    m: usize,
    b: Matrix<'_>,
    n: usize,
    c: &mut [f32],
) -> Result<(), KernelError> {
    a.check("left-hand matrix", rows, m)?;
    b.check("right-hand matrix", rows, n)?;
    crate::error::expect_len("output matrix", c.len(), crate::error::elements([m, n]))?;
    let side = |x: &Matrix<'_>, channels| Side {
        data: x.data.as_ptr(),
        channels,
        strides: [0, 0, x.ld],
        group_stride: 0,
    };
    let outer = Outer {
        a: side(&a, m),
        b: side(&b, n),
        groups: 1,
        images: 1,
        rows: 1,
        cols: rows,
        taps: &[Span::full(rows)],
    };
    // SAFETY: the checks above cover every row and column that is read.
    unsafe { outer.run(c) };
    Ok(())
}

/// Where the matrices of a batch lie: matrix `i` starts at `i * step`, its rows are `ld` apart.
#[derive(Clone, Copy, Debug)]
pub struct Batch {
    /// Floats from one matrix to the next.
    pub step: usize,
    /// Floats from one row to the next.
    pub ld: usize,
}

impl Batch {
    fn check(
        &self,
        what: &'static str,
        len: usize,
        batch: usize,
        rows: usize,
        cols: usize,
    ) -> Result<(), KernelError> {
        if batch == 0 {
            return Ok(());
        }
        let skipped = (batch - 1)
            .checked_mul(self.step)
            .filter(|&skipped| skipped <= len);
        let skipped = skipped.ok_or(KernelError::Length {
            what,
            expected: usize::MAX,
            found: len,
        })?;
        expect_rows(what, len - skipped, rows, cols, self.ld)
    }
}

/// The shape of a batch of products: `m` x `k` times `k` x `n`.
#[derive(Clone, Copy, Debug)]
pub struct BatchedShape {
    /// How many products.
    pub batch: usize,
    /// Rows of the left operand and of the output.
    pub m: usize,
    /// Length of the reduction.
    pub k: usize,
    /// Columns of the right operand and of the output.
    pub n: usize,
}

thread_local! {
    static BATCH_OPERAND: RefCell<PackedMatrix> = RefCell::new(PackedMatrix::empty());
}

/// `c[i] = scale * a[i] b[i]` for every matrix of a batch, one matrix a thread at a time.
///
/// # Errors
///
/// If a slice is too short, a row stride too small, or if matrices of the output overlap.
#[allow(clippy::too_many_arguments)]
pub fn batched_product(
    shape: BatchedShape,
    scale: f32,
    a: &[f32],
    a_layout: Batch,
    b: &[f32],
    order: Order,
    b_layout: Batch,
    c: &mut [f32],
    c_layout: Batch,
) -> Result<(), KernelError> {
    let BatchedShape { batch, m, k, n } = shape;
    a_layout.check("left-hand batch", a.len(), batch, m, k)?;
    match order {
        Order::RowMajor => b_layout.check("right-hand batch", b.len(), batch, k, n)?,
        Order::Transposed => b_layout.check("right-hand batch", b.len(), batch, n, k)?,
    }
    c_layout.check("output batch", c.len(), batch, m, n)?;
    // Either whole matrices follow one another, or they lie side by side within the rows (heads of an attention layer).
    let one_after_another = c_layout.step >= m.saturating_sub(1) * c_layout.ld + n;
    let side_by_side = c_layout.step >= n
        && batch
            .saturating_sub(1)
            .saturating_mul(c_layout.step)
            .saturating_add(n)
            <= c_layout.ld;
    if batch > 1 && !one_after_another && !side_by_side {
        return Err(KernelError::Shape {
            what: "output batch",
            why: format!("matrices of {m} x {n} with {c_layout:?} overlap"),
        });
    }
    let factors = vec![scale; if scale == 1.0 { 0 } else { n }];
    let epilogue = Epilogue {
        scale: (scale != 1.0).then_some(&factors[..]),
        ..Epilogue::NONE
    };
    let post = epilogue.raw();
    let output = Output {
        data: c.as_mut_ptr(),
        ld: c_layout.ld,
    };
    parallel_for(batch, |i| {
        // Captured whole, since its fields alone may not go to other threads.
        let output = &output;
        BATCH_OPERAND.with_borrow_mut(|operand| {
            let b = Matrix::new(&b[i * b_layout.step..], b_layout.ld);
            operand.pack(b, order, k, n).expect("the batch was checked");
            let product = Product {
                rows: &MatrixRows {
                    data: a[i * a_layout.step..].as_ptr(),
                    ld: a_layout.ld,
                    count: m,
                },
                taps: 1,
                weights: &operand.packed,
                output: Output {
                    data: output.data.wrapping_add(i * c_layout.step),
                    ld: c_layout.ld,
                },
                post: Some(post),
                accumulate: false,
                group_steps: [0, 0],
            };
            // SAFETY: the checks above cover every matrix of the batch, and output matrices do not overlap.
            unsafe { product.run_here() };
        });
    });
    Ok(())
}

#[cfg(test)]
mod tests;
