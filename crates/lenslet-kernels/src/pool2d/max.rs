//! Max pooling with the winning tap of each window.

use super::{Axis, Pool2d, volume};
use crate::columns::rows_per_chunk;
use crate::error::{KernelError, elements, expect_len};
use crate::gather::Covers;
use crate::inout::{In, Out};
use crate::pool::parallel_for;
use crate::simd::{Kernel, Simd, dispatch_on, isa};

/// More lanes than any vector has.
const MOST_LANES: usize = 16;

/// Max pooling. The first of equal elements wins; a NaN wins over everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxPool2d {
    /// Its windows.
    pub windows: Pool2d,
    /// Vertical and horizontal distance of a window's taps.
    pub dilation: [usize; 2],
}

impl MaxPool2d {
    /// Without dilation.
    pub fn new(windows: Pool2d) -> Self {
        MaxPool2d {
            windows,
            dilation: [1, 1],
        }
    }

    pub(super) fn axes(&self) -> Result<[Axis; 2], KernelError> {
        let [kh, kw] = self.windows.kernel;
        if kh.saturating_mul(kw) > usize::from(u16::MAX) {
            return Err(KernelError::Shape {
                what: "max pooling",
                why: format!("a window of {kh} x {kw} has more than {} taps", u16::MAX),
            });
        }
        self.windows.axes(self.dilation)
    }

    /// Output height and width.
    ///
    /// # Errors
    ///
    /// If the input is empty, a number that must be positive is 0, or a window sees no input.
    pub fn output_size(&self) -> Result<[usize; 2], KernelError> {
        self.axes().map(|axes| axes.map(|axis| axis.output))
    }

    /// Writes the maxima to `y` (`[n, oh, ow, c]`) and, if asked, the winning tap (row times kernel width plus column)
    /// of each to `taps`, which the backward pass needs.
    ///
    /// # Errors
    ///
    /// As [`MaxPool2d::output_size`], or if a slice has the wrong length.
    pub fn forward(
        &self,
        x: &[f32],
        y: &mut [f32],
        taps: Option<&mut [u16]>,
    ) -> Result<(), KernelError> {
        let axes = self.axes()?;
        let [n, h, w, c] = self.windows.input;
        let [oh, ow] = axes.map(|axis| axis.output);
        let len = volume(self.windows.input, [oh, ow]);
        expect_len("pooling input", x.len(), elements([n, h, w, c]))?;
        expect_len("pooling output", y.len(), len)?;
        expect_len("winning taps", taps.as_ref().map_or(len, |t| t.len()), len)?;
        let taps = Taps(taps.map_or(std::ptr::null_mut(), <[u16]>::as_mut_ptr));
        let (x, y) = (In::new(x), Out::new(y));
        let step = rows_per_chunk(n * oh, ow * c);
        let isa = isa();
        parallel_for((n * oh).div_ceil(step), |i| {
            let chunk = Forward {
                axes: &axes,
                c,
                rows: i * step..((i + 1) * step).min(n * oh),
                x,
                y,
                taps,
            };
            dispatch_on(isa, chunk);
        });
        Ok(())
    }

    /// Writes the input's gradient, given the output's and the winning taps of the forward pass.
    ///
    /// # Errors
    ///
    /// As [`MaxPool2d::output_size`], or if a slice has the wrong length.
    pub fn backward(&self, dy: &[f32], taps: &[u16], dx: &mut [f32]) -> Result<(), KernelError> {
        let axes = self.axes()?;
        let [n, h, w, c] = self.windows.input;
        let [oh, ow] = axes.map(|axis| axis.output);
        let len = volume(self.windows.input, [oh, ow]);
        expect_len("gradient of the output", dy.len(), len)?;
        expect_len("winning taps", taps.len(), len)?;
        expect_len("gradient of the input", dx.len(), elements([n, h, w, c]))?;
        let covers = axes.map(|axis| {
            let pairs: Vec<_> = (0..axis.output)
                .flat_map(|o| axis.taps(o).map(move |k| (axis.position(o, k), o, k)))
                .collect();
            Covers::new(axis.input, &pairs)
        });
        let (dy, dx) = (In::new(dy), Out::new(dx));
        let step = rows_per_chunk(n * h, w * c);
        let isa = isa();
        parallel_for((n * h).div_ceil(step), |i| {
            let chunk = Backward {
                axes: &axes,
                covers: &covers,
                c,
                rows: i * step..((i + 1) * step).min(n * h),
                dy,
                taps,
                dx,
            };
            dispatch_on(isa, chunk);
        });
        Ok(())
    }
}

/// Where the winning taps go; null where they are not wanted.
#[derive(Clone, Copy)]
struct Taps(*mut u16);

// SAFETY: the pointer comes from a mutable slice that outlives the job, and every element belongs to one chunk.
unsafe impl Send for Taps {}
// SAFETY: as above.
unsafe impl Sync for Taps {}

impl Taps {
    /// Writes `n` lanes of integral floats.
    #[inline(always)]
    unsafe fn put<S: Simd>(self, s: S, at: usize, n: usize, taps: S::V) {
        let mut lanes = [0.0f32; MOST_LANES];
        // SAFETY: the array holds a vector; the caller owns the elements; the values are integers below 2^16.
        unsafe {
            s.store(lanes.as_mut_ptr(), taps);
            for (i, lane) in lanes[..n].iter().enumerate() {
                *self.0.add(at + i) = lane.to_int_unchecked::<i32>() as u16;
            }
        }
    }
}

/// `n` winning taps as floats.
#[inline(always)]
fn load_taps<S: Simd>(s: S, taps: &[u16], at: usize, n: usize) -> S::V {
    let mut lanes = [0.0f32; MOST_LANES];
    for (lane, &tap) in lanes.iter_mut().zip(&taps[at..at + n]) {
        *lane = f32::from(tap);
    }
    // SAFETY: the array holds a vector.
    unsafe { s.load(lanes.as_ptr()) }
}

struct Forward<'a> {
    axes: &'a [Axis; 2],
    c: usize,
    /// Output rows of all images.
    rows: std::ops::Range<usize>,
    x: In,
    y: Out,
    taps: Taps,
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let c = self.c;
        let [vertical, horizontal] = self.axes;
        for row in self.rows.clone() {
            let (image, oy) = (row / vertical.output, row % vertical.output);
            let rows = vertical.taps(oy);
            for ox in 0..horizontal.output {
                let cols = horizontal.taps(ox);
                let y = vertical.position(oy, rows.start);
                let x = horizontal.position(ox, cols.start);
                let window = Window {
                    start: ((image * vertical.input + y) * horizontal.input + x) * c,
                    steps: [
                        vertical.dilation * horizontal.input * c,
                        horizontal.dilation * c,
                    ],
                    size: [rows.len(), cols.len()],
                    tap: rows.start * horizontal.kernel + cols.start,
                    kernel_width: horizontal.kernel,
                    out: (row * horizontal.output + ox) * c,
                };
                // SAFETY: `forward` checked the lengths; windows lie inside the input; output rows belong to one chunk.
                unsafe {
                    let mut col = 0;
                    while col + 2 * S::LANES <= c {
                        self.maximum::<S, 2, false>(s, &window, col, S::LANES);
                        col += 2 * S::LANES;
                    }
                    if col + S::LANES <= c {
                        self.maximum::<S, 1, false>(s, &window, col, S::LANES);
                        col += S::LANES;
                    }
                    if col < c {
                        self.maximum::<S, 1, true>(s, &window, col, c - col);
                    }
                }
            }
        }
        s.fence();
    }
}

/// The taps of one window that lie inside the input.
struct Window {
    /// First element of the first tap.
    start: usize,
    /// From one tap to the one below, and to the right.
    steps: [usize; 2],
    size: [usize; 2],
    /// Number of the first tap.
    tap: usize,
    kernel_width: usize,
    out: usize,
}

impl Forward<'_> {
    #[inline(always)]
    unsafe fn maximum<S: Simd, const NV: usize, const PARTIAL: bool>(
        &self,
        s: S,
        window: &Window,
        col: usize,
        n: usize,
    ) {
        let mut best = [s.splat(f32::NEG_INFINITY); NV];
        let mut winner = [s.splat(window.tap as f32); NV];
        // SAFETY: the caller's promise.
        unsafe {
            for ky in 0..window.size[0] {
                let mut at = window.start + ky * window.steps[0] + col;
                let mut tap = (window.tap + ky * window.kernel_width) as f32;
                for _ in 0..window.size[1] {
                    let number = s.splat(tap);
                    for v in 0..NV {
                        let x = self.x.get::<S, PARTIAL>(s, at + v * S::LANES, n);
                        winner[v] = s.select(s.lt(best[v], x), number, winner[v]);
                        // The maximum keeps a NaN in its second operand; one in the first is put back.
                        best[v] = s.select(s.eq(x, x), s.max(x, best[v]), x);
                    }
                    at += window.steps[1];
                    tap += 1.0;
                }
            }
            for v in 0..NV {
                let at = window.out + col + v * S::LANES;
                self.y.put::<S, PARTIAL>(s, at, n, best[v]);
                if !self.taps.0.is_null() {
                    self.taps.put(s, at, n, winner[v]);
                }
            }
        }
    }
}

struct Backward<'a> {
    axes: &'a [Axis; 2],
    covers: &'a [Covers<usize>; 2],
    c: usize,
    /// Input rows of all images.
    rows: std::ops::Range<usize>,
    dy: In,
    taps: &'a [u16],
    dx: Out,
}

impl Kernel for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let c = self.c;
        let [vertical, horizontal] = self.axes;
        for row in self.rows.clone() {
            let (image, y) = (row / vertical.input, row % vertical.input);
            for x in 0..horizontal.input {
                let pixel = Pixel {
                    first: image * vertical.output,
                    rows: self.covers[0].of(y),
                    cols: self.covers[1].of(x),
                    out: (row * horizontal.input + x) * c,
                };
                // SAFETY: `backward` checked the lengths; windows are those of the output; input rows belong to one chunk.
                unsafe {
                    let mut col = 0;
                    while col + S::LANES <= c {
                        self.gather::<S, false>(s, &pixel, col, S::LANES);
                        col += S::LANES;
                    }
                    if col < c {
                        self.gather::<S, true>(s, &pixel, col, c - col);
                    }
                }
            }
        }
        s.fence();
    }
}

/// An input pixel and the windows that cover it.
struct Pixel<'a> {
    /// First output row of the image.
    first: usize,
    rows: &'a [(usize, usize)],
    cols: &'a [(usize, usize)],
    out: usize,
}

impl Backward<'_> {
    #[inline(always)]
    unsafe fn gather<S: Simd, const PARTIAL: bool>(
        &self,
        s: S,
        pixel: &Pixel<'_>,
        col: usize,
        n: usize,
    ) {
        let horizontal = &self.axes[1];
        let mut sum = s.zero();
        for &(oy, ky) in pixel.rows {
            for &(ox, kx) in pixel.cols {
                let at = ((pixel.first + oy) * horizontal.output + ox) * self.c + col;
                let tap = s.splat((ky * horizontal.kernel + kx) as f32);
                let won = s.eq(load_taps(s, self.taps, at, n), tap);
                // SAFETY: the caller's promise.
                let dy = unsafe { self.dy.get::<S, PARTIAL>(s, at, n) };
                sum = s.add(sum, s.select(won, dy, s.zero()));
            }
        }
        // SAFETY: the caller's promise.
        unsafe { self.dx.put::<S, PARTIAL>(s, pixel.out + col, n, sum) };
    }
}
