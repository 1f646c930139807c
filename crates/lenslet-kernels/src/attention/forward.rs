//! Forward pass.

use std::ops::Range;

use super::{Attention, ScoreBias, WORKSPACE, Workspace, head, tiles};
use crate::columns::for_columns;
use crate::epilogue::{Epilogue, Residual, ResidualPosition};
use crate::error::{KernelError, elements};
use crate::gemm::Order;
use crate::inout::{In, Out};
use crate::matrix::{Matrix, MatrixMut};
use crate::pool::{likely_next, num_threads, parallel_for};
use crate::simd::{Kernel, Simd, dispatch};
use crate::tile::LINE;
use crate::vmath;

/// Floats of a tile of queries by keys.
const TILE: usize = 16 << 10;
/// Chunks a thread that are wanted: with fewer heads, queries are shared out too, and every chunk packs its head's keys and values.
const CHUNKS_PER_THREAD: usize = 4;

impl Attention {
    /// out = softmax(scale * q k^T) v for every head, with the rows of `out` like those of `q`.
    ///
    /// `log_sums` (`[batch, heads, queries]`) receives the logarithm of each row's sum of exponentials, which the backward
    /// pass needs.
    ///
    /// # Errors
    ///
    /// If a slice is too short, a row stride too small, or a number that must be positive is not.
    pub fn forward(
        &self,
        q: Matrix<'_>,
        k: Matrix<'_>,
        v: Matrix<'_>,
        out: MatrixMut<'_>,
        log_sums: Option<&mut [f32]>,
    ) -> Result<(), KernelError> {
        self.forward_with([q, k, v], None, out, log_sums)
    }

    /// out = softmax(scale * q k^T + bias) v for every head.
    ///
    /// # Errors
    ///
    /// As [`forward`](Self::forward); also if the bias has another length.
    pub fn forward_biased(
        &self,
        qkv: [Matrix<'_>; 3],
        bias: ScoreBias<'_>,
        out: MatrixMut<'_>,
    ) -> Result<(), KernelError> {
        bias.check(self)?;
        self.forward_with(qkv, Some(bias), out, None)
    }

    fn forward_with(
        &self,
        [q, k, v]: [Matrix<'_>; 3],
        bias: Option<ScoreBias<'_>>,
        out: MatrixMut<'_>,
        log_sums: Option<&mut [f32]>,
    ) -> Result<(), KernelError> {
        self.check([&q, &k, &v])?;
        out.check(
            "attention output",
            elements([self.batch, self.queries]),
            self.width(),
        )?;
        if let Some(log_sums) = &log_sums {
            self.check_log_sums(log_sums.len())?;
        }
        let heads = self.batch * self.heads;
        if heads == 0 {
            return Ok(());
        }
        let shares = (CHUNKS_PER_THREAD * num_threads())
            .div_ceil(heads)
            .min(self.queries.div_ceil(64))
            .max(1);
        let pass = Forward {
            shape: self,
            q,
            k,
            v,
            bias,
            out: Out::at(out.data.as_mut_ptr()),
            out_ld: out.ld,
            log_sums: Out::optional(log_sums),
        };
        parallel_for(heads * shares, |i| {
            let queries = |i: usize| {
                let share = i % shares;
                share * self.queries / shares..(share + 1) * self.queries / shares
            };
            let next = likely_next(i).filter(|next| *next < heads * shares);
            let next = next.map(|next| pass.next(next / shares, queries(next), queries(i).len()));
            WORKSPACE.with_borrow_mut(|workspace| {
                pass.run(i / shares, queries(i), next.as_ref(), workspace)
            });
        });
        Ok(())
    }
}

/// What a thread reads of its next head, to be asked for while it computes: pieces of rows so far apart that no processor guesses them.
struct NextHead<'a> {
    /// Views of the head, their rows, and how many of these are asked for at once.
    matrices: [(Matrix<'a>, usize, usize); 3],
    dim: usize,
}

impl NextHead<'_> {
    #[inline(always)]
    fn ask<S: Simd>(&self, s: S, part: usize) {
        for &(matrix, rows, step) in &self.matrices {
            for row in part * step..((part + 1) * step).min(rows) {
                let row = matrix.data.as_ptr().wrapping_add(row * matrix.ld);
                for line in (0..self.dim).step_by(LINE) {
                    s.prefetch_far(row.wrapping_add(line));
                }
            }
        }
    }
}

struct Forward<'a> {
    shape: &'a Attention,
    q: Matrix<'a>,
    k: Matrix<'a>,
    v: Matrix<'a>,
    bias: Option<ScoreBias<'a>>,
    out: Out,
    out_ld: usize,
    log_sums: Out,
}

impl<'a> Forward<'a> {
    /// What will be read for some queries of a head, to be asked for in `parts` parts.
    fn next(&self, index: usize, queries: Range<usize>, parts: usize) -> NextHead<'a> {
        let Attention { keys, dim, .. } = *self.shape;
        let (image, col) = (index / self.shape.heads, index % self.shape.heads * dim);
        let query = image * self.shape.queries + queries.start;
        let matrices = [
            (head(&self.q, query, col), queries.len()),
            (head(&self.k, image * keys, col), keys),
            (head(&self.v, image * keys, col), keys),
        ];
        NextHead {
            matrices: matrices.map(|(matrix, rows)| (matrix, rows, rows.div_ceil(parts))),
            dim,
        }
    }

    /// Some queries of one head of one image.
    fn run(
        &self,
        index: usize,
        queries: Range<usize>,
        next: Option<&NextHead<'_>>,
        workspace: &mut Workspace,
    ) {
        const CHECKED: &str = "the views were checked";
        let shape = self.shape;
        let Attention { keys, dim, .. } = *shape;
        let (image, col) = (index / shape.heads, index % shape.heads * dim);
        let k = head(&self.k, image * keys, col);
        let v = head(&self.v, image * keys, col);
        let Workspace {
            packed,
            tiles: buffers,
        } = workspace;
        let [packed_k, packed_v, ..] = packed;
        packed_k
            .pack(k, Order::Transposed, dim, keys)
            .expect(CHECKED);
        packed_v.pack(v, Order::RowMajor, keys, dim).expect(CHECKED);
        let [scores, result, sums, factors, ..] = buffers;
        // With a bias the product's epilogue scales, since the bias is added to scaled scores.
        let scale = match self.bias {
            Some(_) => {
                factors.resize(keys).fill(shape.scale);
                1.0
            }
            None => shape.scale,
        };
        for tile in tiles(queries.len(), keys, TILE) {
            let (first, rows) = (queries.start + tile.start, tile.len());
            let row = image * shape.queries + first;
            let scores = scores.resize(rows * keys);
            let result = result.resize(rows * dim);
            let sums = sums.resize(rows);
            let q = head(&self.q, row, col);
            let epilogue = match &self.bias {
                Some(bias) => Epilogue {
                    scale: Some(factors),
                    residual: Some(Residual {
                        data: bias.rows(shape, index, first),
                        ld: keys,
                        position: ResidualPosition::BeforeActivation,
                    }),
                    ..Epilogue::NONE
                },
                None => Epilogue::NONE,
            };
            packed_k
                .multiply(rows, q, MatrixMut::new(scores, keys), &epilogue)
                .expect(CHECKED);
            dispatch(Exponentials {
                scores: Out::at(scores.as_mut_ptr()),
                keys,
                scale,
                sums,
                log_sums: self.log_sums,
                at: index * shape.queries + first,
                next,
                done: tile.start,
            });
            packed_v
                .multiply(
                    rows,
                    Matrix::new(scores, keys),
                    MatrixMut::new(result, dim),
                    &Epilogue::NONE,
                )
                .expect(CHECKED);
            dispatch(Normalise {
                result: In::new(result),
                dim,
                sums,
                out: self.out,
                at: row * self.out_ld + col,
                ld: self.out_ld,
            });
        }
    }
}

/// Turns rows of scores into e^(scale * score - maximum).
struct Exponentials<'a> {
    scores: Out,
    keys: usize,
    scale: f32,
    /// Receives the sum of each row.
    sums: &'a mut [f32],
    log_sums: Out,
    /// Where in `log_sums` the first row belongs.
    at: usize,
    next: Option<&'a NextHead<'a>>,
    /// Rows of this head before these.
    done: usize,
}

impl Kernel for Exponentials<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let keys = self.keys;
        let whole = keys - keys % S::LANES;
        let (from, to) = (self.scores.as_in(), self.scores);
        for (i, sum) in self.sums.iter_mut().enumerate() {
            if let Some(next) = self.next {
                next.ask(s, self.done + i);
            }
            let at = i * keys;
            // SAFETY: `scores` holds as many rows as there are sums; the log sums belong to this chunk's queries.
            unsafe {
                let mut most = s.splat(f32::NEG_INFINITY);
                for_columns!(S, whole, |col, n, P| {
                    most = s.max(most, from.get::<S, P>(s, at + col, n));
                });
                let mut most = s.reduce_max(most);
                for col in whole..keys {
                    most = most.max(from.one(at + col));
                }
                let most = most * self.scale;
                let (scale, shift) = (s.splat(self.scale), s.splat(-most));
                let mut total = [s.zero(); 2];
                let mut rest = 0.0;
                let mut col = 0;
                // Two vectors at a time, so that one's operations fill the other's waits.
                while col + 2 * S::LANES <= keys {
                    let mut x = [s.zero(); 2];
                    for v in 0..2 {
                        let score = from.get::<S, false>(s, at + col + v * S::LANES, 0);
                        x[v] = s.mul_add(score, scale, shift);
                    }
                    let e = vmath::exps_below_zero(s, x);
                    for v in 0..2 {
                        to.put::<S, false>(s, at + col + v * S::LANES, 0, e[v]);
                        total[v] = s.add(total[v], e[v]);
                    }
                    col += 2 * S::LANES;
                }
                while col < keys {
                    let n = S::LANES.min(keys - col);
                    let x = from.get::<S, true>(s, at + col, n);
                    let [e] = vmath::exps_below_zero(s, [s.mul_add(x, scale, shift)]);
                    to.put::<S, true>(s, at + col, n, e);
                    if n == S::LANES {
                        total[0] = s.add(total[0], e);
                    }
                    col += n;
                }
                let total = s.add(total[0], total[1]);
                for col in whole..keys {
                    rest += from.one(at + col);
                }
                *sum = s.reduce_add(total) + rest;
                if self.log_sums.is_some() {
                    let log_sum = s.splat(most + sum.ln());
                    self.log_sums.put::<S, true>(s, self.at + i, 1, log_sum);
                }
            }
        }
    }
}

/// Divides rows by their sums on the way to the output.
struct Normalise<'a> {
    result: In,
    dim: usize,
    sums: &'a [f32],
    out: Out,
    at: usize,
    ld: usize,
}

impl Kernel for Normalise<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (i, &sum) in self.sums.iter().enumerate() {
            let factor = s.splat(1.0 / sum);
            // SAFETY: `result` holds as many rows as there are sums; the output's rows and columns are this chunk's own.
            unsafe {
                for_columns!(S, self.dim, |col, n, P| {
                    let x = self.result.get::<S, P>(s, i * self.dim + col, n);
                    let at = self.at + i * self.ld + col;
                    self.out.put::<S, P>(s, at, n, s.mul(x, factor));
                });
            }
        }
    }
}
