//! Mean and variance of an operation's output, taken while it is in the cache: what batch norm normalises by.

use std::sync::{Mutex, PoisonError};

use crate::error::KernelError;
use crate::pool::parallel_chunks_mut;
use crate::simd::{Kernel, Simd, dispatch_on, isa};

/// Collects the moments of an output's channels. Give it to an [`Epilogue`](crate::Epilogue), then call
/// [`Moments::finish`].
///
/// Every chunk of the work sums its own rows, relative to its first, in f32; the chunks are merged in f64 and in a fixed
/// order (Chan, Golub, LeVeque 1979).
#[derive(Debug, Default)]
pub struct Moments(Mutex<Vec<Part>>);

/// The sums of some rows and columns.
#[derive(Debug)]
struct Part {
    /// First column.
    col: usize,
    /// First row.
    row: usize,
    rows: usize,
    /// `[3][columns]`: first row, sums of the differences from it, sums of their squares.
    sums: Vec<f32>,
}

impl Part {
    fn cols(&self) -> usize {
        self.sums.len() / 3
    }
}

/// Some of the output's columns as a thread writes them.
pub(crate) struct Chunk<'a> {
    pub moments: &'a Moments,
    /// Element 0 of the output, and floats from one row to the next.
    pub data: *const f32,
    pub ld: usize,
    /// Which rows, at least one.
    pub rows: &'a [usize],
    sums: Vec<f32>,
    first_col: usize,
}

impl<'a> Chunk<'a> {
    /// Rows of the columns `cols`.
    pub fn new(
        moments: &'a Moments,
        (data, ld): (*const f32, usize),
        rows: &'a [usize],
        cols: std::ops::Range<usize>,
    ) -> Self {
        Chunk {
            moments,
            data,
            ld,
            rows,
            sums: vec![0.0; 3 * cols.len()],
            first_col: cols.start,
        }
    }

    /// Sums `count` columns from `col` on.
    ///
    /// # Safety
    ///
    /// The rows must be readable in these columns, and the columns among the chunk's.
    pub unsafe fn sum<S: Simd>(&mut self, s: S, col: usize, count: usize) {
        let stride = self.sums.len() / 3;
        let at = col - self.first_col;
        assert!(at + count <= stride && !self.rows.is_empty());
        s.vectorize(SumRows {
            data: self.data.wrapping_add(col),
            ld: self.ld,
            rows: self.rows,
            cols: count,
            sums: self.sums.as_mut_ptr().wrapping_add(at),
            stride,
        });
    }

    /// Hands the sums over.
    pub fn finish(self) {
        let part = Part {
            col: self.first_col,
            row: self.rows[0],
            rows: self.rows.len(),
            sums: self.sums,
        };
        let parts = self.moments.0.lock();
        parts.unwrap_or_else(PoisonError::into_inner).push(part);
    }
}

struct SumRows<'a> {
    data: *const f32,
    ld: usize,
    rows: &'a [usize],
    cols: usize,
    sums: *mut f32,
    stride: usize,
}

impl Kernel for SumRows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut col = 0;
        // SAFETY: `Chunk::sum`'s caller promises rows and columns; the sums hold three rows of the chunk's columns.
        unsafe {
            while col + 2 * S::LANES <= self.cols {
                self.columns::<S, 2, false>(s, col, S::LANES);
                col += 2 * S::LANES;
            }
            while col < self.cols {
                let n = (self.cols - col).min(S::LANES);
                if n == S::LANES {
                    self.columns::<S, 1, false>(s, col, n);
                } else {
                    self.columns::<S, 1, true>(s, col, n);
                }
                col += n;
            }
        }
    }
}

impl SumRows<'_> {
    /// # Safety
    ///
    /// Rows, columns and sums must exist.
    #[inline(always)]
    unsafe fn columns<S: Simd, const NV: usize, const PARTIAL: bool>(
        &self,
        s: S,
        col: usize,
        n: usize,
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            let load = |row: usize, v: usize| {
                let p = self.data.add(row * self.ld + col + v * S::LANES);
                if PARTIAL { s.load_n(p, n) } else { s.load(p) }
            };
            let mut shift = [s.zero(); NV];
            for v in 0..NV {
                shift[v] = load(self.rows[0], v);
            }
            let mut first = [s.zero(); NV];
            let mut second = [s.zero(); NV];
            for &row in self.rows {
                for v in 0..NV {
                    let d = s.sub(load(row, v), shift[v]);
                    first[v] = s.add(first[v], d);
                    second[v] = s.mul_add(d, d, second[v]);
                }
            }
            for v in 0..NV {
                for (i, sum) in [shift[v], first[v], second[v]].into_iter().enumerate() {
                    let p = self.sums.add(i * self.stride + col + v * S::LANES);
                    if PARTIAL {
                        s.store_n(p, n, sum);
                    } else {
                        s.store(p, sum);
                    }
                }
            }
        }
    }
}

impl Moments {
    /// Without any output yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Mean and biased variance of each of the output's `channels`.
    ///
    /// # Errors
    ///
    /// If no output was seen, or one of other channels.
    pub fn finish(self, channels: usize) -> Result<[Vec<f32>; 2], KernelError> {
        let mut parts = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        parts.sort_unstable_by_key(|part| (part.row, part.col));
        let mut totals = vec![Total::default(); channels];
        let isa = isa();
        parallel_chunks_mut(&mut totals, MERGED, |i, totals| {
            let first = i * MERGED;
            dispatch_on(
                isa,
                Merge {
                    parts: &parts,
                    first,
                    totals,
                },
            );
        });
        let rows = totals.first().map_or(0.0, |total| total.rows);
        let whole = parts.iter().all(|part| part.col + part.cols() <= channels);
        if rows == 0.0 || !whole || totals.iter().any(|total| total.rows != rows) {
            return Err(KernelError::Shape {
                what: "moments",
                why: format!("the output that was seen does not have {channels} channels"),
            });
        }
        Ok([
            totals.iter().map(|total| total.mean as f32).collect(),
            totals
                .iter()
                .map(|total| (total.squares / rows) as f32)
                .collect(),
        ])
    }
}

/// Channels that one thread merges.
const MERGED: usize = 128;

/// Rows seen, their mean, and the sum of squared differences from it.
#[derive(Clone, Copy, Default)]
struct Total {
    rows: f64,
    mean: f64,
    squares: f64,
}

/// Merges the parts, in their order, for some channels from `first` on.
struct Merge<'a> {
    parts: &'a [Part],
    first: usize,
    totals: &'a mut [Total],
}

impl Kernel for Merge<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let end = self.first + self.totals.len();
        for part in self.parts {
            let cols = part.col.max(self.first)..(part.col + part.cols()).min(end);
            if cols.is_empty() {
                continue;
            }
            let n = part.rows as f64;
            let share = 1.0 / n;
            let row = |i: usize| &part.sums[i * part.cols()..][cols.start - part.col..];
            let sums = row(0).iter().zip(row(1)).zip(row(2));
            let totals = &mut self.totals[cols.start - self.first..cols.end - self.first];
            for (total, ((&shift, &s1), &s2)) in totals.iter_mut().zip(sums) {
                let (s1, s2) = (f64::from(s1), f64::from(s2));
                let average = s1 * share;
                let weight = n / (total.rows + n);
                let delta = f64::from(shift) + average - total.mean;
                let both = total.rows * weight;
                total.squares += (s2 - s1 * average).max(0.0) + delta * delta * both;
                total.mean += delta * weight;
                total.rows += n;
            }
        }
    }
}
