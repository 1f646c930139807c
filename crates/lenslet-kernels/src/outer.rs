//! Products that reduce over pixels: weight gradients.
//!
//! For every tap, `c[i][j]` is the sum over output pixels of `a[pixel][i] * b[pixel][j]`. One side is the gradient of a layer's output, the
//! other its input, shifted by the tap; both are read in place. Work is cut by taps, rows and columns of `c`, so that no two
//! threads add to the same number; only where `c` is too small for that are the pixels cut too, and the parts added up in a
//! fixed order.

use crate::buffer::{AlignedBuf, with_local};
use crate::pool::{SharedMut, parallel_for};
use crate::simd::{Isa, Kernel, Simd, dispatch_on, isa};
use crate::tile::{geometry, max_rows, max_vectors};

/// One operand: element (image, row, col, channel) of group `g` lies at the strides' product with these numbers plus
/// `g * group_stride + channel`.
#[derive(Clone, Copy)]
pub(crate) struct Side {
    pub data: *const f32,
    /// Channels of a group.
    pub channels: usize,
    /// Floats from one image, row, column to the next.
    pub strides: [usize; 3],
    pub group_stride: usize,
}

/// Where a tap finds input: the rectangle of output pixels, and how far each side's pointer moves there.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    pub rows: std::ops::Range<usize>,
    pub cols: std::ops::Range<usize>,
    /// Floats to add to the pointers, which may point before the slice until the rectangle's start is added.
    pub a_shift: isize,
    pub b_shift: isize,
}

impl Span {
    /// One row of `cols` pixels without any shift.
    pub fn full(cols: usize) -> Self {
        Span {
            rows: 0..1,
            cols: 0..cols,
            a_shift: 0,
            b_shift: 0,
        }
    }
}

/// The whole problem. Output layout: `[group][tap][a.channels][b.channels]`.
pub(crate) struct Outer<'a> {
    pub a: Side,
    pub b: Side,
    pub groups: usize,
    pub images: usize,
    pub rows: usize,
    pub cols: usize,
    pub taps: &'a [Span],
}

// SAFETY: the pointers come from shared slices that outlive the job, and are only read.
unsafe impl Sync for Outer<'_> {}

/// How the work is cut. A function of the problem only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cut {
    /// Taps of a chunk.
    taps: usize,
    /// Rows and columns of `c` of a chunk.
    a_block: usize,
    b_block: usize,
    /// Parts of the pixels, each with an output of its own.
    parts: usize,
    /// Pixels that are walked at once: images, rows, columns.
    block: [usize; 3],
}

/// Floats of both operands in a block of pixels, and of a chunk's sums: each half of a second cache level, which is 1 MB where there
/// are 32 vector registers and half of that elsewhere.
const fn block_floats(registers: usize) -> usize {
    if registers >= 32 { 96 << 10 } else { 48 << 10 }
}
/// Pixels of a block at most: the lines that a tile reads of each stay in the first cache level.
const BLOCK_PIXELS: usize = 160;
/// Chunks that are wanted at least, where there is enough work.
const WANTED: usize = 16;

impl Outer<'_> {
    /// Length of the output.
    fn len(&self) -> usize {
        self.groups * self.taps.len() * self.a.channels * self.b.channels
    }

    /// Of all cuts with enough chunks, whose sums stay in the second cache level, the one that moves the least data.
    fn cut(&self, lanes: usize, registers: usize) -> Cut {
        let (m, n, all_taps) = (self.a.channels, self.b.channels, self.taps.len());
        let pixels = self.images * self.rows * self.cols;
        let macs = pixels.saturating_mul(self.len());
        let wanted = (macs >> 20).clamp(1, WANTED);
        let wide = max_vectors(registers) * lanes;
        let tall = 4 * max_rows(registers, max_vectors(registers));
        let pieces = |whole: usize, least: usize, unit: usize| {
            let sizes =
                [1, 2, 3, 4, 6, 8, 12, 16, 32].map(|p| whole.div_ceil(p).next_multiple_of(unit));
            sizes
                .into_iter()
                .map(move |size| size.min(whole))
                .filter(move |&size| size >= least.min(whole))
        };
        let mut best = (
            usize::MAX,
            Cut {
                taps: 1,
                a_block: m,
                b_block: n,
                parts: 1,
                block: [1; 3],
            },
        );
        for a_block in pieces(m, tall, 4) {
            for b_block in pieces(n, wide, if n > wide { wide } else { 1 }) {
                for taps in [all_taps, all_taps.div_ceil(3), 1] {
                    let sums = taps * a_block * b_block;
                    if sums > block_floats(registers) && (taps > 1 || a_block > 2 * tall) {
                        continue;
                    }
                    let chunks = self.groups
                        * m.div_ceil(a_block)
                        * n.div_ceil(b_block)
                        * all_taps.div_ceil(taps);
                    let parts = wanted.div_ceil(chunks).min(pixels.div_ceil(512)).max(1);
                    // Parts of a row are read less well than whole rows.
                    let partial = if a_block < m || b_block < n { 5 } else { 4 };
                    let reads = chunks * pixels * (a_block + b_block) / 4 * partial;
                    let adding = if parts > 1 {
                        (2 * parts + 1) * self.len()
                    } else {
                        0
                    };
                    let missing = wanted.saturating_sub(chunks * parts) * macs / wanted / 64;
                    let cost = reads + adding + missing;
                    if cost < best.0 {
                        best = (
                            cost,
                            Cut {
                                taps,
                                a_block,
                                b_block,
                                parts,
                                block: [1; 3],
                            },
                        );
                    }
                }
            }
        }
        let mut cut = best.1;
        let floats = block_floats(registers);
        let pixels_at_once = (floats / (cut.a_block + cut.b_block)).clamp(32, BLOCK_PIXELS);
        cut.block = if self.cols > pixels_at_once {
            [1, 1, self.cols.div_ceil(self.cols.div_ceil(pixels_at_once))]
        } else if self.cols * self.rows > pixels_at_once {
            let rows = (pixels_at_once / self.cols).max(1);
            [1, self.rows.div_ceil(self.rows.div_ceil(rows)), self.cols]
        } else {
            let images =
                (pixels_at_once / (self.cols * self.rows).max(1)).clamp(1, self.images.max(1));
            [
                self.images
                    .div_ceil(self.images.div_ceil(images).max(1))
                    .max(1),
                self.rows.max(1),
                self.cols.max(1),
            ]
        };
        cut
    }

    /// Writes the product to `c`.
    ///
    /// # Safety
    ///
    /// Both sides must be readable at every pixel of every span.
    pub unsafe fn run(&self, c: &mut [f32]) {
        // SAFETY: the caller's promise.
        unsafe { self.add_to(c, false) }
    }

    /// Adds the product to `c`, or writes it there.
    ///
    /// # Safety
    ///
    /// As for [`Outer::run`].
    pub unsafe fn add_to(&self, c: &mut [f32], add: bool) {
        let len = self.len();
        assert_eq!(c.len(), len, "output of a product over pixels");
        let isa = isa();
        let (lanes, registers) = geometry(isa);
        let cut = self.cut(lanes, registers);
        if len == 0 {
            return;
        }
        if cut.parts == 1 {
            // SAFETY: the caller's promise.
            unsafe { self.run_parts(isa, &cut, c, add) };
            return;
        }
        PARTS.with_borrow_mut(|parts| {
            let parts = parts.resize(cut.parts * len);
            // SAFETY: the caller's promise.
            unsafe { self.run_parts(isa, &cut, parts, false) };
            add_parts(parts, c, add);
        });
    }

    unsafe fn run_parts(&self, isa: Isa, cut: &Cut, c: &mut [f32], add: bool) {
        let (m, n) = (self.a.channels, self.b.channels);
        let [a_blocks, b_blocks] = [m.div_ceil(cut.a_block), n.div_ceil(cut.b_block)];
        let tap_blocks = self.taps.len().div_ceil(cut.taps);
        let output = SharedMut::new(c);
        let blocks = self.pixel_blocks(cut);
        parallel_for(
            cut.parts * self.groups * tap_blocks * a_blocks * b_blocks,
            |i| {
                let (i, b) = (i / b_blocks, i % b_blocks * cut.b_block);
                let (i, a) = (i / a_blocks, i % a_blocks * cut.a_block);
                let (i, tap) = (i / tap_blocks, i % tap_blocks * cut.taps);
                let (part, group) = (i / self.groups, i % self.groups);
                dispatch_on(
                    isa,
                    Chunk {
                        outer: self,
                        cut,
                        blocks: &blocks[part * blocks.len() / cut.parts
                            ..(part + 1) * blocks.len() / cut.parts],
                        group,
                        taps: tap..(tap + cut.taps).min(self.taps.len()),
                        a: a..(a + cut.a_block).min(m),
                        b: b..(b + cut.b_block).min(n),
                        c: output
                            .as_mut_ptr()
                            .wrapping_add((part * self.groups + group) * self.taps.len() * m * n),
                        add,
                    },
                );
            },
        );
    }

    /// Starts of the blocks of pixels.
    fn pixel_blocks(&self, cut: &Cut) -> Vec<[usize; 3]> {
        let mut blocks = Vec::new();
        for image in (0..self.images).step_by(cut.block[0]) {
            for row in (0..self.rows).step_by(cut.block[1]) {
                for col in (0..self.cols).step_by(cut.block[2]) {
                    blocks.push([image, row, col]);
                }
            }
        }
        blocks
    }
}

thread_local! {
    static PARTS: std::cell::RefCell<AlignedBuf> = const { std::cell::RefCell::new(AlignedBuf::new()) };
}

/// c = sum of the parts, the first one first; on top of what is there if `add`.
fn add_parts(parts: &[f32], c: &mut [f32], add: bool) {
    let len = c.len();
    crate::pool::parallel_chunks_mut(c, 16 << 10, |i, c| {
        let start = i * (16 << 10);
        let first = if add {
            0
        } else {
            c.copy_from_slice(&parts[start..start + c.len()]);
            len
        };
        for part in parts[first..].chunks_exact(len) {
            for (c, x) in c.iter_mut().zip(&part[start..]) {
                *c += x;
            }
        }
    });
}

struct Chunk<'a> {
    outer: &'a Outer<'a>,
    cut: &'a Cut,
    blocks: &'a [[usize; 3]],
    group: usize,
    taps: std::ops::Range<usize>,
    a: std::ops::Range<usize>,
    b: std::ops::Range<usize>,
    /// Start of this part's and group's output.
    c: *mut f32,
    /// Whether the output counts.
    add: bool,
}

impl Kernel for Chunk<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        with_local(|local| self.run_with(s, &mut local.a, &mut local.b));
    }
}

impl Chunk<'_> {
    fn run_with<S: Simd>(&self, s: S, a_copy: &mut AlignedBuf, b_copy: &mut AlignedBuf) {
        let (outer, cut) = (self.outer, self.cut);
        let [m, n] = [outer.a.channels, outer.b.channels];
        let wide = max_vectors(S::REGISTERS) * S::LANES;
        let columns = self.b.len();
        let panels = columns.div_ceil(wide);
        let vectors = columns.div_ceil(S::LANES);
        // A wide tile reads enough of every pixel in place.
        let narrow = wide <= 16;
        let copies = [
            narrow && outer.a.is_scattered() && columns >= WORTH_COPYING,
            narrow && outer.b.is_scattered() && self.a.len() >= WORTH_COPYING,
        ];
        let mut started = vec![self.add; self.taps.len()];
        for start in self.blocks {
            for tap in self.taps.clone() {
                let span = &outer.taps[tap];
                let rows = span.rows.start.max(start[1])
                    ..span.rows.end.min(start[1] + cut.block[1]).min(outer.rows);
                let cols = span.cols.start.max(start[2])
                    ..span.cols.end.min(start[2] + cut.block[2]).min(outer.cols);
                if rows.is_empty() || cols.is_empty() {
                    continue;
                }
                let images = start[0]..(start[0] + cut.block[0]).min(outer.images);
                let accumulate = std::mem::replace(&mut started[tap - self.taps.start], true);
                let first = |side: &Side, shift: isize, channel: usize| {
                    let at = images.start * side.strides[0]
                        + rows.start * side.strides[1]
                        + cols.start * side.strides[2]
                        + self.group * side.group_stride
                        + channel;
                    side.data.wrapping_offset(at as isize + shift)
                };
                let mut a = (first(&outer.a, span.a_shift, self.a.start), outer.a.strides);
                let mut b = (first(&outer.b, span.b_shift, self.b.start), outer.b.strides);
                let mut extent = [images.len(), rows.len(), cols.len()];
                // SAFETY: the spans keep all pixels inside both sides (promised by the caller of `Outer::run`).
                unsafe {
                    if copies[0] {
                        a = copy_pixels(a, extent, self.a.len(), a_copy);
                    }
                    if copies[1] {
                        b = copy_pixels(b, extent, columns, b_copy);
                    }
                }
                if copies == [true, true] {
                    // One row of pixels.
                    extent = [1, 1, extent.iter().product()];
                }
                for panel in 0..panels {
                    let col = panel * vectors / panels * S::LANES;
                    let col_end = ((panel + 1) * vectors / panels * S::LANES).min(columns);
                    let nv = (col_end - col).div_ceil(S::LANES);
                    let height = max_rows(S::REGISTERS, nv);
                    let tiles = self.a.len().div_ceil(height);
                    for tile in 0..tiles {
                        let row = self.a.start + tile * self.a.len() / tiles;
                        let row_end = self.a.start + (tile + 1) * self.a.len() / tiles;
                        let tile = PixelTile {
                            a: a.0.wrapping_add(row - self.a.start),
                            b: b.0.wrapping_add(col),
                            a_strides: a.1,
                            b_strides: b.1,
                            extent,
                            c: self
                                .c
                                .wrapping_add((tap * m + row) * n + self.b.start + col),
                            ldc: n,
                            cols: col_end - col,
                            accumulate,
                        };
                        // SAFETY: all pixels lie inside both sides, as above, or in the copies; the output rows and columns are
                        // this chunk's own.
                        unsafe { run_pixel_tile(s, row_end - row, nv, &tile) };
                    }
                }
            }
        }
        for (tap, started) in self.taps.clone().zip(started) {
            if !started {
                for row in self.a.clone() {
                    let c = self.c.wrapping_add((tap * m + row) * n + self.b.start);
                    // SAFETY: this chunk's own part of the output.
                    unsafe { std::slice::from_raw_parts_mut(c, columns) }.fill(0.0);
                }
            }
        }
    }
}

/// Channels of the other side from which on a copy of a scattered side pays.
const WORTH_COPYING: usize = 48;

impl Side {
    /// Whether the lines of neighbouring pixels fall into few sets of the first cache level, or every pixel lies on a page of its
    /// own: then a tile, which reads one or two lines of each, would find none of them in the cache again.
    fn is_scattered(&self) -> bool {
        const LINE: usize = 16;
        let step = self.strides[2];
        let lines = if step.is_multiple_of(LINE) {
            step / LINE
        } else {
            1
        };
        lines.is_multiple_of(8) || step >= 16 * LINE
    }
}

/// Copies the first `width` channels of all pixels to rows that lie an odd number of cache lines apart; the copy's start and strides.
///
/// # Safety
///
/// The pixels must be readable for so many channels.
unsafe fn copy_pixels(
    (from, strides): (*const f32, [usize; 3]),
    [images, rows, cols]: [usize; 3],
    width: usize,
    copy: &mut AlignedBuf,
) -> (*const f32, [usize; 3]) {
    let ld = (width.div_ceil(16) | 1) * 16;
    let to = copy.resize(images * rows * cols * ld);
    let mut to = to.chunks_exact_mut(ld);
    for image in 0..images {
        for row in 0..rows {
            let mut at = from.wrapping_add(image * strides[0] + row * strides[1]);
            for to in to.by_ref().take(cols) {
                // SAFETY: the caller's promise; a row of the copy is at least as wide.
                unsafe { std::ptr::copy_nonoverlapping(at, to.as_mut_ptr(), width) };
                at = at.wrapping_add(strides[2]);
            }
        }
    }
    (copy.as_ptr(), [rows * cols * ld, cols * ld, ld])
}

struct PixelTile {
    a: *const f32,
    b: *const f32,
    a_strides: [usize; 3],
    b_strides: [usize; 3],
    /// Images, rows, columns to reduce over.
    extent: [usize; 3],
    c: *mut f32,
    ldc: usize,
    cols: usize,
    accumulate: bool,
}

/// Runs the kernel for `mr` channels of `a` and `nv` vectors of channels of `b`.
///
/// # Safety
///
/// The pointers must be valid over the extent, for `mr` and `cols` floats a pixel; `c` for `mr` rows of `cols`.
#[inline(never)]
unsafe fn run_pixel_tile<S: Simd>(s: S, mr: usize, nv: usize, tile: &PixelTile) {
    macro_rules! select {
        ($(($m:literal, $n:literal)),*) => {
            match (mr, nv) {
                $(($m, $n) if const { $n <= max_vectors(S::REGISTERS) && $m <= max_rows(S::REGISTERS, $n) } => s.vectorize(PixelKernel::<$m, $n>(tile)),)*
                _ => unreachable!("no tile of {mr} rows by {nv} vectors"),
            }
        };
    }
    select!(
        (1, 1),
        (2, 1),
        (3, 1),
        (4, 1),
        (5, 1),
        (6, 1),
        (7, 1),
        (8, 1),
        (1, 2),
        (2, 2),
        (3, 2),
        (4, 2),
        (5, 2),
        (6, 2),
        (7, 2),
        (8, 2),
        (1, 3),
        (2, 3),
        (3, 3),
        (4, 3),
        (5, 3),
        (6, 3),
        (7, 3),
        (8, 3),
        (1, 4),
        (2, 4),
        (3, 4),
        (4, 4),
        (5, 4),
        (6, 4)
    )
}

struct PixelKernel<'a, const MR: usize, const NV: usize>(&'a PixelTile);

impl<const MR: usize, const NV: usize> Kernel for PixelKernel<'_, MR, NV> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let t = self.0;
        let last = t.cols - (NV - 1) * S::LANES;
        // SAFETY: `run_pixel_tile`'s caller promises the pointers; a partial last vector reads and writes `last` floats only.
        unsafe {
            for r in 0..MR {
                for v in 0..NV {
                    s.prefetch(t.c.wrapping_add(r * t.ldc + v * S::LANES));
                }
            }
            let acc = if last < S::LANES {
                reduce::<S, MR, NV, true>(s, t, last)
            } else {
                reduce::<S, MR, NV, false>(s, t, last)
            };
            for r in 0..MR {
                for v in 0..NV {
                    let c = t.c.add(r * t.ldc + v * S::LANES);
                    if v == NV - 1 && last < S::LANES {
                        let old = if t.accumulate {
                            s.load_n(c, last)
                        } else {
                            s.zero()
                        };
                        s.store_n(c, last, s.add(acc[r][v], old));
                    } else {
                        let old = if t.accumulate { s.load(c) } else { s.zero() };
                        s.store(c, s.add(acc[r][v], old));
                    }
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn reduce<S: Simd, const MR: usize, const NV: usize, const PARTIAL: bool>(
    s: S,
    t: &PixelTile,
    last: usize,
) -> [[S::V; NV]; MR] {
    let mut acc = [[s.zero(); NV]; MR];
    let [images, rows, cols] = t.extent;
    for image in 0..images {
        for row in 0..rows {
            let mut a =
                t.a.wrapping_add(image * t.a_strides[0] + row * t.a_strides[1]);
            let mut b =
                t.b.wrapping_add(image * t.b_strides[0] + row * t.b_strides[1]);
            for _ in 0..cols {
                // SAFETY: the caller promises the whole extent.
                unsafe {
                    let mut bv = [s.zero(); NV];
                    for v in 0..NV {
                        bv[v] = if PARTIAL && v == NV - 1 {
                            s.load_n(b.add(v * S::LANES), last)
                        } else {
                            s.load(b.add(v * S::LANES))
                        };
                    }
                    for r in 0..MR {
                        let x = s.splat(*a.add(r));
                        for v in 0..NV {
                            acc[r][v] = s.mul_add(x, bv[v], acc[r][v]);
                        }
                    }
                }
                a = a.wrapping_add(t.a_strides[2]);
                b = b.wrapping_add(t.b_strides[2]);
            }
        }
    }
    acc
}
