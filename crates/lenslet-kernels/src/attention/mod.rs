//! Scaled dot-product attention, forward and backward, without a matrix of all queries by all keys.
//!
//! A thread takes one head of one image at a time and packs its keys and values (backward: its queries and the output's
//! gradient) once. Forward, a tile of queries is multiplied with all keys, normalised while it is in the cache, and
//! multiplied with the values; only the logarithm of each row's sum is kept. Backward walks tiles of keys, so that the
//! gradients of keys and values are written once each and only the queries' gradient is added up.

mod backward;
mod forward;

pub use backward::AttentionSaved;

use crate::error::{KernelError, elements, expect_len};
use crate::gemm::PackedMatrix;
use crate::matrix::{Matrix, MatrixMut};
use crate::{AlignedBuf, inout::In};

/// The shape of a multi-head attention.
///
/// Queries are `[batch, queries, heads * dim]`, keys and values `[batch, keys, heads * dim]`. Each may be a part of wider
/// rows: in a `[batch, length, 3 * heads * dim]` buffer `qkv`, the keys are
/// `Matrix::new(&qkv[heads * dim..], 3 * heads * dim)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// Images of a batch.
    pub batch: usize,
    /// Queries of an image.
    pub queries: usize,
    /// Keys (and values) of an image.
    pub keys: usize,
    /// Heads.
    pub heads: usize,
    /// Channels of a head.
    pub dim: usize,
    /// Factor of the products, usually 1 / sqrt(dim); positive.
    pub scale: f32,
}

/// What is added to the scaled scores: `[images, heads, queries, keys]`. Image `i` of the batch takes those of image
/// `i % images`: relative positions are the same for all (`images` is 1), masks of shifted windows repeat with every picture.
#[derive(Clone, Copy, Debug)]
pub struct ScoreBias<'a> {
    /// The numbers.
    pub data: &'a [f32],
    /// Of how many images; the batch is a multiple of it.
    pub images: usize,
}

impl<'a> ScoreBias<'a> {
    fn check(&self, shape: &Attention) -> Result<(), KernelError> {
        if self.images == 0 || !shape.batch.is_multiple_of(self.images) {
            return Err(KernelError::Shape {
                what: "bias of scores",
                why: format!("of {} images for {}", self.images, shape.batch),
            });
        }
        let one = [shape.heads, shape.queries, shape.keys];
        expect_len(
            "bias of scores",
            self.data.len(),
            elements([self.images, elements(one)]),
        )
    }

    /// Rows of a head of the batch, `index` over images and heads, from query `first` on.
    fn rows(&self, shape: &Attention, index: usize, first: usize) -> &'a [f32] {
        let row = index % (self.images * shape.heads) * shape.queries + first;
        &self.data[row * shape.keys..]
    }
}

/// Where the gradients of queries, keys and values go.
#[derive(Debug)]
pub enum AttentionGradients<'a> {
    /// To one buffer, `[batch, length, 3 * heads * dim]`: in each row the queries', the keys', the values' gradient.
    Joined(&'a mut [f32]),
    /// The queries' to a matrix, the others to one buffer, `[batch, keys, 2 * heads * dim]`: in each row the keys', the values' gradient.
    JoinedKeys(MatrixMut<'a>, &'a mut [f32]),
    /// To a matrix each.
    Separate([MatrixMut<'a>; 3]),
}

impl Attention {
    /// Attention of a sequence to itself, with the usual scale.
    pub fn new(batch: usize, length: usize, heads: usize, dim: usize) -> Self {
        Attention {
            batch,
            queries: length,
            keys: length,
            heads,
            dim,
            scale: 1.0 / (dim.max(1) as f32).sqrt(),
        }
    }

    /// Channels of a row.
    fn width(&self) -> usize {
        elements([self.heads, self.dim])
    }

    fn check(&self, [q, k, v]: [&Matrix<'_>; 3]) -> Result<(), KernelError> {
        let Attention {
            queries,
            keys,
            heads,
            dim,
            scale,
            ..
        } = *self;
        if queries == 0 || keys == 0 || heads == 0 || dim == 0 || scale.is_nan() || scale <= 0.0 {
            return Err(KernelError::Shape {
                what: "attention",
                why: format!(
                    "{queries} queries, {keys} keys, {heads} heads of {dim}, scale {scale}"
                ),
            });
        }
        q.check("queries", elements([self.batch, queries]), self.width())?;
        k.check("keys", elements([self.batch, keys]), self.width())?;
        v.check("values", elements([self.batch, keys]), self.width())
    }

    fn check_log_sums(&self, len: usize) -> Result<(), KernelError> {
        expect_len(
            "log sums",
            len,
            elements([self.batch, self.heads, self.queries]),
        )
    }
}

/// The rows of one head, from row `first` on.
fn head<'a>(matrix: &Matrix<'a>, first: usize, col: usize) -> Matrix<'a> {
    Matrix::new(&matrix.data[first * matrix.ld + col..], matrix.ld)
}

/// What one thread needs for a head.
#[derive(Default)]
struct Workspace {
    packed: [PackedMatrix; 4],
    tiles: [AlignedBuf; 7],
}

thread_local! {
    static WORKSPACE: std::cell::RefCell<Workspace> = std::cell::RefCell::new(Workspace::default());
}

/// How `len` rows are cut into tiles of equal height, with about `floats` floats in a tile of `row` floats a row.
fn tiles(len: usize, row: usize, floats: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    let height = (floats / row).clamp(16, 256);
    let count = len.div_ceil(height);
    (0..count).map(move |i| i * len / count..(i + 1) * len / count)
}

/// Reads a checked matrix at row and column.
fn reader(matrix: &Matrix<'_>) -> In {
    In::new(matrix.data)
}

#[cfg(test)]
mod tests;
