//! The driver above the tiles: cuts a product into chunks, builds row pointers, walks panels and blocks of the reduction.

use crate::buffer::{Local, with_local};
use crate::epilogue::Post;
use crate::moments;
use crate::panels::Packed;
use crate::pool::{likely_next, num_threads, parallel_for};
use crate::simd::{Kernel, Simd, dispatch_on};
use crate::tile::{Ahead, Tile, run_tile};

/// Where the rows of the left operand lie and which output row each one makes.
pub(crate) trait Rows: Sync {
    /// How many rows there are.
    fn count(&self) -> usize;

    /// Describes rows `first..first + rows`: pointers to `a[tap * rows + row]`, output row numbers to `outputs[row]`.
    ///
    /// Each pointer is valid for reading the product's `k_per_tap` floats of every group (groups lie side by side).
    fn fill(&self, first: usize, a: &mut [*const f32], outputs: &mut [usize]);
}

/// Rows `ld` floats apart, each making the output row of the same number.
pub(crate) struct MatrixRows {
    pub data: *const f32,
    pub ld: usize,
    pub count: usize,
}

// SAFETY: the pointer comes from a shared slice that outlives the job, and is only read.
unsafe impl Sync for MatrixRows {}

impl Rows for MatrixRows {
    fn count(&self) -> usize {
        self.count
    }
    fn fill(&self, first: usize, a: &mut [*const f32], outputs: &mut [usize]) {
        for (i, (a, output)) in a.iter_mut().zip(outputs).enumerate() {
            *a = self.data.wrapping_add((first + i) * self.ld);
            *output = first + i;
        }
    }
}

/// Output: row `r`, column `c` is element `r * ld + c`.
#[derive(Clone, Copy)]
pub(crate) struct Output {
    pub data: *mut f32,
    pub ld: usize,
}

impl Output {
    /// The same from column `col` on.
    pub fn columns_from(self, col: usize) -> Self {
        Output {
            data: self.data.wrapping_add(col),
            ..self
        }
    }
}

// SAFETY: chunks of a product write disjoint elements; the slice behind the pointer outlives the job.
unsafe impl Send for Output {}
// SAFETY: as above.
unsafe impl Sync for Output {}

/// output = post(rows x weights), group by group.
pub(crate) struct Product<'a, R> {
    pub rows: &'a R,
    pub taps: usize,
    pub weights: &'a Packed,
    pub output: Output,
    pub post: Option<Post>,
    pub accumulate: bool,
    /// How far apart groups lie in the rows and in the output: for a convolution the channels of a group, side by side.
    pub group_steps: [usize; 2],
}

/// Multiply-accumulates of a chunk that takes about 20 us on a fast core.
pub(crate) const CHUNK: usize = 1 << 20;
/// Floats of the right side of a chunk, where rows are so few that reading it takes longer than multiplying: 10 us from memory.
const CHUNK_WEIGHTS: usize = 24 << 10;
/// Rows of a chunk, give or take a half: their data and two slices of panels stay in the second cache level. The 197 tokens of an image
/// are not cut.
const CHUNK_ROWS: usize = 132;
/// Chunks a thread, where there is work for them: every chunk reads its rows and its panels from a slow cache level or from memory.
const CHUNKS_PER_THREAD: usize = 4;
/// Up to so many floats of the right side (2 MB), few rows are cut in two at least, so that two threads share them as the layers before and
/// behind do: lines that another thread has read take several times as long to be written again. More of the right side than that would
/// come from memory twice.
const HALVED: usize = 512 << 10;
/// Chunks where the cut must not depend on the number of threads.
const CHUNKS: usize = 32;
/// Length of the reduction that is walked at once: a slice of a panel takes 256 KB with AVX-512, 64 KB with AVX2 (a quarter of
/// that, which the first cache level would hold, is no faster).
const BLOCK_K: usize = 1024;

/// How a product is cut: into `row_blocks` times `panel_blocks` (over all convolution groups) chunks. What is computed does not depend
/// on it, except which rows' moments are taken together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    pub row_blocks: usize,
    pub panel_blocks: usize,
}

/// The size of a product: `rows` x `k`, `per_tap` of them different, times `panels` panels of altogether `n` columns.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub rows: usize,
    pub k: usize,
    pub per_tap: usize,
    pub n: usize,
    pub panels: usize,
    pub tile_rows: usize,
}

impl Size {
    /// The cut that reads least, of those that come to half of `chunks` chunks or more; there are fewer where the work or the panels are few.
    pub fn cut(self, chunks: usize) -> Cut {
        let work = self
            .rows
            .saturating_mul(self.k.max(1))
            .saturating_mul(self.n);
        let weights = self.k.saturating_mul(self.n);
        let wanted = (work / CHUNK).max(weights / CHUNK_WEIGHTS);
        // An even number: two threads take halves then.
        let wanted = match wanted.clamp(1, chunks) {
            1 => 1,
            wanted => wanted.next_multiple_of(2),
        };
        // Half of them will do where more would read more.
        let enough = wanted.min(chunks.div_ceil(2));
        let halves = wanted > 1 && self.rows >= 4 * self.tile_rows && weights <= HALVED;
        let fewest = ((self.rows + CHUNK_ROWS / 2) / CHUNK_ROWS).max(if halves { 2 } else { 1 });
        // Down to two tiles.
        let most = self.rows.div_ceil(2 * self.tile_rows).max(fewest);
        let cuts = (fewest..=most.min(wanted.max(fewest))).map(|row_blocks| Cut {
            row_blocks,
            panel_blocks: wanted.div_ceil(row_blocks).min(self.panels).max(1),
        });
        let fine =
            |cut: &Cut| cut.row_blocks * cut.panel_blocks >= enough || cut.row_blocks == most;
        let reads = |cut: &Cut| {
            cut.row_blocks * self.k * self.n + cut.panel_blocks * self.rows * self.per_tap
        };
        let odd = |cut: &Cut| cut.row_blocks * cut.panel_blocks % 2;
        let worth = |cut: &Cut| (odd(cut), reads(cut));
        cuts.filter(fine).min_by_key(worth).unwrap_or(Cut {
            row_blocks: most,
            panel_blocks: self.panels.max(1),
        })
    }
}

impl<R: Rows> Product<'_, R> {
    /// Runs it on all threads.
    ///
    /// # Safety
    ///
    /// The row pointers must be readable as [`Rows::fill`] says, the output writable at every output row for
    /// its groups' columns by nobody else, and the post's pointers readable for these rows and columns.
    pub unsafe fn run(&self) {
        let panels = self.weights.panels;
        let all_panels = panels.count * self.weights.groups;
        let rows = self.rows.count();
        if rows == 0 || all_panels == 0 {
            return;
        }
        let size = Size {
            rows,
            k: self.weights.k,
            per_tap: self.weights.k / self.taps.max(1),
            n: panels.n * self.weights.groups,
            panels: all_panels,
            tile_rows: panels.tile_rows(),
        };
        // SAFETY: the caller promised that the post is valid.
        let moments = self.post.as_ref().and_then(|p| unsafe { p.moments() });
        let cut = size.cut(match moments {
            Some(_) => CHUNKS,
            None => CHUNKS_PER_THREAD * num_threads(),
        });
        let first_panel = |block: usize| block * all_panels / cut.panel_blocks;
        parallel_for(cut.row_blocks * cut.panel_blocks, |i| {
            let (row, panel) = (i / cut.panel_blocks, i % cut.panel_blocks);
            // The next rows' weights are in a cache already.
            let next = likely_next(i).filter(|next| next / cut.panel_blocks == row);
            let chunk = Chunk {
                product: self,
                rows: row * rows / cut.row_blocks..(row + 1) * rows / cut.row_blocks,
                panels: first_panel(panel)..first_panel(panel + 1),
                next: next.map(|next| first_panel(next % cut.panel_blocks)),
            };
            dispatch_on(panels.isa, chunk);
        });
    }

    /// Runs it on the calling thread.
    ///
    /// # Safety
    ///
    /// As for [`Product::run`].
    pub unsafe fn run_here(&self) {
        let all_panels = self.weights.panels.count * self.weights.groups;
        // SAFETY: the caller's promise.
        unsafe { self.run_panels_here(0..all_panels) };
    }

    /// Runs some panels, counted through all groups, on the calling thread.
    ///
    /// # Safety
    ///
    /// As for [`Product::run`], for these panels' columns.
    pub unsafe fn run_panels_here(&self, panels: std::ops::Range<usize>) {
        let chunk = Chunk {
            product: self,
            rows: 0..self.rows.count(),
            panels,
            next: None,
        };
        dispatch_on(self.weights.panels.isa, chunk);
    }
}

struct Chunk<'a, R> {
    product: &'a Product<'a, R>,
    rows: std::ops::Range<usize>,
    panels: std::ops::Range<usize>,
    /// The panel that this thread is likely to read next.
    next: Option<usize>,
}

impl<R: Rows> Kernel for Chunk<'_, R> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        if !self.rows.is_empty() && !self.panels.is_empty() {
            with_local(|local| self.run_with(s, local));
        }
    }
}

impl<R: Rows> Chunk<'_, R> {
    fn run_with<S: Simd>(&self, s: S, local: &mut Local) {
        let product = self.product;
        let (panels, taps) = (product.weights.panels, product.taps);
        let per_tap = product.weights.k / taps.max(1);
        let count = self.rows.len();
        // Tiles of equal height, give or take one row: a last tile of one row would run at a fraction of the speed.
        let tiles = count.div_ceil(panels.tile_rows());
        let (low, tall) = (count / tiles, count % tiles);
        let tile_rows = |tile: usize| {
            let start = |tile: usize| tile * low + tile.min(tall);
            start(tile)..start(tile + 1)
        };
        let runs = [(0, tall, low + 1), (tall, tiles - tall, low)];
        local.rows.resize(count * taps, std::ptr::null());
        local.outputs.resize(count, 0);
        for tile in 0..tiles {
            let range = tile_rows(tile);
            product.rows.fill(
                self.rows.start + range.start,
                &mut local.rows[range.start * taps..range.end * taps],
                &mut local.outputs[range],
            );
        }
        // SAFETY: the caller of `run` promised that the post is valid.
        let moments = product.post.as_ref().and_then(|p| unsafe { p.moments() });
        let rows = &local.outputs[..count];
        let mut moments = moments.map(|moments| {
            let column = |index: usize| {
                let panel = panels.get(index % panels.count);
                let start = index / panels.count * product.group_steps[1] + panel.col;
                start..start + panel.cols
            };
            let cols = column(self.panels.start).start..column(self.panels.end - 1).end;
            let output = (product.output.data.cast_const(), product.output.ld);
            moments::Chunk::new(moments, output, rows, cols)
        });
        for block in Blocks::new(taps, per_tap) {
            for index in self.panels.clone() {
                let (group, panel) = (index / panels.count, panels.get(index % panels.count));
                let weights = product.weights.panel(group, &panel);
                let first_col = group * product.group_steps[1] + panel.col;
                let last = block.last;
                let b = weights[block.k_start * panel.width..].as_ptr();
                // A slice of a panel takes as long to come from memory as a few tiles to compute: the next one is asked for
                // meanwhile.
                let slice = block.taps * block.k * panel.width;
                let (next, start) = match (index + 1 < self.panels.end, last) {
                    (true, _) => (Some(index + 1), block.k_start),
                    (false, true) => (self.next, 0),
                    (false, false) => (
                        Some(self.panels.start),
                        block.k_start + block.taps * block.k,
                    ),
                };
                let next = next.map(|next| {
                    let panel = panels.get(next % panels.count);
                    product.weights.panel(next / panels.count, &panel)[start * panel.width..]
                        .as_ptr()
                });
                let steps = tiles * block.taps * block.k;
                let mut ahead = next.map_or(Ahead::NONE, |at| Ahead::new(at, slice, steps));
                for (first, count, mr) in runs {
                    if count == 0 {
                        continue;
                    }
                    let start = tile_rows(first).start;
                    let tile = Tile {
                        count,
                        rows: local.rows[start * taps + block.tap * mr..].as_ptr(),
                        rows_step: taps * mr,
                        taps: block.taps,
                        k: block.k,
                        offset: group * product.group_steps[0] + block.offset,
                        b,
                        ldb: panel.width,
                        c: product.output.data.wrapping_add(first_col),
                        ldc: product.output.ld,
                        outputs: local.outputs[start..].as_ptr(),
                        cols: panel.cols,
                        accumulate: product.accumulate || block.k_start > 0,
                        post: if last { product.post.as_ref() } else { None },
                        first_col,
                        ahead,
                    };
                    ahead.advance(count * tile.asks());
                    // SAFETY: the tables hold the tiles' rows for all taps; the packed panel holds `k` rows of `width` floats;
                    // the rest is what the caller of `run` promised.
                    unsafe { run_tile(s, mr, panel.vectors, &tile) };
                }
                if last && let Some(moments) = &mut moments {
                    // SAFETY: the panel's columns of these rows were just written, by this thread.
                    unsafe { moments.sum(s, first_col, panel.cols) };
                }
            }
        }
        if let Some(moments) = moments {
            moments.finish();
        }
    }
}

/// Pieces of the reduction over `[taps][k]`: whole taps where they are short, parts of one tap where it is long.
struct Blocks {
    taps: usize,
    k: usize,
    taps_at_once: usize,
    k_at_once: usize,
    tap: usize,
    offset: usize,
}

struct Block {
    tap: usize,
    taps: usize,
    offset: usize,
    k: usize,
    /// Rows of the panel before this block.
    k_start: usize,
    last: bool,
}

impl Blocks {
    fn new(taps: usize, k: usize) -> Self {
        // Even parts, none longer than BLOCK_K by more than half.
        let parts =
            |whole: usize, most: usize| whole.div_ceil((whole + most / 2).div_euclid(most).max(1));
        let (taps_at_once, k_at_once) = if k == 0 {
            (taps, 0)
        } else if k <= BLOCK_K {
            (parts(taps, (BLOCK_K / k).max(1)), k)
        } else {
            (1, parts(k, BLOCK_K))
        };
        Blocks {
            taps,
            k,
            taps_at_once: taps_at_once.max(1),
            k_at_once,
            tap: 0,
            offset: 0,
        }
    }
}

impl Iterator for Blocks {
    type Item = Block;

    fn next(&mut self) -> Option<Block> {
        if self.tap >= self.taps {
            return None;
        }
        let taps = self.taps_at_once.min(self.taps - self.tap);
        let k = self.k_at_once.min(self.k - self.offset);
        let mut block = Block {
            tap: self.tap,
            taps,
            offset: self.offset,
            k,
            k_start: self.tap * self.k + self.offset,
            last: false,
        };
        self.offset += k;
        if self.offset >= self.k {
            self.offset = 0;
            self.tap += taps;
        }
        block.last = self.tap >= self.taps;
        Some(block)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_cover_the_reduction_once() {
        for (taps, k) in [
            (1, 1),
            (9, 64),
            (9, 512),
            (9, 1025),
            (1, 25088),
            (3, 21),
            (49, 3),
            (2, 1024),
            (1, 1500),
        ] {
            let mut next = 0;
            let mut ended = false;
            for block in Blocks::new(taps, k) {
                assert!(!ended);
                assert_eq!(block.k_start, next);
                assert!(block.taps == 1 || (block.offset == 0 && block.k == k));
                next += block.taps * block.k;
                ended = block.last;
            }
            assert!(ended);
            assert_eq!(next, taps * k, "{taps} x {k}");
        }
    }

    #[test]
    fn cuts_read_little() {
        let size = |rows, k, per_tap, n: usize| Size {
            rows,
            k,
            per_tap,
            n,
            panels: n.div_ceil(64),
            tile_rows: 6,
        };
        let cut = |row_blocks, panel_blocks| Cut {
            row_blocks,
            panel_blocks,
        };
        // A small layer stays whole, a large one gives every thread something.
        assert_eq!(size(49, 64, 64, 64).cut(8), cut(1, 1));
        assert_eq!(size(3136, 64, 64, 64).cut(8), cut(24, 1));
        assert_eq!(size(1576, 768, 768, 3072).cut(8), cut(12, 1));
        // Few rows and long panels: the panels are read once.
        assert_eq!(size(49, 2048, 2048, 512).cut(8), cut(1, 8));
        assert_eq!(size(49, 4608, 512, 512).cut(8), cut(1, 8));
        assert_eq!(size(1, 25088, 25088, 4096).cut(8), cut(1, 8));
        // One row is little work but as much to read.
        assert_eq!(size(1, 1280, 1280, 1000).cut(8), cut(1, 8));
        // Little to read: the rows are halved.
        assert_eq!(size(49, 1152, 1152, 256).cut(8), cut(2, 4));
        // Too few panels: half of the chunks are enough.
        assert_eq!(size(49, 4608, 512, 256).cut(8), cut(1, 4));
        // Still fewer: the rows are cut finer, down to two tiles.
        assert_eq!(size(49, 2048, 2048, 128).cut(8), cut(2, 2));
        assert_eq!(size(49, 4096, 4096, 64).cut(8), cut(4, 1));
        assert_eq!(size(49, 4096, 4096, 64).cut(32), cut(5, 1));
        for threads in 1..70 {
            let cut = size(784, 1152, 128, 512).cut(4 * threads);
            assert!(
                cut.row_blocks * cut.panel_blocks >= 2 * threads.min(64),
                "{cut:?}"
            );
        }
    }
}
