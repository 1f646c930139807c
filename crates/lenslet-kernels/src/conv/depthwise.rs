//! Depthwise convolution: every channel by itself, vectors across channels.
//!
//! A tile is seven output columns by two vectors of channels, by one vector of two rows of outputs, or by one vector. Rows lie
//! outside, columns inside them, vectors of channels innermost. Rows of taps in the padding are left out; columns in the padding cost a
//! branch, and only in tiles that touch the border.

use super::depthwise_tile::{
    COLUMNS, ColumnTile, Seen, Strip, WIDEST, has_pairs, run_pair, run_strip, strip_vectors,
};
use super::{Conv2d, Pass};
use crate::buffer::AlignedBuf;
use crate::epilogue::Post;
use crate::matrix::Matrix;
use crate::moments::Chunk;
use crate::pool::{num_threads, parallel_for};
use crate::product::Output;
use crate::simd::{Isa, Kernel, Simd, dispatch_on, isa};
use crate::tile::geometry;

/// Multiply-accumulates of a chunk of rows: about 20 us of a fast core.
const CHUNK: usize = 1 << 19;

/// Weights as `[taps][channels]`, channels padded to whole vectors, and where the taps lie.
#[derive(Debug)]
pub(super) struct Depthwise {
    isa: Isa,
    weights: AlignedBuf,
    channels: usize,
    padded: usize,
    phases: Vec<Phase>,
}

/// Output pixels that share their taps: all in a forward pass, one residue class in the gradient of a strided convolution.
#[derive(Debug)]
struct Phase {
    /// Input position relative to the grid point's, and kernel row or column.
    tap_rows: Vec<(isize, usize)>,
    tap_cols: Vec<(isize, usize)>,
    kernel_width: usize,
    grid: [usize; 2],
    in_step: [usize; 2],
    out_step: [usize; 2],
    out_offset: [usize; 2],
}

impl Default for Depthwise {
    fn default() -> Self {
        Depthwise {
            isa: isa(),
            weights: AlignedBuf::new(),
            channels: 0,
            padded: 0,
            phases: Vec::new(),
        }
    }
}

impl Depthwise {
    pub fn pack(&mut self, shape: &Conv2d, output: [usize; 2], pass: Pass, weight: &[f32]) {
        self.isa = isa();
        let (lanes, _) = geometry(self.isa);
        let (c, taps) = (shape.c_in, shape.taps());
        (self.channels, self.padded) = (c, c.next_multiple_of(lanes));
        let padded = self.padded;
        for (tap, row) in self
            .weights
            .resize(taps * padded)
            .chunks_exact_mut(padded)
            .enumerate()
        {
            row[c..].fill(0.0);
            for (to, from) in row[..c].iter_mut().zip(weight[tap..].iter().step_by(taps)) {
                *to = *from;
            }
        }
        self.phases.clear();
        let kernel_width = shape.kernel[1];
        if pass == Pass::Forward {
            let taps = |axis: usize| {
                (0..shape.kernel[axis])
                    .map(|k| {
                        (
                            (k * shape.dilation[axis]) as isize - shape.padding[axis] as isize,
                            k,
                        )
                    })
                    .collect()
            };
            self.phases.push(Phase {
                tap_rows: taps(0),
                tap_cols: taps(1),
                kernel_width,
                grid: output,
                in_step: shape.stride,
                out_step: [1, 1],
                out_offset: [0, 0],
            });
            return;
        }
        let [sy, sx] = shape.stride;
        for ry in 0..sy.min(shape.h) {
            for rx in 0..sx.min(shape.w) {
                // In the order of their positions, which is the reverse of the kernel's.
                let taps = |axis: usize, residue: usize| {
                    let stride = shape.stride[axis] as isize;
                    (0..shape.kernel[axis])
                        .rev()
                        .filter_map(|k| {
                            let at = (residue + shape.padding[axis]) as isize
                                - (k * shape.dilation[axis]) as isize;
                            (at.rem_euclid(stride) == 0).then_some((at.div_euclid(stride), k))
                        })
                        .collect()
                };
                self.phases.push(Phase {
                    tap_rows: taps(0, ry),
                    tap_cols: taps(1, rx),
                    kernel_width,
                    grid: [(shape.h - ry).div_ceil(sy), (shape.w - rx).div_ceil(sx)],
                    in_step: [1, 1],
                    out_step: [sy, sx],
                    out_offset: [ry, rx],
                });
            }
        }
    }

    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Runs the pass over `n` images of `c` channels.
    ///
    /// # Safety
    ///
    /// Input, output and post must cover `n` images of these sizes.
    #[allow(clippy::too_many_arguments)]
    pub unsafe fn run(
        &self,
        n: usize,
        c: usize,
        x: Matrix<'_>,
        input: [usize; 2],
        output: [usize; 2],
        y: Output,
        post: Post,
    ) {
        for phase in &self.phases {
            let rows = n * phase.grid[0];
            let taps = (phase.tap_rows.len() * phase.tap_cols.len()).max(1);
            let per_row = phase.grid[1] * taps * c;
            // Two rows, where they can be computed together and that leaves every thread some. Moments are sums by chunks, which must not
            // depend on the number of threads.
            let enough = if post.moments.is_null() {
                num_threads()
            } else {
                1
            };
            let least = if phase.has_pairs(self.isa) && rows >= 2 * enough {
                2
            } else {
                1
            };
            let at_once = (CHUNK / per_row).clamp(least, rows.div_ceil(8).max(least));
            // An even number: two threads take halves then, as they do of what is computed before and behind.
            let chunks = rows.div_ceil(at_once).next_multiple_of(2).min(rows);
            parallel_for(chunks, |i| {
                dispatch_on(
                    self.isa,
                    RowsKernel {
                        weights: self,
                        phase,
                        c,
                        x,
                        input,
                        output,
                        y,
                        post: &post,
                        rows: i * rows / chunks..(i + 1) * rows / chunks,
                        held: usize::MAX,
                        first: 0,
                        channel: 0,
                    },
                );
            });
        }
    }

    /// Computes `c` channels from `channel` on of some rows of the output of a forward pass, counted through all images, on the calling
    /// thread. Row `r` of the input, counted likewise, lies at row `r % held` of `x`; `y` begins with row `first` of the output. Input, output
    /// and post begin with these channels.
    ///
    /// # Safety
    ///
    /// Input, output and post must cover these rows of the output and what they see.
    #[allow(clippy::too_many_arguments)]
    pub unsafe fn run_rows(
        &self,
        rows: std::ops::Range<usize>,
        [channel, c]: [usize; 2],
        x: Matrix<'_>,
        input: [usize; 2],
        output: [usize; 2],
        y: Output,
        post: &Post,
        held: usize,
        first: usize,
    ) {
        dispatch_on(
            self.isa,
            RowsKernel {
                weights: self,
                phase: &self.phases[0],
                c,
                x,
                input,
                output,
                y,
                post,
                rows,
                held,
                first,
                channel,
            },
        );
    }
}

impl Phase {
    /// Where the weights lie, if the taps are neighbours in the order of their columns and the fast tiles have room for them.
    fn fast_taps(&self, padded: usize) -> Option<FastTaps> {
        let (rows, cols) = (&self.tap_rows, &self.tap_cols);
        if rows.len() > WIDEST || cols.len() > WIDEST || cols.is_empty() || !neighbours(cols) {
            return None;
        }
        let mut taps = FastTaps {
            tap_weights: [0; WIDEST],
            row_weights: [0; WIDEST],
        };
        for (at, tap) in taps.tap_weights.iter_mut().zip(cols) {
            *at = tap.1 * padded;
        }
        for (at, tap) in taps.row_weights.iter_mut().zip(rows) {
            *at = tap.1 * self.kernel_width * padded;
        }
        Some(taps)
    }

    /// Whether two rows of outputs can be computed together.
    fn has_pairs(&self, isa: Isa) -> bool {
        let taps = self.tap_cols.len();
        self.in_step == [1, 1]
            && self.tap_rows.len() == taps
            && has_pairs(isa, taps)
            && neighbours(&self.tap_rows)
            && neighbours(&self.tap_cols)
    }
}

/// Whether taps lie one behind the other.
fn neighbours(taps: &[(isize, usize)]) -> bool {
    taps.windows(2).all(|pair| pair[1].0 == pair[0].0 + 1)
}

/// Where the fast tiles find the weights of each tap of a row, and each row's.
struct FastTaps {
    tap_weights: [usize; WIDEST],
    row_weights: [usize; WIDEST],
}

/// Some rows of the grid, counted through all images.
struct RowsKernel<'a> {
    weights: &'a Depthwise,
    phase: &'a Phase,
    c: usize,
    x: Matrix<'a>,
    input: [usize; 2],
    output: [usize; 2],
    y: Output,
    post: &'a Post,
    rows: std::ops::Range<usize>,
    /// How many rows of the input `x` has: each lies where the rest of its number by this says.
    held: usize,
    /// The row of the output that `y` begins with, counted likewise.
    first: usize,
    /// The channel that input, output and post begin with.
    channel: usize,
}

impl Kernel for RowsKernel<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let grid_h = self.phase.grid[0];
        let taps = self.phase.fast_taps(self.weights.padded);
        let taps = taps.as_ref();
        let pairs = taps.filter(|_| self.c >= S::LANES && self.phase.has_pairs(S::ISA));
        let mut row = self.rows.start;
        while row < self.rows.end {
            let both = row + 1 < self.rows.end && row % grid_h + 1 < grid_h;
            let (count, c) = match pairs {
                Some(taps) if both => (2, self.pair(s, taps, row)),
                _ => (1, 0),
            };
            for row in row..row + count {
                self.row(s, taps, row, c);
                if !self.post.row_means.is_null() {
                    self.mean(s, row);
                }
            }
            row += count;
        }
        self.sum_moments(s);
    }
}

impl RowsKernel<'_> {
    /// Where a row of outputs lies, counted through all images.
    fn place(&self, row: usize) -> RowPlace {
        let phase = self.phase;
        let (image, row) = (row / phase.grid[0], row % phase.grid[0]);
        let y = (row * phase.in_step[0]) as isize;
        let out_row = row * phase.out_step[0] + phase.out_offset[0];
        let out_row = image * self.output[0] + out_row - self.first;
        RowPlace {
            y,
            top: (image * self.input[0]) as isize + y,
            pixel: out_row * self.output[1] + phase.out_offset[1],
        }
    }

    /// First pixel of the input's row `dy` rows below the one under the first row of taps, where that lies in the image.
    fn input_row(&self, place: &RowPlace, dy: isize) -> Option<usize> {
        let inside = (0..self.input[0] as isize).contains(&(place.y + dy));
        inside.then(|| (place.top + dy) as usize % self.held * self.input[1])
    }

    /// What a row of outputs sees.
    fn seen(&self, place: &RowPlace, taps: &FastTaps) -> Seen {
        let mut seen = Seen::default();
        for (tap, &weights) in self.phase.tap_rows.iter().zip(&taps.row_weights) {
            if let Some(row) = self.input_row(place, tap.0) {
                seen.push(row, [weights; 2]);
            }
        }
        seen
    }

    /// What two rows of outputs see, of which one or both look at a row of the input.
    fn seen_by_pair(&self, place: &RowPlace, taps: &FastTaps) -> Seen {
        let count = self.phase.tap_rows.len();
        let at = |i: usize| self.input_row(place, self.phase.tap_rows[0].0 + i as isize);
        let weights = &taps.row_weights;
        let mut seen = Seen::default();
        seen.above = at(0).map(|row| (row, weights[0]));
        seen.below = at(count).map(|row| (row, weights[count - 1]));
        for i in 1..count {
            if let Some(row) = at(i) {
                seen.push(row, [weights[i], weights[i - 1]]);
            }
        }
        seen
    }

    /// What the fast tiles need to know of a row of outputs, or of two that begin there, from channel `c` on.
    fn strip<'s>(
        &'s self,
        place: &RowPlace,
        taps: &FastTaps,
        seen: &'s Seen,
        c: usize,
        repeats: usize,
    ) -> Strip<'s> {
        let phase = self.phase;
        Strip {
            x: self.x.data.as_ptr().wrapping_add(c),
            ld: self.x.ld,
            w: self.input[1],
            above: seen.above,
            rows: seen.rows(),
            below: seen.below,
            first_tap: phase.tap_cols[0].0,
            tap_weights: taps.tap_weights,
            weights: self.weights.weights.as_ptr().wrapping_add(self.channel + c),
            out: self.y,
            post: self.post,
            pixel: place.pixel,
            pixel_step: phase.out_step[1],
            row_step: phase.out_step[0] * self.output[1],
            columns: phase.grid[1],
            c,
            repeats,
        }
    }

    /// Two rows of outputs; the number of channels that are done, all but those that fill no vector.
    #[inline(always)]
    fn pair<S: Simd>(&self, s: S, taps: &FastTaps, row: usize) -> usize {
        let phase = self.phase;
        let place = self.place(row);
        let seen = self.seen_by_pair(&place, taps);
        let repeats = self.c / S::LANES;
        let strip = self.strip(&place, taps, &seen, 0, repeats);
        // SAFETY: rows outside the image are left out, channels stop at the last whole vector; the caller of `Depthwise::run` promised the
        // slices; the weights' rows are whole vectors.
        unsafe { run_pair(s, phase.tap_cols.len(), &strip) };
        repeats * S::LANES
    }

    /// One row of outputs, from channel `c` on.
    #[inline(always)]
    fn row<S: Simd>(&self, s: S, taps: Option<&FastTaps>, row: usize, mut c: usize) {
        if c == self.c {
            return;
        }
        let phase = self.phase;
        let place = self.place(row);
        let fast = taps.map(|taps| (taps, self.seen(&place, taps)));
        while c < self.c {
            let left = self.c - c;
            let vectors = if left >= 2 * S::LANES {
                strip_vectors(S::ISA)
            } else {
                1
            };
            if let Some((taps, seen)) = &fast
                && left >= S::LANES
            {
                let repeats = left / (vectors * S::LANES);
                let strip = self.strip(&place, taps, seen, c, repeats);
                // SAFETY: as for two rows.
                if unsafe { run_strip(s, phase.tap_cols.len(), phase.in_step[1], vectors, &strip) }
                {
                    c += repeats * vectors * S::LANES;
                    continue;
                }
            }
            self.columns(s, &place, c, vectors);
            c += vectors * S::LANES;
        }
    }

    /// All columns of one row of outputs for one or two vectors of channels, any taps.
    #[inline(always)]
    fn columns<S: Simd>(&self, s: S, place: &RowPlace, c: usize, vectors: usize) {
        let phase = self.phase;
        let (w, grid_w, left) = (self.input[1], phase.grid[1], self.c - c);
        let leftmost = phase.tap_cols.iter().map(|tap| tap.0).min().unwrap_or(0);
        let rightmost = phase.tap_cols.iter().map(|tap| tap.0).max().unwrap_or(0);
        let mut col = 0;
        while col < grid_w {
            // The last tile is moved to the left, so that it is whole; some outputs are computed twice.
            let start = col.min(grid_w.saturating_sub(COLUMNS));
            let x0 = (start * phase.in_step[1]) as isize;
            let last = x0 + ((COLUMNS - 1) * phase.in_step[1]) as isize;
            let edge = x0 + leftmost < 0 || last + rightmost >= w as isize;
            let tile = ColumnTile {
                x: self.x.data.as_ptr().wrapping_add(c),
                ld: self.x.ld,
                w,
                x0,
                step: phase.in_step[1],
                weights: self.weights.weights.as_ptr().wrapping_add(self.channel + c),
                padded: self.weights.padded,
                kernel_width: phase.kernel_width,
                out: self.y,
                post: self.post,
                pixel: place.pixel + start * phase.out_step[1],
                pixel_step: phase.out_step[1],
                columns: COLUMNS.min(grid_w - start),
                c,
                n: left.min(S::LANES),
            };
            let seen = |&(dy, ky): &(isize, usize)| self.input_row(place, dy).map(|row| (row, ky));
            let rows = phase.tap_rows.iter().filter_map(seen);
            let cols = &phase.tap_cols[..];
            // SAFETY: rows outside the image are left out, columns outside it too (`edge`); channels stop at `c`; the caller
            // of `Depthwise::run` promised the slices; the weights' rows are whole vectors.
            unsafe {
                match (vectors, left < S::LANES, edge) {
                    (2, _, false) => tile.run::<S, 2, false, false>(s, rows, cols),
                    (2, _, true) => tile.run::<S, 2, false, true>(s, rows, cols),
                    (_, false, false) => tile.run::<S, 1, false, false>(s, rows, cols),
                    (_, false, true) => tile.run::<S, 1, false, true>(s, rows, cols),
                    (_, true, false) => tile.run::<S, 1, true, false>(s, rows, cols),
                    (_, true, true) => tile.run::<S, 1, true, true>(s, rows, cols),
                }
            }
            col = start + COLUMNS;
        }
    }

    /// The mean of a row just written, channel by channel.
    #[inline(always)]
    fn mean<S: Simd>(&self, s: S, row: usize) {
        let pixels = self.phase.grid[1];
        let from = self.y.data.wrapping_add(self.place(row).pixel * self.y.ld);
        let to = (self.post.row_means).wrapping_add(row * self.weights.channels);
        let share = s.splat(1.0 / pixels as f32);
        let mut c = 0;
        // SAFETY: the row is this thread's, the caller of `Depthwise::run` promised the slices.
        unsafe {
            while c + 4 * S::LANES <= self.c {
                let mut sums = [s.zero(); 4];
                for pixel in 0..pixels {
                    for v in 0..4 {
                        let x = s.load(from.add(pixel * self.y.ld + c + v * S::LANES));
                        sums[v] = s.add(sums[v], x);
                    }
                }
                for v in 0..4 {
                    s.store(to.add(c + v * S::LANES), s.mul(share, sums[v]));
                }
                c += 4 * S::LANES;
            }
            while c < self.c {
                let n = (self.c - c).min(S::LANES);
                let mut sum = s.zero();
                for pixel in 0..pixels {
                    sum = s.add(sum, s.load_n(from.add(pixel * self.y.ld + c), n));
                }
                s.store_n(to.add(c), n, s.mul(share, sum));
                c += n;
            }
        }
    }

    /// Sums of the rows just written, where the epilogue asks for them.
    #[inline(always)]
    fn sum_moments<S: Simd>(&self, s: S) {
        let phase = self.phase;
        let grid_w = phase.grid[1];
        // SAFETY: the caller of `Depthwise::run` promised that the post is valid.
        if let Some(moments) = unsafe { self.post.moments() } {
            let pixels: Vec<usize> = self
                .rows
                .clone()
                .flat_map(|row| {
                    let first = self.place(row).pixel;
                    (0..grid_w).map(move |col| first + col * phase.out_step[1])
                })
                .collect();
            let output = (self.y.data.cast_const(), self.y.ld);
            let mut chunk = Chunk::new(moments, output, &pixels, 0..self.c);
            // SAFETY: all channels of these pixels were just written, by this thread.
            unsafe { chunk.sum(s, 0, self.c) };
            chunk.finish();
        }
    }
}

/// Where a row of outputs lies.
struct RowPlace {
    /// Row of the input under the first row of taps, in its image and counted through all images. It may lie above the image.
    y: isize,
    top: isize,
    /// Output pixel of column 0.
    pixel: usize,
}
