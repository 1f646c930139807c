//! Average pooling, adaptive average pooling, and the global average.

use super::{Pool2d, volume};
use crate::buffer::with_local;
use crate::columns::rows_per_chunk;
use crate::error::{KernelError, elements, expect_len};
use crate::gather::{Covers, Gather};
use crate::inout::{In, Out};
use crate::pool::{parallel_chunks_mut, parallel_for};
use crate::simd::{Kernel, Simd, dispatch_on, isa};
use crate::tile::geometry;

/// Average pooling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AveragePool2d {
    /// Its windows.
    pub windows: Pool2d,
    /// Whether the padding counts as zeros (PyTorch's default) or not at all.
    pub count_include_pad: bool,
}

impl AveragePool2d {
    fn averages(&self) -> Result<Averages, KernelError> {
        let axes = self.windows.axes([1, 1])?;
        let spans = axes.map(|axis| {
            (0..axis.output).map(move |o| {
                let taps = axis.taps(o);
                let count = if self.count_include_pad {
                    // What a last window has beyond the padding does not count.
                    let padded = axis.input + axis.padding[0] + axis.padding[1];
                    axis.kernel.min(padded - o * axis.stride)
                } else {
                    taps.len()
                };
                let start = axis.position(o, taps.start);
                Span {
                    start,
                    end: start + taps.len(),
                    weight: 1.0 / count as f32,
                }
            })
        });
        let [rows, cols] = spans;
        Ok(Averages {
            input: self.windows.input,
            spans: [rows.collect(), cols.collect()],
        })
    }

    /// Output height and width.
    ///
    /// # Errors
    ///
    /// If the input is empty, a number that must be positive is 0, or a window sees no input.
    pub fn output_size(&self) -> Result<[usize; 2], KernelError> {
        self.averages().map(|averages| averages.output())
    }

    /// Writes the averages to `y` (`[n, oh, ow, c]`).
    ///
    /// # Errors
    ///
    /// As [`AveragePool2d::output_size`], or if a slice has the wrong length.
    pub fn forward(&self, x: &[f32], y: &mut [f32]) -> Result<(), KernelError> {
        self.averages()?.forward(x, y)
    }

    /// Writes the input's gradient.
    ///
    /// # Errors
    ///
    /// As [`AveragePool2d::output_size`], or if a slice has the wrong length.
    pub fn backward(&self, dy: &[f32], dx: &mut [f32]) -> Result<(), KernelError> {
        self.averages()?.backward(dy, dx)
    }
}

/// Average pooling to a given output size: window `o` of `k` reaches from floor(o h / k) to ceil((o + 1) h / k).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdaptiveAveragePool2d {
    /// Input: images, height, width, channels.
    pub input: [usize; 4],
    /// Output height and width.
    pub output: [usize; 2],
}

impl AdaptiveAveragePool2d {
    /// The average over all pixels of each image: `[n, h, w, c]` to `[n, 1, 1, c]`.
    pub fn global(input: [usize; 4]) -> Self {
        AdaptiveAveragePool2d {
            input,
            output: [1, 1],
        }
    }

    fn averages(&self) -> Result<Averages, KernelError> {
        let [_, h, w, _] = self.input;
        let [oh, ow] = self.output;
        if h == 0 || w == 0 || oh == 0 || ow == 0 {
            return Err(KernelError::Shape {
                what: "adaptive pooling",
                why: format!("from {h} x {w} to {oh} x {ow} pixels"),
            });
        }
        let spans = |input: usize, output: usize| {
            let span = |o: usize| {
                let (start, end) = (o * input / output, ((o + 1) * input).div_ceil(output));
                Span {
                    start,
                    end,
                    weight: 1.0 / (end - start) as f32,
                }
            };
            (0..output).map(span).collect()
        };
        Ok(Averages {
            input: self.input,
            spans: [spans(h, oh), spans(w, ow)],
        })
    }

    /// Writes the averages to `y` (`[n, oh, ow, c]`).
    ///
    /// # Errors
    ///
    /// If input or output is empty or a slice has the wrong length.
    pub fn forward(&self, x: &[f32], y: &mut [f32]) -> Result<(), KernelError> {
        let [n, h, w, c] = self.input;
        if self.output != [1, 1] || h * w == 0 {
            return self.averages()?.forward(x, y);
        }
        expect_len("pooling input", x.len(), elements([n, h, w, c]))?;
        expect_len("pooling output", y.len(), elements([n, c]))?;
        let pixels = h * w;
        let parts = parts(n, pixels, c);
        let isa = isa();
        with_local(|local| {
            // Sums of parts of an image come first, which are added in their order.
            let sums = local.a.resize(n * parts * c);
            parallel_chunks_mut(sums, c.max(1), |part, y| {
                let (image, within) = (part / parts, part % parts);
                let first = within * pixels / parts;
                let sums = Sums {
                    x: &x[(image * pixels + first) * c..],
                    pixels: (within + 1) * pixels / parts - first,
                    c,
                    y,
                    weight: 1.0,
                };
                dispatch_on(isa, sums);
            });
            for (y, sums) in y
                .chunks_exact_mut(c.max(1))
                .zip(sums.chunks_exact(parts * c.max(1)))
            {
                let weight = 1.0 / pixels as f32;
                dispatch_on(
                    isa,
                    Sums {
                        x: sums,
                        pixels: parts,
                        c,
                        y,
                        weight,
                    },
                );
            }
        });
        Ok(())
    }

    /// Writes the input's gradient.
    ///
    /// # Errors
    ///
    /// If input or output is empty or a slice has the wrong length.
    pub fn backward(&self, dy: &[f32], dx: &mut [f32]) -> Result<(), KernelError> {
        self.averages()?.backward(dy, dx)
    }
}

/// Pixels that are added up before their sum is added to the others, so that no sum is of many numbers.
const RUN: usize = 64;

/// Floats of an image that a thread adds up at a time, where the image is large.
const PART: usize = 64 << 10;

/// Floats of an image that are added up sooner than another thread has begun.
const LITTLE: usize = 12 << 10;

/// Parts of all images at least, where they have the pixels.
const PARTS: usize = 4;

/// In how many parts an image's pixels are added up. A function of the problem only. Parts are pixels with all their channels, as other
/// layers share them among threads: a line that another thread has read takes several times as long to be written again.
fn parts(images: usize, pixels: usize, c: usize) -> usize {
    if images >= 8 || pixels * c <= LITTLE {
        return 1;
    }
    let parts = (pixels * c / PART).max(PARTS.div_ceil(images.max(1)));
    parts.min(pixels)
}

/// The sums of all channels over some pixels, times a factor.
struct Sums<'a> {
    x: &'a [f32],
    pixels: usize,
    c: usize,
    y: &'a mut [f32],
    weight: f32,
}

impl Kernel for Sums<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        self.y.fill(0.0);
        for first in (0..self.pixels).step_by(RUN) {
            let pixels = first..(first + RUN).min(self.pixels);
            let mut col = 0;
            while col + 4 * S::LANES <= self.y.len() {
                let mut sums = [s.zero(); 4];
                for pixel in pixels.clone() {
                    let x = &self.x[pixel * self.c + col..][..4 * S::LANES];
                    for v in 0..4 {
                        sums[v] = s.add(sums[v], s.load_slice(&x[v * S::LANES..]));
                    }
                }
                for v in 0..4 {
                    let y = &mut self.y[col + v * S::LANES..][..S::LANES];
                    s.store_slice(y, s.add(s.load_slice(y), sums[v]));
                }
                col += 4 * S::LANES;
            }
            for (i, y) in self.y[col..].chunks_mut(S::LANES).enumerate() {
                let mut sum = s.zero();
                for pixel in pixels.clone() {
                    let x = &self.x[pixel * self.c + col + i * S::LANES..][..y.len()];
                    sum = s.add(sum, s.load_slice(x));
                }
                s.store_slice(y, s.add(s.load_slice(y), sum));
            }
        }
        let weight = s.splat(self.weight);
        for y in self.y.chunks_mut(S::LANES) {
            s.store_slice(y, s.mul(s.load_slice(y), weight));
        }
    }
}

/// The input positions of one window along an axis, and 1 over how many count.
#[derive(Clone, Copy, Debug)]
struct Span {
    start: usize,
    end: usize,
    weight: f32,
}

/// Averages over windows that are the product of a vertical and a horizontal span.
struct Averages {
    input: [usize; 4],
    spans: [Vec<Span>; 2],
}

impl Averages {
    fn output(&self) -> [usize; 2] {
        [self.spans[0].len(), self.spans[1].len()]
    }

    fn check(&self, x: usize, y: usize) -> Result<(), KernelError> {
        let [_, h, w, _] = self.input;
        expect_len(
            "pooling input or its gradient",
            x,
            volume(self.input, [h, w]),
        )?;
        expect_len(
            "pooling output or its gradient",
            y,
            volume(self.input, self.output()),
        )
    }

    fn forward(&self, x: &[f32], y: &mut [f32]) -> Result<(), KernelError> {
        self.check(x.len(), y.len())?;
        let isa = isa();
        if self.input[3] < geometry(isa).0 {
            // A position reads the inputs of its window.
            let covers = [0, 1].map(|axis| {
                let spans = &self.spans[axis];
                let pairs: Vec<_> = (self.pairs(axis))
                    .map(|(i, o, weight)| (o, i, weight))
                    .collect();
                Covers::new(spans.len(), &pairs)
            });
            let [_, h, w, _] = self.input;
            self.gather([h, w], self.output(), &covers, x, y);
            return Ok(());
        }
        let (x, y) = (In::new(x), Out::new(y));
        let [oh, ow] = self.output();
        let rows = self.input[0] * oh;
        let step = rows_per_chunk(rows, ow * self.input[3]);
        parallel_for(rows.div_ceil(step), |i| {
            let chunk = Forward {
                averages: self,
                rows: i * step..((i + 1) * step).min(rows),
                x,
                y,
            };
            dispatch_on(isa, chunk);
        });
        Ok(())
    }

    fn backward(&self, dy: &[f32], dx: &mut [f32]) -> Result<(), KernelError> {
        self.check(dx.len(), dy.len())?;
        let [_, h, w, _] = self.input;
        let covers = [0, 1].map(|axis| {
            let pairs: Vec<_> = self.pairs(axis).collect();
            Covers::new([h, w][axis], &pairs)
        });
        self.gather(self.output(), [h, w], &covers, dy, dx);
        Ok(())
    }

    /// Input positions along an axis, the windows that they are in, and what they count there.
    fn pairs(&self, axis: usize) -> impl Iterator<Item = (usize, usize, f32)> {
        let spans = self.spans[axis].iter().enumerate();
        spans.flat_map(|(o, span)| (span.start..span.end).map(move |i| (i, o, span.weight)))
    }

    /// Sums between maps of these sizes, whose lengths were checked.
    fn gather(
        &self,
        from_size: [usize; 2],
        to_size: [usize; 2],
        covers: &[Covers<f32>; 2],
        from: &[f32],
        to: &mut [f32],
    ) {
        let [images, _, _, channels] = self.input;
        let gather = Gather {
            images,
            from_size,
            to_size,
            channels,
            covers,
            from: In::new(from),
            to: Out::new(to),
        };
        // SAFETY: the lengths were checked; the pairs name positions and windows.
        unsafe { gather.run() };
    }
}

struct Forward<'a> {
    averages: &'a Averages,
    /// Output rows of all images.
    rows: std::ops::Range<usize>,
    x: In,
    y: Out,
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let [_, h, w, c] = self.averages.input;
        let [oh, ow] = self.averages.output();
        for row in self.rows.clone() {
            let (image, vertical) = (row / oh, self.averages.spans[0][row % oh]);
            for (ox, horizontal) in self.averages.spans[1].iter().enumerate() {
                let window = Window {
                    start: ((image * h + vertical.start) * w + horizontal.start) * c,
                    steps: [w * c, c],
                    size: [
                        vertical.end - vertical.start,
                        horizontal.end - horizontal.start,
                    ],
                    weight: vertical.weight * horizontal.weight,
                    out: (row * ow + ox) * c,
                };
                // SAFETY: `forward` checked the lengths; spans lie inside the input; output rows belong to one chunk.
                unsafe {
                    let mut col = 0;
                    while col + 4 * S::LANES <= c {
                        self.average::<S, 4, false>(s, &window, col, S::LANES);
                        col += 4 * S::LANES;
                    }
                    while col + S::LANES <= c {
                        self.average::<S, 1, false>(s, &window, col, S::LANES);
                        col += S::LANES;
                    }
                    if col < c {
                        self.average::<S, 1, true>(s, &window, col, c - col);
                    }
                }
            }
        }
        s.fence();
    }
}

struct Window {
    start: usize,
    steps: [usize; 2],
    size: [usize; 2],
    weight: f32,
    out: usize,
}

impl Forward<'_> {
    #[inline(always)]
    unsafe fn average<S: Simd, const NV: usize, const PARTIAL: bool>(
        &self,
        s: S,
        window: &Window,
        col: usize,
        n: usize,
    ) {
        let mut sums = [s.zero(); NV];
        // SAFETY: the caller's promise.
        unsafe {
            for ky in 0..window.size[0] {
                let mut at = window.start + ky * window.steps[0] + col;
                for _ in 0..window.size[1] {
                    for (v, sum) in sums.iter_mut().enumerate() {
                        let x = self.x.get::<S, PARTIAL>(s, at + v * S::LANES, n);
                        *sum = s.add(*sum, x);
                    }
                    at += window.steps[1];
                }
            }
            let weight = s.splat(window.weight);
            for (v, sum) in sums.into_iter().enumerate() {
                let at = window.out + col + v * S::LANES;
                self.y.put::<S, PARTIAL>(s, at, n, s.mul(sum, weight));
            }
        }
    }
}
