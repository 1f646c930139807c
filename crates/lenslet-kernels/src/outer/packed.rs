//! Blocks that are copied first: a tile of the sides as they lie would read a line or a few of each pixel, which are on pages of
//! their own and fall into few sets of the first cache level.

use super::{Block, Pixels};
use crate::buffer::Local;
use crate::panels::{Panel, Panels};
use crate::simd::{Isa, Kernel, Simd};
use crate::tile::{Ahead, LINE, Tile, run_tile};

/// Which pixels the copy of the left side holds: several taps share them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Transposed {
    data: *const f32,
    extent: [usize; 3],
}

/// The product of a block. `transposed` says what an earlier call of this chunk left in `local`.
///
/// # Safety
///
/// The block's pointers must be valid for its extent and channels, the output's rows nobody else's.
pub(super) unsafe fn multiply<S: Simd>(
    s: S,
    isa: Isa,
    block: &Block,
    transposed: &mut Option<Transposed>,
    local: &mut Local,
) {
    let count: usize = block.extent.iter().product();
    let (m, panels) = (block.a.channels, Panels::new(isa, block.b.channels));
    let this = Transposed {
        data: block.a.data,
        extent: block.extent,
    };
    let is_there = transposed.replace(this) == Some(this);
    let left = Left::new(m, count, local.a.resize(Left::floats::<S>(m, count)));
    let b = local.b.resize(count * panels.padded()).as_mut_ptr();
    local.rows.clear();
    block.a.list(block.extent, &mut local.rows);
    block.b.list(block.extent, &mut local.rows);
    let (a_pixels, b_pixels) = local.rows.split_at(count);
    if !is_there {
        left.fill(s, a_pixels);
    }
    for index in 0..panels.count {
        let panel = panels.get(index);
        s.vectorize(CopyPanel {
            pixels: b_pixels,
            panel,
            to: b.wrapping_add(panel.col * count),
        });
    }
    left.list(&mut local.rows, &mut local.outputs);
    for index in 0..panels.count {
        let panel = panels.get(index);
        let b = b.wrapping_add(panel.col * count).cast_const();
        let right = Right {
            b,
            ahead: Ahead::NONE,
            height: panels.tile_rows(),
            panel,
        };
        let to = (block.c.wrapping_add(panel.col), block.ldc);
        // SAFETY: the copies hold `count` pixels of every row and panel; the output is as the caller promised.
        unsafe { left.multiply(s, &right, to, block.accumulate, local) };
    }
}

/// A copy of the left side, `[channel][pixel]`.
#[derive(Clone, Copy)]
pub(super) struct Left {
    data: *mut f32,
    channels: usize,
    pixels: usize,
    ld: usize,
}

/// A panel of the right side, `[pixel][columns]`.
pub(super) struct Right {
    pub b: *const f32,
    pub panel: Panel,
    /// Rows of a tile at most.
    pub height: usize,
    pub ahead: Ahead,
}

impl Left {
    /// Rows lie an odd number of lines apart, so that those of a tile fall into different sets of the cache.
    fn ld(pixels: usize) -> usize {
        (pixels.div_ceil(LINE) | 1) * LINE
    }

    /// How many floats it takes.
    pub fn floats<S: Simd>(channels: usize, pixels: usize) -> usize {
        channels.next_multiple_of(S::LANES) * Self::ld(pixels)
    }

    /// A copy in memory of [`Left::floats`].
    pub fn new(channels: usize, pixels: usize, memory: &mut [f32]) -> Self {
        Left {
            data: memory.as_mut_ptr(),
            channels,
            pixels,
            ld: Self::ld(pixels),
        }
    }

    /// Copies pixels, of which each is readable for the channels.
    pub fn fill<S: Simd>(&self, s: S, pixels: &[*const f32]) {
        s.vectorize(Transpose {
            pixels,
            channels: self.channels,
            to: self.data,
            ld: self.ld,
        });
    }

    /// Lists the rows and their numbers in the output.
    pub fn list(&self, rows: &mut Vec<*const f32>, outputs: &mut Vec<usize>) {
        rows.clear();
        rows.extend(
            (0..self.channels).map(|row| self.data.wrapping_add(row * self.ld).cast_const()),
        );
        outputs.clear();
        outputs.extend(0..self.channels);
    }

    /// The product with a panel, with the rows listed in `local`.
    ///
    /// # Safety
    ///
    /// The panel must hold as many pixels, the output's rows be nobody else's.
    pub unsafe fn multiply<S: Simd>(
        &self,
        s: S,
        right: &Right,
        (c, ldc): (*mut f32, usize),
        accumulate: bool,
        local: &Local,
    ) {
        // Tiles of equal height, give or take one row.
        let tiles = self.channels.div_ceil(right.height);
        let (low, tall) = (self.channels / tiles, self.channels % tiles);
        let mut ahead = right.ahead;
        for (first, count, height) in [(0, tall, low + 1), (tall * (low + 1), tiles - tall, low)] {
            if count == 0 {
                continue;
            }
            let tile = Tile {
                count,
                rows: local.rows[first..].as_ptr(),
                rows_step: height,
                taps: 1,
                k: self.pixels,
                offset: 0,
                b: right.b,
                ldb: right.panel.width,
                c,
                ldc,
                outputs: local.outputs[first..].as_ptr(),
                cols: right.panel.cols,
                accumulate,
                post: None,
                first_col: right.panel.col,
                ahead,
            };
            ahead.advance(count * tile.asks());
            // SAFETY: the rows are this copy's; the rest is the caller's promise.
            unsafe { run_tile(s, height, right.panel.vectors, &tile) };
        }
    }
}

impl Pixels {
    /// Appends where each pixel starts.
    pub fn list(&self, [images, rows, cols]: [usize; 3], to: &mut Vec<*const f32>) {
        for image in 0..images {
            for row in 0..rows {
                let first = self
                    .data
                    .wrapping_add(image * self.strides[0] + row * self.strides[1]);
                to.extend((0..cols).map(|col| first.wrapping_add(col * self.strides[2])));
            }
        }
    }
}

/// Groups of pixels from the one that is turned to the one that is asked for.
const PIXELS_AHEAD: usize = 1;

/// Copies pixels to `[channel][pixel]`, rows `ld` floats apart.
struct Transpose<'a> {
    pixels: &'a [*const f32],
    channels: usize,
    to: *mut f32,
    ld: usize,
}

impl Kernel for Transpose<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut square = [0.0f32; 16 * 16];
        for (group, pixels) in self.pixels.chunks(S::LANES).enumerate() {
            let next = self
                .pixels
                .get((group + PIXELS_AHEAD) * S::LANES..)
                .unwrap_or(&[]);
            for channel in (0..self.channels).step_by(S::LANES) {
                let n = (self.channels - channel).min(S::LANES);
                for pixel in next.iter().take(S::LANES) {
                    s.prefetch_far(pixel.wrapping_add(channel));
                }
                // SAFETY: the pixels are readable for their channels, as the block's maker promised; the rows are padded to whole vectors
                // of channels and pixels.
                unsafe {
                    let square = square.as_mut_ptr();
                    for (i, &pixel) in pixels.iter().enumerate() {
                        let from = pixel.add(channel);
                        let x = if n == S::LANES {
                            s.load(from)
                        } else {
                            s.load_n(from, n)
                        };
                        s.store(square.add(i * S::LANES), x);
                    }
                    let to = self.to.add(channel * self.ld + group * S::LANES);
                    s.transpose(square, S::LANES, to, self.ld);
                }
            }
        }
    }
}

/// Copies a panel's channels of all pixels one after the other, whole vectors.
struct CopyPanel<'a> {
    pixels: &'a [*const f32],
    panel: Panel,
    to: *mut f32,
}

impl Kernel for CopyPanel<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Panel {
            col, cols, width, ..
        } = self.panel;
        for (i, &pixel) in self.pixels.iter().enumerate() {
            for at in (0..width).step_by(S::LANES) {
                // SAFETY: the pixels are readable for the panel's columns, as the block's maker promised; there is room for
                // `width` floats of each.
                unsafe {
                    let from = pixel.add(col + at);
                    let x = if at + S::LANES <= cols {
                        s.load(from)
                    } else {
                        s.load_n(from, cols - at)
                    };
                    s.store(self.to.add(i * width + at), x);
                }
            }
        }
    }
}
