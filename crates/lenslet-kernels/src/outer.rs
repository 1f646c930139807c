//! Products that reduce over pixels: weight gradients.
//!
//! For every tap, c[i][j] = sum over output pixels of a[pixel][i] * b[pixel][j]. One side is the gradient of a layer's output, the
//! other its input, shifted by the tap; both are read in place. Work is cut by taps, rows and columns of `c`, so that no two
//! threads add to the same number; only where `c` is too small for that are the pixels cut too, and the parts added up in a
//! fixed order.

use crate::buffer::AlignedBuf;
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

/// Floats of both operands in a block of pixels: half of a second cache level of 1 MB.
const BLOCK_FLOATS: usize = 96 << 10;
/// Chunks that are wanted at least.
const WANTED: usize = 16;

impl Outer<'_> {
    /// Length of the output.
    fn len(&self) -> usize {
        self.groups * self.taps.len() * self.a.channels * self.b.channels
    }

    fn cut(&self, lanes: usize, registers: usize) -> Cut {
        let (m, n) = (self.a.channels, self.b.channels);
        let pixels = self.images * self.rows * self.cols;
        let macs = pixels.saturating_mul(self.len());
        let wanted = (macs >> 20).clamp(1, WANTED);
        let b_unit = max_vectors(registers) * lanes;
        let a_unit = 4 * max_rows(registers, max_vectors(registers));
        let halves = |n: usize, unit: usize| {
            if n > unit {
                n.div_ceil(2).next_multiple_of(unit)
            } else {
                n
            }
        };
        // Start with large blocks and halve until there are enough chunks; each chunk streams its share of both operands once per
        // tap group, so square blocks are best.
        let (mut a_block, mut b_block, mut taps) = (m.min(256), n.min(256), self.taps.len());
        let chunks = |a: usize, b: usize, t: usize| {
            self.groups * m.div_ceil(a) * n.div_ceil(b) * self.taps.len().div_ceil(t)
        };
        // What a chunk adds up to should stay in the second cache level.
        while taps > 1 && taps * a_block * b_block > (96 << 10) {
            taps = taps.div_ceil(2);
        }
        while chunks(a_block, b_block, taps) < wanted {
            if taps > 1 {
                taps = taps.div_ceil(2);
            } else if a_block > a_unit && a_block * 2 > b_block {
                a_block = halves(a_block, a_unit.min(24));
                if a_block * 2 <= a_unit {
                    break;
                }
            } else if b_block > b_unit {
                b_block = halves(b_block, b_unit);
            } else {
                break;
            }
        }
        let have = chunks(a_block, b_block, taps);
        let parts = if have >= wanted {
            1
        } else {
            (wanted / have).min(pixels.div_ceil(256)).max(1)
        };
        let per_pixel = a_block + b_block;
        let pixels_at_once = (BLOCK_FLOATS / per_pixel).max(32);
        let block = if self.cols > pixels_at_once {
            [1, 1, self.cols.div_ceil(self.cols.div_ceil(pixels_at_once))]
        } else if self.cols * self.rows > pixels_at_once {
            let rows = (pixels_at_once / self.cols).max(1);
            [1, self.rows.div_ceil(self.rows.div_ceil(rows)), self.cols]
        } else {
            let images =
                (pixels_at_once / (self.cols * self.rows).max(1)).clamp(1, self.images.max(1));
            [images, self.rows.max(1), self.cols.max(1)]
        };
        Cut {
            taps,
            a_block,
            b_block,
            parts,
            block,
        }
    }

    /// Writes the product to `c`.
    ///
    /// # Safety
    ///
    /// Both sides must be readable at every pixel of every span.
    pub unsafe fn run(&self, c: &mut [f32]) {
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
            unsafe { self.run_parts(isa, &cut, c) };
            return;
        }
        PARTS.with_borrow_mut(|parts| {
            let parts = parts.resize(cut.parts * len);
            // SAFETY: the caller's promise.
            unsafe { self.run_parts(isa, &cut, parts) };
            add_parts(parts, c);
        });
    }

    unsafe fn run_parts(&self, isa: Isa, cut: &Cut, c: &mut [f32]) {
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

/// c = sum of the parts, the first one first.
fn add_parts(parts: &[f32], c: &mut [f32]) {
    let len = c.len();
    crate::pool::parallel_chunks_mut(c, 16 << 10, |i, c| {
        let start = i * (16 << 10);
        c.copy_from_slice(&parts[start..start + c.len()]);
        for part in parts[len..].chunks_exact(len) {
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
}

impl Kernel for Chunk<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (outer, cut) = (self.outer, self.cut);
        let [m, n] = [outer.a.channels, outer.b.channels];
        let wide = max_vectors(S::REGISTERS) * S::LANES;
        let columns = self.b.len();
        let panels = columns.div_ceil(wide);
        let vectors = columns.div_ceil(S::LANES);
        let mut started = vec![false; self.taps.len()];
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
                            a: first(&outer.a, span.a_shift, row),
                            b: first(&outer.b, span.b_shift, self.b.start + col),
                            a_strides: outer.a.strides,
                            b_strides: outer.b.strides,
                            extent: [images.len(), rows.len(), cols.len()],
                            c: self
                                .c
                                .wrapping_add((tap * m + row) * n + self.b.start + col),
                            ldc: n,
                            cols: col_end - col,
                            accumulate,
                        };
                        // SAFETY: the spans keep all pixels inside both sides (promised by the caller of `Outer::run`); the
                        // output rows and columns are this chunk's own.
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
                $(($m, $n) if $n <= max_vectors(S::REGISTERS)
                    && $m <= max_rows(S::REGISTERS, $n) => s.vectorize(PixelKernel::<$m, $n>(tile)),)*
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
