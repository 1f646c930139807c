//! Weighted sums of pixels with weights that are the product of a vertical and a horizontal one: gradients of average
//! pooling, interpolation both ways. Every output pixel is written once, its summands in a fixed order.

use crate::buffer::with_local;
use crate::columns::{for_columns, rows_per_chunk};
use crate::inout::{In, Out};
use crate::pool::parallel_for;
use crate::simd::{Kernel, Simd, dispatch_on, isa};
use crate::tile::geometry;

/// Lists of pairs, one list per position along an axis: what a position reads, and what that is to it.
///
/// For a pooling gradient: the windows that cover an input position, with their weights.
#[derive(Debug)]
pub(crate) struct Covers<T> {
    starts: Vec<usize>,
    pairs: Vec<(usize, T)>,
}

impl<T: Copy> Covers<T> {
    /// `pairs` of (position, what it reads, value); the order is kept within a position.
    pub fn new(positions: usize, pairs: &[(usize, usize, T)]) -> Self {
        let mut starts = vec![0; positions + 1];
        for &(i, ..) in pairs {
            starts[i + 1] += 1;
        }
        for i in 0..positions {
            starts[i + 1] += starts[i];
        }
        let mut sorted: Vec<&(usize, usize, T)> = pairs.iter().collect();
        // A stable sort, so that the order is kept.
        sorted.sort_by_key(|pair| pair.0);
        Covers {
            starts,
            pairs: sorted
                .into_iter()
                .map(|&(_, o, value)| (o, value))
                .collect(),
        }
    }

    pub fn of(&self, i: usize) -> &[(usize, T)] {
        &self.pairs[self.starts[i]..self.starts[i + 1]]
    }
}

/// to\[i, y, x\] = sum of from\[i, v, u\] * a * b over the pairs (v, a) of y and (u, b) of x.
pub(crate) struct Gather<'a> {
    pub images: usize,
    /// Height and width of what is read, and of what is written.
    pub from_size: [usize; 2],
    pub to_size: [usize; 2],
    pub channels: usize,
    pub covers: &'a [Covers<f32>; 2],
    pub from: In,
    pub to: Out,
}

impl Gather<'_> {
    /// Runs it on all threads.
    ///
    /// # Safety
    ///
    /// The buffers must have the elements of their sizes, and the pairs must be positions of what is read.
    pub unsafe fn run(mut self) {
        let isa = isa();
        if self.channels < geometry(isa).0 {
            // Vectors overlap.
            self.to = self.to.cached();
        }
        let rows = self.images * self.to_size[0];
        let step = rows_per_chunk(rows, self.to_size[1] * self.channels);
        parallel_for(rows.div_ceil(step), |i| {
            let chunk = GatherRows {
                gather: &self,
                rows: i * step..((i + 1) * step).min(rows),
            };
            dispatch_on(isa, chunk);
        });
    }
}

struct GatherRows<'a> {
    gather: &'a Gather<'a>,
    rows: std::ops::Range<usize>,
}

impl Kernel for GatherRows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let g = self.gather;
        let c = g.channels;
        if c < S::LANES {
            return with_local(|local| {
                s.vectorize(NarrowRows {
                    sums: local.a.resize(g.from_size[1] * c + S::LANES),
                    chunk: self,
                });
            });
        }
        let ([from_h, from_w], [to_h, to_w]) = (g.from_size, g.to_size);
        let first = self.rows.start;
        for row in self.rows {
            let (image, rows) = (row / to_h, g.covers[0].of(row % to_h));
            // Windows side by side give equal rows.
            let same = row > first && row % to_h > 0 && g.covers[0].of(row % to_h - 1) == rows;
            let len = to_w * c;
            // SAFETY: both rows belong to this chunk.
            if same && unsafe { g.to.repeat((row - 1) * len, row * len, len) } {
                continue;
            }
            for x in 0..to_w {
                let out = (row * to_w + x) * c;
                let cols = g.covers[1].of(x);
                // SAFETY: the caller of `run` promises the elements; output rows belong to one chunk each.
                unsafe {
                    for_columns!(S, c, |col, n, P| {
                        let mut sum = s.zero();
                        for &(v, vertical) in rows {
                            let start = (image * from_h + v) * from_w;
                            for &(u, horizontal) in cols {
                                let value = g.from.get::<S, P>(s, (start + u) * c + col, n);
                                sum = s.mul_add(value, s.splat(vertical * horizontal), sum);
                            }
                        }
                        g.to.put::<S, P>(s, out + col, n, sum);
                    });
                }
            }
        }
        s.fence();
    }
}

/// The same where a pixel fills no vector: whole rows are added up, then a vector at each pixel, whose end the next pixel overwrites.
struct NarrowRows<'a> {
    chunk: GatherRows<'a>,
    /// A row of what is read, and a vector more.
    sums: &'a mut [f32],
}

impl Kernel for NarrowRows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let GatherRows { gather: g, rows } = self.chunk;
        let c = g.channels;
        let ([from_h, from_w], [to_h, to_w]) = (g.from_size, g.to_size);
        let len = to_w * c;
        let mut row = rows.start;
        while row < rows.end {
            let (image, pairs) = (row / to_h, g.covers[0].of(row % to_h));
            // Windows side by side give equal rows.
            let equal = (row % to_h + 1..to_h.min(row % to_h + rows.end - row))
                .take_while(|&other| g.covers[0].of(other) == pairs)
                .count();
            for_columns!(S, from_w * c, |col, n, P| {
                let mut sum = s.zero();
                for &(v, weight) in pairs {
                    let at = (image * from_h + v) * from_w * c + col;
                    // SAFETY: the caller of `Gather::run` promises the elements.
                    let value = unsafe { g.from.get::<S, P>(s, at, n) };
                    sum = s.mul_add(value, s.splat(weight), sum);
                }
                s.store_slice(&mut self.sums[col..], sum);
            });
            for x in 0..to_w {
                let mut sum = s.zero();
                for &(u, weight) in g.covers[1].of(x) {
                    let value = s.load_slice(&self.sums[u * c..]);
                    sum = s.mul_add(value, s.splat(weight), sum);
                }
                let n = (to_w - x) * c;
                for row in row..=row + equal {
                    // SAFETY: the row is this chunk's, and has `n` elements more.
                    unsafe {
                        if n < S::LANES {
                            g.to.put::<S, true>(s, row * len + x * c, n, sum);
                        } else {
                            g.to.put::<S, false>(s, row * len + x * c, n, sum);
                        }
                    }
                }
            }
            row += 1 + equal;
        }
    }
}
