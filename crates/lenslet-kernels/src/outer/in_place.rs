//! Tiles that read both sides in place, pixel by pixel.

use super::Block;
use crate::simd::{Kernel, Simd};
use crate::tile::{max_rows, max_vectors, select_tile};

/// The product of a block.
///
/// # Safety
///
/// The block's pointers must be valid for its extent and channels, the output's rows nobody else's.
pub(super) unsafe fn multiply<S: Simd>(s: S, block: &Block) {
    let (m, n) = (block.a.channels, block.b.channels);
    let vectors = n.div_ceil(S::LANES);
    let panels = vectors.div_ceil(max_vectors(S::REGISTERS));
    for panel in 0..panels {
        let first = panel * vectors / panels;
        let nv = (panel + 1) * vectors / panels - first;
        let col = first * S::LANES;
        let tiles = m.div_ceil(max_rows(S::REGISTERS, nv));
        for tile in 0..tiles {
            let row = tile * m / tiles;
            let rows = (tile + 1) * m / tiles - row;
            let tile = PixelTile {
                a: block.a.data.wrapping_add(row),
                b: block.b.data.wrapping_add(col),
                a_strides: block.a.strides,
                b_strides: block.b.strides,
                extent: block.extent,
                c: block.c.wrapping_add(row * block.ldc + col),
                ldc: block.ldc,
                cols: (nv * S::LANES).min(n - col),
                accumulate: block.accumulate,
            };
            // SAFETY: the caller's promise.
            unsafe { run_pixel_tile(s, rows, nv, &tile) };
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
    select_tile!(s, mr, nv, PixelKernel(tile));
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
