//! Backward pass (with the recomputation of Dao et al. 2022, FlashAttention, section 3.1).

use super::{Attention, AttentionGradients, WORKSPACE, Workspace, head, reader, tiles};
use crate::buffer::AlignedBuf;
use crate::columns::for_columns;
use crate::epilogue::Epilogue;
use crate::error::{KernelError, elements, expect_len};
use crate::gemm::{Order, transposed_product};
use crate::inout::{In, Out};
use crate::matrix::{Matrix, MatrixMut};
use crate::pool::parallel_for;
use crate::product::Output;
use crate::simd::{Kernel, Simd, dispatch};
use crate::vmath;

/// Floats of a tile of keys by queries, of which there are two. They share the second cache level with four packed matrices.
const TILE: usize = 20 << 10;

/// What the backward pass needs from the forward pass, and the output's gradient.
#[derive(Clone, Copy, Debug)]
pub struct AttentionSaved<'a> {
    /// Queries.
    pub q: Matrix<'a>,
    /// Keys.
    pub k: Matrix<'a>,
    /// Values.
    pub v: Matrix<'a>,
    /// The output.
    pub out: Matrix<'a>,
    /// Logarithms of the rows' sums, `[batch, heads, queries]`.
    pub log_sums: &'a [f32],
    /// The output's gradient.
    pub d_out: Matrix<'a>,
}

impl Attention {
    /// Writes the gradients of queries, keys and values. The probabilities are computed again from the log sums.
    ///
    /// # Errors
    ///
    /// If a slice is too short, a row stride too small, or a number that must be positive is not; joined gradients also
    /// need as many keys as queries.
    pub fn backward(
        &self,
        saved: AttentionSaved<'_>,
        gradients: AttentionGradients<'_>,
    ) -> Result<(), KernelError> {
        let AttentionSaved {
            q,
            k,
            v,
            out,
            log_sums,
            d_out,
        } = saved;
        self.check([&q, &k, &v])?;
        let (rows, width) = (elements([self.batch, self.queries]), self.width());
        out.check("attention output", rows, width)?;
        d_out.check("gradient of the output", rows, width)?;
        self.check_log_sums(log_sums.len())?;
        let targets = match gradients {
            AttentionGradients::Joined(data) => {
                if self.keys != self.queries {
                    return Err(KernelError::Shape {
                        what: "joined gradients",
                        why: format!("{} queries but {} keys", self.queries, self.keys),
                    });
                }
                expect_len("joined gradients", data.len(), elements([rows, 3, width]))?;
                let start = data.as_mut_ptr();
                [0, width, 2 * width].map(|col| Target {
                    data: Out::at(start.wrapping_add(col)),
                    ld: 3 * width,
                })
            }
            AttentionGradients::JoinedKeys(dq, data) => {
                dq.check("gradient of the queries", rows, width)?;
                let numbers = elements([self.batch, self.keys, 2, width]);
                expect_len("joined gradients", data.len(), numbers)?;
                let start = data.as_mut_ptr();
                let joined = [0, width].map(|col| Target {
                    data: Out::at(start.wrapping_add(col)),
                    ld: 2 * width,
                });
                let dq = Target {
                    data: Out::at(dq.data.as_mut_ptr()),
                    ld: dq.ld,
                };
                [dq, joined[0], joined[1]]
            }
            AttentionGradients::Separate(matrices) => {
                let [dq, dk, dv] = &matrices;
                dq.check("gradient of the queries", rows, width)?;
                dk.check(
                    "gradient of the keys",
                    elements([self.batch, self.keys]),
                    width,
                )?;
                dv.check(
                    "gradient of the values",
                    elements([self.batch, self.keys]),
                    width,
                )?;
                matrices.map(|matrix| Target {
                    data: Out::at(matrix.data.as_mut_ptr()),
                    ld: matrix.ld,
                })
            }
        };
        let pass = Backward {
            shape: self,
            saved,
            targets,
        };
        parallel_for(self.batch * self.heads, |i| {
            WORKSPACE.with_borrow_mut(|workspace| pass.run(i, workspace));
        });
        Ok(())
    }
}

/// A matrix to write.
#[derive(Clone, Copy)]
struct Target {
    data: Out,
    ld: usize,
}

impl Target {
    /// From a row and a column on.
    fn at(self, row: usize, col: usize) -> Output {
        Output {
            data: self.data.pointer(row * self.ld + col),
            ld: self.ld,
        }
    }
}

struct Backward<'a> {
    shape: &'a Attention,
    saved: AttentionSaved<'a>,
    targets: [Target; 3],
}

impl Backward<'_> {
    /// One head of one image.
    fn run(&self, index: usize, workspace: &mut Workspace) {
        const CHECKED: &str = "the views were checked";
        let shape = self.shape;
        let Attention {
            queries, keys, dim, ..
        } = *shape;
        let (image, col) = (index / shape.heads, index % shape.heads * dim);
        let (query_row, key_row) = (image * queries, image * keys);
        let q = head(&self.saved.q, query_row, col);
        let out = head(&self.saved.out, query_row, col);
        let d_out = head(&self.saved.d_out, query_row, col);
        let Workspace {
            packed,
            tiles: buffers,
        } = workspace;
        let [turned_q, turned_d, plain_q, plain_d] = packed;
        for (packed, matrix) in [(&mut *turned_q, q), (&mut *turned_d, d_out)] {
            packed
                .pack(matrix, Order::Transposed, dim, queries)
                .expect(CHECKED);
        }
        for (packed, matrix) in [(&mut *plain_q, q), (&mut *plain_d, d_out)] {
            packed
                .pack(matrix, Order::RowMajor, queries, dim)
                .expect(CHECKED);
        }
        let [
            scores,
            slopes,
            small,
            d_queries,
            inner,
            keys_here,
            values_here,
        ] = buffers;
        let inner = inner.resize(queries);
        dispatch(InnerProducts {
            matrices: [out, d_out],
            dim,
            sums: inner,
        });
        let d_queries = d_queries.resize(queries * dim);
        for tile in tiles(keys, queries, TILE) {
            let (first, rows) = (key_row + tile.start, tile.len());
            // Rows that are read several times: apart they would take the same places of the first cache level.
            let k = compact(head(&self.saved.k, first, col), rows, dim, keys_here);
            let v = compact(head(&self.saved.v, first, col), rows, dim, values_here);
            let scores = scores.resize(rows * queries);
            let slopes = slopes.resize(rows * queries);
            let multiply = |packed: &crate::PackedMatrix, a, c: &mut [f32], ld| {
                packed
                    .multiply(rows, a, MatrixMut::new(c, ld), &Epilogue::NONE)
                    .expect(CHECKED);
            };
            multiply(turned_q, k, scores, queries);
            multiply(turned_d, v, slopes, queries);
            dispatch(Slopes {
                scores: Out::at(scores.as_mut_ptr()),
                slopes: Out::at(slopes.as_mut_ptr()),
                rows,
                queries,
                scale: shape.scale,
                log_sums: In::new(&self.saved.log_sums[index * queries..]),
                inner: In::new(inner),
            });
            // Values from the probabilities, keys and queries from the slopes.
            for (packed, factors, target) in [
                (&*plain_d, &*scores, self.targets[2]),
                (&*plain_q, &*slopes, self.targets[1]),
            ] {
                let factors = Matrix::new(factors, queries);
                let to = target.at(first, col);
                // SAFETY: `backward` checked that the targets hold all rows and columns; this head's columns are this thread's own.
                unsafe { packed.run_to(rows, factors, to, &Epilogue::NONE, false) }.expect(CHECKED);
            }
            let factors = Matrix::new(slopes, queries);
            if tile.start == 0 {
                transposed_product(rows, factors, queries, k, dim, d_queries).expect(CHECKED);
            } else {
                let part = small.resize(queries * dim);
                transposed_product(rows, factors, queries, k, dim, part).expect(CHECKED);
                for (sum, x) in d_queries.iter_mut().zip(part) {
                    *sum += *x;
                }
            }
        }
        copy(d_queries, dim, self.targets[0], query_row, col);
    }
}

/// A copy of rows without gaps.
fn compact<'a>(from: Matrix<'_>, rows: usize, dim: usize, to: &'a mut AlignedBuf) -> Matrix<'a> {
    let to = to.resize(rows * dim);
    for (to, from) in to.chunks_exact_mut(dim).zip(from.data.chunks(from.ld)) {
        to.copy_from_slice(&from[..dim]);
    }
    Matrix::new(to, dim)
}

/// Copies compact rows to rows of a target, which are this thread's own in the columns of its head.
fn copy(rows: &[f32], dim: usize, target: Target, first: usize, col: usize) {
    for (i, row) in rows.chunks_exact(dim).enumerate() {
        // SAFETY: `backward` checked that the targets hold all rows and columns; this head's columns are this thread's own.
        unsafe { target.data.copy((first + i) * target.ld + col, row) };
    }
}

/// The inner product of each pair of rows.
struct InnerProducts<'a> {
    matrices: [Matrix<'a>; 2],
    dim: usize,
    sums: &'a mut [f32],
}

impl Kernel for InnerProducts<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let [a, b] = &self.matrices;
        let (from_a, from_b) = (reader(a), reader(b));
        for (row, total) in self.sums.iter_mut().enumerate() {
            let mut sum = s.zero();
            // SAFETY: `backward` checked that both matrices hold all rows and columns.
            unsafe {
                for_columns!(S, self.dim, |col, n, P| {
                    let x = from_a.get::<S, P>(s, row * a.ld + col, n);
                    let y = from_b.get::<S, P>(s, row * b.ld + col, n);
                    sum = s.mul_add(x, y, sum);
                });
            }
            *total = s.reduce_add(sum);
        }
    }
}

/// Turns scores into probabilities p = e^(scale * score - log sum), and the probabilities' gradients d into those of
/// the unscaled scores, scale * p * (d - inner). Rows are keys, columns are queries.
struct Slopes {
    scores: Out,
    slopes: Out,
    rows: usize,
    queries: usize,
    scale: f32,
    log_sums: In,
    inner: In,
}

impl Kernel for Slopes {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for row in 0..self.rows {
            let mut col = 0;
            // SAFETY: both tiles hold these rows, the two vectors an element for each query.
            unsafe {
                // Two vectors at a time, so that one's operations fill the other's waits.
                while col + 2 * S::LANES <= self.queries {
                    self.step::<S, 2, false>(s, row, col, S::LANES);
                    col += 2 * S::LANES;
                }
                while col < self.queries {
                    let n = S::LANES.min(self.queries - col);
                    self.step::<S, 1, true>(s, row, col, n);
                    col += n;
                }
            }
        }
    }
}

impl Slopes {
    /// `N` vectors of a row.
    #[inline(always)]
    unsafe fn step<S: Simd, const N: usize, const PARTIAL: bool>(
        &self,
        s: S,
        row: usize,
        col: usize,
        n: usize,
    ) {
        let scale = s.splat(self.scale);
        let (scores, slopes) = (self.scores.as_in(), self.slopes.as_in());
        let (mut x, mut d) = ([s.zero(); N], [s.zero(); N]);
        // SAFETY: the caller's promise.
        unsafe {
            for v in 0..N {
                let col = col + v * S::LANES;
                let at = row * self.queries + col;
                let log_sum = self.log_sums.get::<S, PARTIAL>(s, col, n);
                let inner = self.inner.get::<S, PARTIAL>(s, col, n);
                x[v] = s.sub(s.mul(scores.get::<S, PARTIAL>(s, at, n), scale), log_sum);
                d[v] = s.sub(slopes.get::<S, PARTIAL>(s, at, n), inner);
            }
            // Probabilities are at most 1.
            let p = vmath::exps_below_zero(s, x);
            for v in 0..N {
                let at = row * self.queries + col + v * S::LANES;
                self.scores.put::<S, PARTIAL>(s, at, n, p[v]);
                let slope = s.mul(s.mul(p[v], scale), d[v]);
                self.slopes.put::<S, PARTIAL>(s, at, n, slope);
            }
        }
    }
}
