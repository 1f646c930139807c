//! Products that reduce over pixels: weight gradients.
//!
//! For every tap, `c[i][j]` is the sum over output pixels of `a[pixel][i] * b[pixel][j]`. One side is the gradient of a layer's output, the
//! other its input, shifted by the tap; both are read in place or copied block by block. Work is cut by taps, rows and columns of `c`, so that no two
//! threads add to the same number; only where `c` is too small for that are the pixels cut too, and the parts added up in a
//! fixed order.

mod flat;
mod in_place;
mod packed;

use std::ops::Range;

use crate::buffer::{AlignedBuf, Local, with_local};
use crate::panels::Packed;
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
    pub rows: Range<usize>,
    pub cols: Range<usize>,
    /// Floats to add to the pointers, which may point before the slice until the rectangle's start is added.
    pub a_shift: isize,
    pub b_shift: isize,
}

impl Span {
    /// Whether it is one row of `cols` pixels without any shift.
    fn is_full(&self, cols: usize) -> bool {
        (
            self.rows.clone(),
            self.cols.clone(),
            self.a_shift,
            self.b_shift,
        ) == (0..1, 0..cols, 0, 0)
    }

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
        if len == 0 {
            return;
        }
        if !add && self.is_flat() {
            // SAFETY: the caller's promise.
            FLAT.with_borrow_mut(|right| unsafe { self.run_flat(right, c) });
            return;
        }
        let isa = isa();
        let (lanes, registers) = geometry(isa);
        let cut = self.cut(lanes, registers);
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

    /// Writes the product to `c`, on the calling thread.
    ///
    /// # Safety
    ///
    /// As for [`Outer::run`].
    pub unsafe fn run_here(&self, c: &mut [f32]) {
        assert_eq!(c.len(), self.len(), "output of a product over pixels");
        let isa = isa();
        let (m, n) = (self.a.channels, self.b.channels);
        let cut = Cut {
            taps: self.taps.len(),
            a_block: m,
            b_block: n,
            parts: 1,
            block: [1, 1, BLOCK_PIXELS],
        };
        let blocks = self.pixel_blocks(&cut);
        for (group, c) in c.chunks_exact_mut(self.taps.len() * m * n).enumerate() {
            let chunk = Chunk {
                isa,
                outer: self,
                cut: &cut,
                blocks: &blocks,
                group,
                taps: 0..self.taps.len(),
                a: 0..m,
                b: 0..n,
                c: c.as_mut_ptr(),
                add: false,
            };
            dispatch_on(isa, chunk);
        }
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
                        isa,
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
    static FLAT: std::cell::RefCell<Packed> = std::cell::RefCell::new(Packed::empty());
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
    isa: Isa,
    outer: &'a Outer<'a>,
    cut: &'a Cut,
    blocks: &'a [[usize; 3]],
    group: usize,
    taps: Range<usize>,
    a: Range<usize>,
    b: Range<usize>,
    /// Start of this part's and group's output.
    c: *mut f32,
    /// Whether the output counts.
    add: bool,
}

impl Kernel for Chunk<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        with_local(|local| self.run_with(s, local));
    }
}

impl Chunk<'_> {
    fn run_with<S: Simd>(&self, s: S, local: &mut Local) {
        let (outer, cut) = (self.outer, self.cut);
        let [m, n] = [outer.a.channels, outer.b.channels];
        let wide = max_vectors(S::REGISTERS) * S::LANES;
        let packs = is_worth_packing(self.a.len(), self.b.len(), wide);
        let mut transposed = None;
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
                let pixels = |side: &Side, shift: isize, channels: &Range<usize>| {
                    let at = images.start * side.strides[0]
                        + rows.start * side.strides[1]
                        + cols.start * side.strides[2]
                        + self.group * side.group_stride
                        + channels.start;
                    Pixels {
                        data: side.data.wrapping_offset(at as isize + shift),
                        channels: channels.len(),
                        strides: side.strides,
                    }
                };
                let block = Block {
                    a: pixels(&outer.a, span.a_shift, &self.a),
                    b: pixels(&outer.b, span.b_shift, &self.b),
                    extent: [images.len(), rows.len(), cols.len()],
                    c: self
                        .c
                        .wrapping_add((tap * m + self.a.start) * n + self.b.start),
                    ldc: n,
                    accumulate,
                };
                // SAFETY: the spans keep all pixels inside both sides (promised by the caller of `Outer::run`); the output rows and
                // columns are this chunk's own.
                unsafe {
                    if packs {
                        packed::multiply(s, self.isa, &block, &mut transposed, local);
                    } else {
                        in_place::multiply(s, &block);
                    }
                }
            }
        }
        for (tap, started) in self.taps.clone().zip(started) {
            if !started {
                for row in self.a.clone() {
                    let c = self.c.wrapping_add((tap * m + row) * n + self.b.start);
                    // SAFETY: this chunk's own part of the output.
                    unsafe { std::slice::from_raw_parts_mut(c, self.b.len()) }.fill(0.0);
                }
            }
        }
    }
}

/// Whether it pays to copy a block's pixels to where tiles find them in order: the left side is read once for every panel, so sooner where
/// panels are narrow.
fn is_worth_packing(m: usize, n: usize, panel: usize) -> bool {
    m * n > panel * (m + n)
}

/// One side of a block of pixels.
#[derive(Clone, Copy)]
struct Pixels {
    /// First pixel, first channel.
    data: *const f32,
    channels: usize,
    /// Floats from one image, row, column to the next.
    strides: [usize; 3],
}

/// What a chunk multiplies at once: some channels of some pixels.
struct Block {
    a: Pixels,
    b: Pixels,
    /// Images, rows, columns to reduce over.
    extent: [usize; 3],
    /// First of the output's rows, which are `ldc` floats apart.
    c: *mut f32,
    ldc: usize,
    /// Add to the output instead of overwriting it.
    accumulate: bool,
}
