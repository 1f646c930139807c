//! Passes over `[rows, channels]` buffers with parameters per channel, and over flat ones: maps, and sums per channel.
//!
//! Channels that fill no vector would leave lanes empty, so a few rows are taken together as one wider row whose length is a
//! multiple of the vector; the parameters are repeated to match. Four of these rows are walked at a time, so that
//! parameters (and accumulators of a sum) are loaded once for the four.

use crate::buffer::with_local;
use crate::pool::{SharedMut, parallel_chunks_mut, parallel_for};
use crate::simd::{Kernel, Simd, dispatch_on, isa};
use crate::tile::geometry;

/// Narrower rows than this are joined.
const MIN_WIDTH: usize = 128;
/// Floats of a chunk: at least and at most.
const CHUNK: [usize; 2] = [4 << 10, 32 << 10];
/// Chunks where that is too few floats for larger ones.
const CHUNKS: usize = 16;
/// Floats of a block of a sum: at least and at most.
const SUM_BLOCK: [usize; 2] = [16 << 10, 128 << 10];
/// Rows walked at a time.
const ROWS: usize = 4;

/// How a `[rows, channels]` buffer is walked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    /// Rows taken together.
    pub repeat: usize,
    /// Floats of a joined row.
    pub width: usize,
    /// How many joined rows there are.
    pub joined: usize,
    /// Floats after the last whole joined row.
    pub rest: usize,
}

impl Layout {
    pub fn new(rows: usize, channels: usize) -> Self {
        let (lanes, _) = geometry(isa());
        let repeat = if channels == 0 || channels >= MIN_WIDTH {
            1
        } else {
            let fill = lanes / gcd(channels, lanes);
            MIN_WIDTH.div_ceil(channels).next_multiple_of(fill)
        };
        Layout {
            repeat,
            width: repeat * channels,
            joined: rows / repeat,
            rest: rows % repeat * channels,
        }
    }

    /// A buffer whose elements are all treated alike.
    pub fn flat(len: usize) -> Self {
        Layout {
            repeat: 1,
            width: MIN_WIDTH,
            joined: len / MIN_WIDTH,
            rest: len % MIN_WIDTH,
        }
    }

    /// The parameters of a joined row.
    pub fn expand(&self, parameters: &[f32]) -> Vec<f32> {
        parameters.repeat(self.repeat)
    }

    /// How many blocks a sum has and how many joined rows lie in each; the floats of `rest` make another block.
    fn blocks(&self) -> (usize, usize) {
        let [least, most] = SUM_BLOCK;
        let floats = (self.joined * self.width / 32).clamp(least, most);
        let per_block = (floats / self.width.max(1)).max(1);
        let blocks = self.joined.div_ceil(per_block) + usize::from(self.rest > 0);
        (blocks, per_block)
    }

    /// Block `i`: its first float, joined rows and floats per row.
    fn block(&self, i: usize, per_block: usize) -> Part {
        let first = i * per_block;
        if first < self.joined {
            Part {
                start: first * self.width,
                rows: per_block.min(self.joined - first),
                width: self.width,
            }
        } else {
            Part {
                start: self.joined * self.width,
                rows: 1,
                width: self.rest,
            }
        }
    }
}

/// How many of `rows` rows of so many floats make a chunk of work that memory limits.
pub(crate) fn rows_per_chunk(rows: usize, width: usize) -> usize {
    let [least, most] = CHUNK;
    let floats = (rows * width / CHUNKS).clamp(least, most);
    (floats / width.max(1)).max(1)
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Some joined rows.
#[derive(Clone, Copy, Debug)]
struct Part {
    start: usize,
    rows: usize,
    width: usize,
}

/// An element-wise function with parameters per column of a joined row.
pub(crate) trait ColumnMap: Sync {
    /// The parameters of some columns.
    type Params<S: Simd>: Copy;

    /// Loads the parameters from column `col` on (`n` of them where `PARTIAL`, else a vector).
    ///
    /// # Safety
    ///
    /// The columns must exist.
    unsafe fn params<S: Simd, const PARTIAL: bool>(
        &self,
        s: S,
        col: usize,
        n: usize,
    ) -> Self::Params<S>;

    /// Reads its inputs at element `at`, computes, writes its outputs there.
    ///
    /// # Safety
    ///
    /// The elements must exist and belong to this thread.
    unsafe fn apply<S: Simd, const PARTIAL: bool>(
        &self,
        s: S,
        params: Self::Params<S>,
        at: usize,
        n: usize,
    );
}

/// Applies a map to a buffer on all threads.
///
/// # Safety
///
/// The map's buffers must have the layout's elements, and its parameters the layout's width.
pub(crate) unsafe fn map_columns<M: ColumnMap>(layout: &Layout, map: &M) {
    let per_chunk = rows_per_chunk(layout.joined, layout.width).max(ROWS);
    let chunks = layout.joined.div_ceil(per_chunk) + usize::from(layout.rest > 0);
    let isa = isa();
    parallel_for(chunks, |i| {
        let part = layout.block(i, per_chunk);
        dispatch_on(isa, MapPart { map, part });
    });
}

struct MapPart<'a, M> {
    map: &'a M,
    part: Part,
}

impl<M: ColumnMap> Kernel for MapPart<'_, M> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Part { start, rows, width } = self.part;
        let map = self.map;
        let whole = width - width % S::LANES;
        let mut row = 0;
        // SAFETY: `map_columns`'s caller promises the elements; parts do not overlap.
        unsafe {
            while row < rows {
                let count = ROWS.min(rows - row);
                let at = start + row * width;
                let mut col = 0;
                if count == ROWS {
                    while col < whole {
                        let params = map.params::<S, false>(s, col, S::LANES);
                        map.apply::<S, false>(s, params, at + col, S::LANES);
                        map.apply::<S, false>(s, params, at + width + col, S::LANES);
                        map.apply::<S, false>(s, params, at + 2 * width + col, S::LANES);
                        map.apply::<S, false>(s, params, at + 3 * width + col, S::LANES);
                        col += S::LANES;
                    }
                } else {
                    while col < whole {
                        let params = map.params::<S, false>(s, col, S::LANES);
                        for i in 0..count {
                            map.apply::<S, false>(s, params, at + i * width + col, S::LANES);
                        }
                        col += S::LANES;
                    }
                }
                if col < width {
                    let params = map.params::<S, true>(s, col, width - col);
                    for i in 0..count {
                        map.apply::<S, true>(s, params, at + i * width + col, width - col);
                    }
                }
                row += count;
            }
        }
        s.fence();
    }
}

/// Two terms per element that are summed per column.
pub(crate) trait ColumnTerms: Sync {
    /// The parameters of some columns.
    type Params<S: Simd>: Copy;

    /// Loads the parameters from column `col` on, for a block that starts at element `start`.
    ///
    /// # Safety
    ///
    /// The columns must exist.
    unsafe fn params<S: Simd, const PARTIAL: bool>(
        &self,
        s: S,
        start: usize,
        col: usize,
        n: usize,
    ) -> Self::Params<S>;

    /// The terms at element `at`.
    ///
    /// # Safety
    ///
    /// The elements must exist.
    unsafe fn terms<S: Simd, const PARTIAL: bool>(
        &self,
        s: S,
        params: Self::Params<S>,
        at: usize,
        n: usize,
    ) -> [S::V; 2];
}

/// The sums of one block: `sums[t * width + col]`, over `rows` joined rows from element `start`.
pub(crate) struct BlockSums<'a> {
    pub start: usize,
    pub rows: usize,
    pub width: usize,
    pub sums: &'a [f32],
}

/// Brings the sums of all blocks together.
pub(crate) trait Merge: Sync {
    /// What becomes of a channel.
    type Total: Send;

    /// Merges the channels from `first` on into as many totals, block by block in their order.
    fn merge(&self, blocks: &[BlockSums<'_>], first: usize, totals: &mut [Self::Total]);
}

/// Channels that one thread merges.
const MERGED: usize = 128;

/// Sums both terms over blocks of fixed size, then merges the blocks into a total for each channel; both on all threads.
///
/// # Safety
///
/// The terms' buffers must have the layout's elements, and its parameters the layout's width.
pub(crate) unsafe fn sum_columns<T: ColumnTerms, M: Merge>(
    layout: &Layout,
    terms: &T,
    merge: &M,
    totals: &mut [M::Total],
) {
    let (blocks, per_block) = layout.blocks();
    let isa = isa();
    with_local(|local| {
        let stride = 2 * layout.width;
        let sums = local.a.resize(blocks * stride);
        let shared = SharedMut::new(sums);
        parallel_for(blocks, |i| {
            let part = layout.block(i, per_block);
            // SAFETY: each block has its own sums.
            let sums = unsafe { shared.slice(i * stride, 2 * part.width) };
            dispatch_on(isa, SumPart { terms, part, sums });
        });
        let blocks: Vec<BlockSums> = (0..blocks)
            .map(|i| {
                let Part { start, rows, width } = layout.block(i, per_block);
                BlockSums {
                    start,
                    rows,
                    width,
                    sums: &local.a[i * stride..i * stride + 2 * width],
                }
            })
            .collect();
        parallel_chunks_mut(totals, MERGED, |i, totals| {
            let part = MergePart {
                merge,
                blocks: &blocks,
                first: i * MERGED,
                totals,
            };
            dispatch_on(isa, part);
        });
    });
}

struct MergePart<'a, M: Merge> {
    merge: &'a M,
    blocks: &'a [BlockSums<'a>],
    first: usize,
    totals: &'a mut [M::Total],
}

impl<M: Merge> Kernel for MergePart<'_, M> {
    type Output = ();

    // Inlined, so that its loops are compiled for the instruction set.
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        self.merge.merge(self.blocks, self.first, self.totals);
    }
}

/// Adds up in f64; `channels` of them.
struct Totals {
    channels: usize,
}

impl Merge for Totals {
    type Total = [f64; 2];

    #[inline(always)]
    fn merge(&self, blocks: &[BlockSums<'_>], first: usize, totals: &mut [[f64; 2]]) {
        totals.fill([0.0; 2]);
        for block in blocks {
            let (a, b) = block.sums.split_at(block.width);
            for at in (first..block.width).step_by(self.channels) {
                let sums = a[at..].iter().zip(&b[at..]);
                for (total, (&a, &b)) in totals.iter_mut().zip(sums) {
                    total[0] += f64::from(a);
                    total[1] += f64::from(b);
                }
            }
        }
    }
}

/// Both terms per channel, added up in f64 over blocks of fixed size.
///
/// # Safety
///
/// As for [`sum_columns`].
pub(crate) unsafe fn channel_sums<T: ColumnTerms>(
    layout: &Layout,
    channels: usize,
    terms: &T,
) -> Vec<[f64; 2]> {
    let mut totals = vec![[0.0; 2]; channels];
    if channels > 0 {
        // SAFETY: the caller's promise.
        unsafe { sum_columns(layout, terms, &Totals { channels }, &mut totals) };
    }
    totals
}

/// Adds the sums of joined rows to their channels.
pub(crate) fn add_repeated(totals: &mut [f64], sums: &[f32]) {
    for copy in sums.chunks(totals.len()) {
        for (total, &sum) in totals.iter_mut().zip(copy) {
            *total += f64::from(sum);
        }
    }
}

struct SumPart<'a, T> {
    terms: &'a T,
    part: Part,
    sums: &'a mut [f32],
}

impl<T: ColumnTerms> Kernel for SumPart<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Part { start, rows, width } = self.part;
        let whole = width - width % S::LANES;
        self.sums.fill(0.0);
        let sums = self.sums.as_mut_ptr();
        let terms = self.terms;
        let mut row = 0;
        // SAFETY: `sum_columns`'s caller promises the elements; `sums` holds two rows of the width.
        unsafe {
            while row < rows {
                let count = ROWS.min(rows - row);
                let at = start + row * width;
                let mut col = 0;
                while col < whole {
                    let params = terms.params::<S, false>(s, start, col, S::LANES);
                    let (first, second) = (sums.add(col), sums.add(width + col));
                    let mut a = s.load(first);
                    let mut b = s.load(second);
                    if count == ROWS {
                        let t0 = terms.terms::<S, false>(s, params, at + col, S::LANES);
                        let t1 = terms.terms::<S, false>(s, params, at + width + col, S::LANES);
                        let t2 = terms.terms::<S, false>(s, params, at + 2 * width + col, S::LANES);
                        let t3 = terms.terms::<S, false>(s, params, at + 3 * width + col, S::LANES);
                        a = s.add(a, s.add(s.add(t0[0], t1[0]), s.add(t2[0], t3[0])));
                        b = s.add(b, s.add(s.add(t0[1], t1[1]), s.add(t2[1], t3[1])));
                    } else {
                        for i in 0..count {
                            let t =
                                terms.terms::<S, false>(s, params, at + i * width + col, S::LANES);
                            a = s.add(a, t[0]);
                            b = s.add(b, t[1]);
                        }
                    }
                    s.store(first, a);
                    s.store(second, b);
                    col += S::LANES;
                }
                if col < width {
                    let n = width - col;
                    let params = terms.params::<S, true>(s, start, col, n);
                    let (first, second) = (sums.add(col), sums.add(width + col));
                    let mut a = s.load_n(first, n);
                    let mut b = s.load_n(second, n);
                    for i in 0..count {
                        let t = terms.terms::<S, true>(s, params, at + i * width + col, n);
                        a = s.add(a, t[0]);
                        b = s.add(b, t[1]);
                    }
                    s.store_n(first, n, a);
                    s.store_n(second, n, b);
                }
                row += count;
            }
        }
    }
}

/// Walks the columns of a row: runs `$body` for every vector of columns, then once for those that fill none, with the
/// first column, the number of columns and whether the vector is partial.
macro_rules! for_columns {
    ($simd:ident, $len:expr, |$col:ident, $n:ident, $partial:ident| $body:expr) => {{
        let len = $len;
        let mut $col = 0;
        while $col + $simd::LANES <= len {
            const $partial: bool = false;
            let $n = $simd::LANES;
            $body;
            $col += $simd::LANES;
        }
        if $col < len {
            const $partial: bool = true;
            let $n = len - $col;
            $body;
        }
    }};
}
pub(crate) use for_columns;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_cover_every_element_once() {
        for rows in [0, 1, 5, 300, 5000] {
            for channels in [1, 3, 16, 24, 127, 128, 130, 2048] {
                let layout = Layout::new(rows, channels);
                let (blocks, per_block) = layout.blocks();
                let mut next = 0;
                for i in 0..blocks {
                    let part = layout.block(i, per_block);
                    assert_eq!(part.start, next);
                    next += part.rows * part.width;
                }
                assert_eq!(next, rows * channels, "{rows} x {channels}");
            }
        }
    }
}
