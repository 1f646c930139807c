//! One row of pixels of many channels (linear layers, pointwise convolutions): the right side is packed once for all chunks, whose
//! slices then come ahead of their use; a chunk transposes some channels of the left side and takes all or much of the right one.

use super::packed::{Left, Right};
use super::{Outer, Pixels, block_floats};
use crate::buffer::{Local, with_local};
use crate::panels::{Packed, Source};
use crate::pool::{num_threads, parallel_for};
use crate::simd::{Kernel, Simd, dispatch_on};
use crate::tile::{Ahead, geometry};

/// Outputs from which on there are enough chunks without cutting the pixels.
const LEAST_OUTPUTS: usize = 192 << 10;
/// Pixels from which on packing pays.
const LEAST_PIXELS: usize = 64;
/// Floats of a packed side at most.
const MOST_PACKED: usize = 6 << 20;
/// Channels of the left side of a chunk at most.
const ROWS: usize = 128;

/// Chunks of a product: so many blocks of rows, so many of panels. What is computed does not depend on it.
#[derive(Debug, PartialEq, Eq)]
struct Cut {
    rows: usize,
    panels: usize,
}

impl Outer<'_> {
    /// Whether this is one row of pixels that is worth packing whole.
    pub(super) fn is_flat(&self) -> bool {
        let pixels = self.cols;
        self.groups == 1
            && self.images == 1
            && self.rows == 1
            && self.taps.len() == 1
            && self.taps[0].is_full(pixels)
            && self.a.channels * self.b.channels >= LEAST_OUTPUTS
            && pixels * self.b.channels <= MOST_PACKED
            && pixels >= LEAST_PIXELS
    }

    /// The product of a flat problem.
    ///
    /// # Safety
    ///
    /// As for [`Outer::run`].
    pub(super) unsafe fn run_flat(&self, right: &mut Packed, c: &mut [f32]) {
        let (pixels, n) = (self.cols, self.b.channels);
        let ld = self.b.strides[2];
        // SAFETY: the caller promises all pixels.
        let data = unsafe { std::slice::from_raw_parts(self.b.data, (pixels - 1) * ld + n) };
        right.repack(n, 1, |_| Source {
            data,
            taps: &[0],
            tap_stride: 0,
            channels: pixels,
            channel_stride: ld,
            col_stride: 1,
        });
        let right = &*right;
        let isa = right.panels.isa;
        let (_, registers) = geometry(isa);
        let cut = cut(
            self.a.channels,
            n,
            right.panels.count,
            registers,
            num_threads(),
        );
        let c = crate::pool::SharedMut::new(c);
        parallel_for(cut.rows * cut.panels, |i| {
            let (row, panel) = (i / cut.panels, i % cut.panels);
            let rows = row * self.a.channels / cut.rows..(row + 1) * self.a.channels / cut.rows;
            let panels = panel * right.panels.count / cut.panels
                ..(panel + 1) * right.panels.count / cut.panels;
            let chunk = Chunk {
                left: Pixels {
                    data: self.a.data.wrapping_add(rows.start),
                    channels: rows.len(),
                    strides: self.a.strides,
                },
                right,
                panels,
                c: c.as_mut_ptr().wrapping_add(rows.start * n),
            };
            dispatch_on(isa, chunk);
        });
    }
}

/// Chunks whose sums take half of a second cache level.
fn cut(m: usize, n: usize, panels: usize, registers: usize, threads: usize) -> Cut {
    let columns = block_floats(registers) / ROWS.min(m);
    let panel_blocks = n.div_ceil(columns).min(panels);
    // As many for every thread.
    let fewest = m.div_ceil(ROWS);
    let rows = (fewest..fewest + threads)
        .find(|rows| (rows * panel_blocks).is_multiple_of(threads))
        .unwrap_or(fewest);
    Cut {
        rows: rows.min(m),
        panels: panel_blocks,
    }
}

struct Chunk<'a> {
    left: Pixels,
    right: &'a Packed,
    panels: std::ops::Range<usize>,
    /// First of the output's rows.
    c: *mut f32,
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
        let (panels, pixels) = (self.right.panels, self.right.k);
        // Pixels at once: the left side's copy takes two thirds of what the sums take.
        let blocks = pixels.div_ceil(block_floats(S::REGISTERS) / 192);
        let start = |block: usize| block * pixels / blocks;
        for block in 0..blocks {
            let at = start(block);
            let count = start(block + 1) - at;
            local.rows.clear();
            let first = Pixels {
                data: self.left.data.wrapping_add(at * self.left.strides[2]),
                ..self.left
            };
            first.list([1, 1, count], &mut local.rows);
            let rows = self.left.channels;
            let left = Left::new(rows, count, local.a.resize(Left::floats::<S>(rows, count)));
            left.fill(s, &local.rows);
            left.list(&mut local.rows, &mut local.outputs);
            let slice = |index: usize, at: usize| {
                let panel = panels.get(index);
                self.right.panel(0, &panel)[at * panel.width..].as_ptr()
            };
            for index in self.panels.clone() {
                let panel = panels.get(index);
                let next = if index + 1 < self.panels.end {
                    Some((index + 1, at))
                } else if block + 1 < blocks {
                    Some((self.panels.start, start(block + 1)))
                } else {
                    None
                };
                let b = slice(index, at);
                let right = Right {
                    b,
                    height: panels.tile_rows(),
                    ahead: next.map_or(Ahead::NONE, |(index, at)| {
                        let steps = rows.div_ceil(panels.tile_rows()) * count;
                        Ahead::new(slice(index, at), count * panel.width, steps)
                    }),
                    panel,
                };
                let to = (self.c.wrapping_add(panel.col), panels.n);
                // SAFETY: the panel holds all pixels; the output's rows and columns are this chunk's own.
                unsafe { left.multiply(s, &right, to, block > 0, local) };
            }
        }
    }
}
