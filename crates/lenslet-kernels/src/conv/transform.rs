//! The transforms of Winograd's algorithm, vectorised over channels.

use crate::epilogue::Post;
use crate::product::Output;
use crate::simd::Simd;

/// The one-dimensional transforms; applied to rows and columns they make the two-dimensional ones.
///
/// Arrays are as long as the larger transform needs; the smaller one leaves their ends alone.
pub(super) trait Transform: Copy + Default + Send + Sync {
    /// Width of an input tile.
    const IN: usize;
    /// Width of an output tile.
    const OUT: usize;

    fn input<S: Simd>(s: S, d: [S::V; 6]) -> [S::V; 6];
    fn filter<S: Simd>(s: S, g: [S::V; 3]) -> [S::V; 6];
    fn output<S: Simd>(s: S, m: [S::V; 6]) -> [S::V; 4];
    /// The transpose of [`Transform::output`].
    fn spread<S: Simd>(s: S, y: [S::V; 4]) -> [S::V; 6];
    /// The transpose of [`Transform::filter`].
    fn weight<S: Simd>(s: S, u: [S::V; 6]) -> [S::V; 3];
}

/// F(2, 3), on the points 0, 1, -1 and infinity.
#[derive(Clone, Copy, Default)]
pub(super) struct F2;

impl Transform for F2 {
    const IN: usize = 4;
    const OUT: usize = 2;

    #[inline(always)]
    fn input<S: Simd>(s: S, d: [S::V; 6]) -> [S::V; 6] {
        let zero = s.zero();
        [
            s.sub(d[0], d[2]),
            s.add(d[1], d[2]),
            s.sub(d[2], d[1]),
            s.sub(d[1], d[3]),
            zero,
            zero,
        ]
    }

    #[inline(always)]
    fn filter<S: Simd>(s: S, g: [S::V; 3]) -> [S::V; 6] {
        let half = s.splat(0.5);
        let outer = s.mul(half, s.add(g[0], g[2]));
        let plus = s.mul_add(half, g[1], outer);
        let minus = s.neg_mul_add(half, g[1], outer);
        [g[0], plus, minus, g[2], s.zero(), s.zero()]
    }

    #[inline(always)]
    fn output<S: Simd>(s: S, m: [S::V; 6]) -> [S::V; 4] {
        let zero = s.zero();
        let first = s.add(m[0], s.add(m[1], m[2]));
        let second = s.sub(s.sub(m[1], m[2]), m[3]);
        [first, second, zero, zero]
    }

    #[inline(always)]
    fn spread<S: Simd>(s: S, y: [S::V; 4]) -> [S::V; 6] {
        let zero = s.zero();
        let (plus, minus) = (s.add(y[0], y[1]), s.sub(y[0], y[1]));
        [y[0], plus, minus, s.neg(y[1]), zero, zero]
    }

    #[inline(always)]
    fn weight<S: Simd>(s: S, u: [S::V; 6]) -> [S::V; 3] {
        let half = s.splat(0.5);
        let (plus, minus) = (s.add(u[1], u[2]), s.sub(u[1], u[2]));
        [
            s.mul_add(half, plus, u[0]),
            s.mul(half, minus),
            s.mul_add(half, plus, u[3]),
        ]
    }
}

/// F(4, 3), on the points 0, `±NEAR`, `±FAR` and infinity.
#[derive(Clone, Copy, Default)]
pub(super) struct F4;

/// With 3/4 and 3/2 in place of the usual 1 and 2 the largest error is nearly four times smaller: the transforms' rows are
/// closer to each other in size. All that is computed from them is exact in f32, except the filter's fractions.
const NEAR: f32 = 0.75;
const FAR: f32 = 1.5;
const NEAR2: f32 = NEAR * NEAR;
const FAR2: f32 = FAR * FAR;

/// The filter's values at a point enter its transform divided by the product of that point's distances from the others.
const AT_ZERO: f32 = 1.0 / (NEAR2 * FAR2);
const AT_NEAR: f32 = 1.0 / (2.0 * NEAR2 * (NEAR2 - FAR2));
const AT_FAR: f32 = 1.0 / (2.0 * FAR2 * (FAR2 - NEAR2));

impl Transform for F4 {
    const IN: usize = 6;
    const OUT: usize = 4;

    #[inline(always)]
    fn input<S: Simd>(s: S, d: [S::V; 6]) -> [S::V; 6] {
        let (near2, far2) = (s.splat(NEAR2), s.splat(FAR2));
        let (sum, product) = (s.splat(NEAR2 + FAR2), s.splat(NEAR2 * FAR2));
        let (near, far) = (s.splat(NEAR), s.splat(FAR));
        let (even, odd) = (
            s.neg_mul_add(far2, d[2], d[4]),
            s.neg_mul_add(far2, d[1], d[3]),
        );
        let (inner, slope) = (
            s.neg_mul_add(near2, d[2], d[4]),
            s.neg_mul_add(near2, d[1], d[3]),
        );
        [
            s.mul_add(product, d[0], s.neg_mul_add(sum, d[2], d[4])),
            s.mul_add(near, odd, even),
            s.neg_mul_add(near, odd, even),
            s.mul_add(far, slope, inner),
            s.neg_mul_add(far, slope, inner),
            s.mul_add(product, d[1], s.neg_mul_add(sum, d[3], d[5])),
        ]
    }

    #[inline(always)]
    fn filter<S: Simd>(s: S, g: [S::V; 3]) -> [S::V; 6] {
        let near = s.mul_add(s.splat(NEAR2), g[2], g[0]);
        let far = s.mul_add(s.splat(FAR2), g[2], g[0]);
        let (near, far) = (s.mul(s.splat(AT_NEAR), near), s.mul(s.splat(AT_FAR), far));
        let (near_slope, far_slope) = (s.splat(NEAR * AT_NEAR), s.splat(FAR * AT_FAR));
        [
            s.mul(s.splat(AT_ZERO), g[0]),
            s.mul_add(near_slope, g[1], near),
            s.neg_mul_add(near_slope, g[1], near),
            s.mul_add(far_slope, g[1], far),
            s.neg_mul_add(far_slope, g[1], far),
            g[2],
        ]
    }

    #[inline(always)]
    fn output<S: Simd>(s: S, m: [S::V; 6]) -> [S::V; 4] {
        let (near, far) = (s.splat(NEAR), s.splat(FAR));
        let (near2, far2) = (s.splat(NEAR2), s.splat(FAR2));
        let (sum1, dif1) = (s.add(m[1], m[2]), s.mul(near, s.sub(m[1], m[2])));
        let (sum2, dif2) = (s.add(m[3], m[4]), s.mul(far, s.sub(m[3], m[4])));
        [
            s.add(m[0], s.add(sum1, sum2)),
            s.add(dif1, dif2),
            s.mul_add(far2, sum2, s.mul(near2, sum1)),
            s.mul_add(far2, dif2, s.mul_add(near2, dif1, m[5])),
        ]
    }

    #[inline(always)]
    fn spread<S: Simd>(s: S, y: [S::V; 4]) -> [S::V; 6] {
        let (near, far) = (s.splat(NEAR), s.splat(FAR));
        let (near2, far2) = (s.splat(NEAR2), s.splat(FAR2));
        let (even_near, even_far) = (s.mul_add(near2, y[2], y[0]), s.mul_add(far2, y[2], y[0]));
        let (odd_near, odd_far) = (s.mul_add(near2, y[3], y[1]), s.mul_add(far2, y[3], y[1]));
        [
            y[0],
            s.mul_add(near, odd_near, even_near),
            s.neg_mul_add(near, odd_near, even_near),
            s.mul_add(far, odd_far, even_far),
            s.neg_mul_add(far, odd_far, even_far),
            y[3],
        ]
    }

    #[inline(always)]
    fn weight<S: Simd>(s: S, u: [S::V; 6]) -> [S::V; 3] {
        let (at_near, at_far) = (s.splat(AT_NEAR), s.splat(AT_FAR));
        let (near_slope, far_slope) = (s.splat(NEAR * AT_NEAR), s.splat(FAR * AT_FAR));
        let (near2, far2) = (s.splat(NEAR2), s.splat(FAR2));
        let (near, far) = (
            s.mul(at_near, s.add(u[1], u[2])),
            s.mul(at_far, s.add(u[3], u[4])),
        );
        [
            s.mul_add(s.splat(AT_ZERO), u[0], s.add(near, far)),
            s.mul_add(
                near_slope,
                s.sub(u[1], u[2]),
                s.mul(far_slope, s.sub(u[3], u[4])),
            ),
            s.mul_add(near2, near, s.mul_add(far2, far, u[5])),
        ]
    }
}

/// Transforms `n` channels from `c` of a tile of pixels; number `p` goes to `v[p * plane + c]`.
///
/// # Safety
///
/// Every pixel must be readable for `c + n` floats, and the planes writable (whole vectors of them).
#[inline(always)]
pub(super) unsafe fn input_transform<S: Simd, T: Transform, const PARTIAL: bool>(
    s: S,
    pixels: &[[*const f32; 6]; 6],
    c: usize,
    n: usize,
    v: *mut f32,
    plane: usize,
) {
    let mut columns = [[s.zero(); 6]; 6];
    for j in 0..T::IN {
        let mut d = [s.zero(); 6];
        for i in 0..T::IN {
            // SAFETY: the caller's promise.
            d[i] = unsafe {
                if PARTIAL {
                    s.load_n(pixels[i][j].add(c), n)
                } else {
                    s.load(pixels[i][j].add(c))
                }
            };
        }
        columns[j] = T::input(s, d);
    }
    for i in 0..T::IN {
        let mut d = [s.zero(); 6];
        for j in 0..T::IN {
            d[j] = columns[j][i];
        }
        let out = T::input(s, d);
        for j in 0..T::IN {
            // SAFETY: the caller's promise.
            unsafe { s.store(v.add((i * T::IN + j) * plane + c), out[j]) };
        }
    }
}

/// Transforms a vector of 3 x 3 filters, whose taps lie `tap` floats apart; number `p` goes to `to[p * plane]`.
///
/// # Safety
///
/// All taps and all planes must be valid for a vector.
#[inline(always)]
pub(super) unsafe fn filter_transform<S: Simd, T: Transform>(
    s: S,
    from: *const f32,
    tap: usize,
    to: *mut f32,
    plane: usize,
) {
    let mut columns = [[s.zero(); 6]; 3];
    for j in 0..3 {
        // SAFETY: the caller's promise.
        let g = unsafe { [0, 1, 2].map(|i| from.add((i * 3 + j) * tap)) };
        let mut d = [s.zero(); 3];
        for i in 0..3 {
            // SAFETY: the caller's promise.
            d[i] = unsafe { s.load(g[i]) };
        }
        columns[j] = T::filter(s, d);
    }
    for i in 0..T::IN {
        let out = T::filter(s, [columns[0][i], columns[1][i], columns[2][i]]);
        for j in 0..T::IN {
            // SAFETY: the caller's promise.
            unsafe { s.store(to.add((i * T::IN + j) * plane), out[j]) };
        }
    }
}

/// Transforms a vector of channels of a tile back, applies the epilogue and writes the `extent` of it that lies in the image.
/// `place` is the tile's first pixel in the output and the output's width.
///
/// # Safety
///
/// The planes must be readable for a vector; output and post must be valid for these pixels and the channels `c..c + n`.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
pub(super) unsafe fn output_transform<S: Simd, T: Transform>(
    s: S,
    m: *const f32,
    plane: usize,
    y: Output,
    post: &Post,
    place: [usize; 2],
    extent: [usize; 2],
    c: usize,
    n: usize,
) {
    let mut columns = [[s.zero(); 4]; 6];
    for j in 0..T::IN {
        let mut d = [s.zero(); 6];
        for i in 0..T::IN {
            // SAFETY: the caller's promise.
            d[i] = unsafe { s.load(m.add((i * T::IN + j) * plane)) };
        }
        columns[j] = T::output(s, d);
    }
    let mut tile = [[s.zero(); 4]; 4];
    for i in 0..T::OUT {
        let mut d = [s.zero(); 6];
        for j in 0..T::IN {
            d[j] = columns[j][i];
        }
        tile[i] = T::output(s, d);
    }
    for (i, row) in tile.iter().enumerate().take(extent[0]) {
        for (j, &x) in row.iter().enumerate().take(extent[1]) {
            let pixel = place[0] + i * place[1] + j;
            // SAFETY: the caller's promise.
            unsafe {
                let to = y.data.add(pixel * y.ld + c);
                if n == S::LANES {
                    s.store(to, post.apply::<S, false>(s, x, pixel, c, n));
                } else {
                    s.store_n(to, n, post.apply::<S, true>(s, x, pixel, c, n));
                }
            }
        }
    }
}

/// Transforms `n` channels from `c` of a tile of the output's gradient; number `p` goes to `m[p * plane + c]`.
///
/// # Safety
///
/// Every pixel must be readable for `c + n` floats, and the planes writable (whole vectors of them).
#[inline(always)]
pub(super) unsafe fn spread_transform<S: Simd, T: Transform, const PARTIAL: bool>(
    s: S,
    pixels: &[[*const f32; 4]; 4],
    c: usize,
    n: usize,
    m: *mut f32,
    plane: usize,
) {
    let mut columns = [[s.zero(); 6]; 4];
    for j in 0..T::OUT {
        let mut d = [s.zero(); 4];
        for i in 0..T::OUT {
            // SAFETY: the caller's promise.
            d[i] = unsafe {
                if PARTIAL {
                    s.load_n(pixels[i][j].add(c), n)
                } else {
                    s.load(pixels[i][j].add(c))
                }
            };
        }
        columns[j] = T::spread(s, d);
    }
    for i in 0..T::IN {
        let mut d = [s.zero(); 4];
        for j in 0..T::OUT {
            d[j] = columns[j][i];
        }
        let out = T::spread(s, d);
        for j in 0..T::IN {
            // SAFETY: the caller's promise.
            unsafe { s.store(m.add((i * T::IN + j) * plane + c), out[j]) };
        }
    }
}

/// Transforms the first `n` lanes of sums, number `p` at `from[p * plane]`, to 3 x 3 filters: tap `t` goes to `to[t * LANES]`.
///
/// # Safety
///
/// All planes must be readable for `n` floats, and `to` writable for nine vectors.
#[inline(always)]
pub(super) unsafe fn weight_transform<S: Simd, T: Transform>(
    s: S,
    from: *const f32,
    plane: usize,
    n: usize,
    to: *mut f32,
) {
    let mut columns = [[s.zero(); 3]; 6];
    for j in 0..T::IN {
        let mut u = [s.zero(); 6];
        for i in 0..T::IN {
            // SAFETY: the caller's promise.
            u[i] = unsafe {
                let from = from.add((i * T::IN + j) * plane);
                if n == S::LANES {
                    s.load(from)
                } else {
                    s.load_n(from, n)
                }
            };
        }
        columns[j] = T::weight(s, u);
    }
    for i in 0..3 {
        let mut u = [s.zero(); 6];
        for j in 0..T::IN {
            u[j] = columns[j][i];
        }
        let out = T::weight(s, u);
        for j in 0..3 {
            // SAFETY: the caller's promise.
            unsafe { s.store(to.add((i * 3 + j) * S::LANES), out[j]) };
        }
    }
}
