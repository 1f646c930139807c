//! The convolution that reads an image as it comes: few channels, each a plane of its own, `[n, c, h, w]`.
//!
//! Neighbouring output columns see the same floats of every kernel row, a stride apart, so that one pointer serves a whole tile: no
//! table of pixels is made, and the planes are not interleaved first.

use std::ops::Range;

use super::Conv2d;
use crate::buffer::with_local;
use crate::epilogue::{Epilogue, Post};
use crate::error::{KernelError, elements, expect_len};
use crate::late::Late;
use crate::matrix::MatrixMut;
use crate::panels::{Packed, Panel, Source};
use crate::pool::parallel_for;
use crate::product::{CHUNK, Output};
use crate::simd::{Isa, Kernel, Simd, dispatch_on};
use crate::tile::{geometry, max_rows, max_vectors};

/// Channels from which on pixels are interleaved instead.
const FEW: usize = 5;

/// A convolution over planes with its weights packed. `Send` and `Sync`: one object serves any number of threads.
#[derive(Debug)]
pub struct PlanesConv {
    shape: Conv2d,
    output: [usize; 2],
    packed: Packed,
}

impl PlanesConv {
    /// Whether there is a kernel for this shape: up to four channels in one group, stride 1, 2 or 4.
    pub fn serves(shape: &Conv2d) -> bool {
        shape.c_in < FEW && shape.groups == 1 && matches!(shape.stride[1], 1 | 2 | 4)
    }

    /// Packs `weight` (`[c_out, c_in, kh, kw]`) for the forward pass.
    ///
    /// # Errors
    ///
    /// If the shape is impossible or not served, or the weight has another length.
    pub fn new(shape: &Conv2d, weight: &[f32]) -> Result<Self, KernelError> {
        let output = shape.output_size()?;
        if !Self::serves(shape) {
            return Err(KernelError::Shape {
                what: "convolution over planes",
                why: format!("there is none for {shape:?}"),
            });
        }
        expect_len("convolution weight", weight.len(), shape.weight_len())?;
        let k = shape.c_in * shape.taps();
        let mut packed = Packed::empty();
        packed.repack(shape.c_out, 1, |_| Source {
            data: weight,
            taps: &[0],
            tap_stride: 0,
            channels: k,
            channel_stride: 1,
            col_stride: k,
        });
        Ok(PlanesConv {
            shape: *shape,
            output,
            packed,
        })
    }

    /// The convolution's shape.
    pub fn shape(&self) -> &Conv2d {
        &self.shape
    }

    /// Runs it over `n` images (which need not be the shape's number): `x` is `[n, c_in, h, w]`, `y` `[n, oh, ow]` rows of `c_out`.
    ///
    /// # Errors
    ///
    /// If a slice is too short or a row stride too small, or if the epilogue asks for moments.
    pub fn run(
        &self,
        n: usize,
        x: &[f32],
        y: MatrixMut<'_>,
        epilogue: &Epilogue<'_>,
    ) -> Result<(), KernelError> {
        let Conv2d {
            h, w, c_in, c_out, ..
        } = self.shape;
        let [oh, ow] = self.output;
        let rows = elements([n, oh, ow]);
        expect_len("convolution input", x.len(), elements([n, c_in, h, w]))?;
        y.check("convolution output", rows, c_out)?;
        epilogue.check(rows, c_out)?;
        if epilogue.moments.is_some() {
            return Err(KernelError::Shape {
                what: "convolution over planes",
                why: "moments of its output".to_owned(),
            });
        }
        let y = Output {
            data: y.data.as_mut_ptr(),
            ld: y.ld,
        };
        let post = epilogue.raw();
        // Chunks of rows of one image each.
        let per_row = (ow * self.packed.k * c_out).max(1);
        let per_image = oh.div_ceil((CHUNK / per_row).clamp(1, oh));
        parallel_for(n * per_image, |i| {
            let (image, chunk) = (i / per_image, i % per_image);
            let rows = chunk * oh / per_image..(chunk + 1) * oh / per_image;
            // SAFETY: checked above; chunks write different rows.
            unsafe { self.run_rows(image, rows, x, y, &post, 0) };
        });
        Ok(())
    }

    /// Computes some rows of an image's output on the calling thread; `y` and a residual begin with row `first` of the output, counted
    /// through all images.
    ///
    /// # Safety
    ///
    /// Input, output and post must cover these rows and what they see.
    pub(super) unsafe fn run_rows(
        &self,
        image: usize,
        rows: Range<usize>,
        x: &[f32],
        y: Output,
        post: &Post,
        first: usize,
    ) {
        let Conv2d { h, w, c_in, .. } = self.shape;
        let rows = RowsKernel {
            conv: self,
            x: &x[image * c_in * h * w..][..c_in * h * w],
            y,
            post,
            image,
            first,
            rows,
        };
        if !rows.rows.is_empty() {
            dispatch_on(self.packed.panels.isa, rows);
        }
    }
}

/// Some rows of an image's output.
struct RowsKernel<'a> {
    conv: &'a PlanesConv,
    /// The image.
    x: &'a [f32],
    y: Output,
    post: &'a Post,
    image: usize,
    /// The row of all images' outputs that `y` begins with.
    first: usize,
    rows: Range<usize>,
}

impl Kernel for RowsKernel<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Conv2d {
            c_in,
            kernel: [kh, kw],
            stride: [sy, sx],
            padding: [_, left, ..],
            dilation: [dy, dx],
            ..
        } = self.conv.shape;
        let [oh, ow] = self.conv.output;
        // Rows are long enough for a last tile that is not full.
        let (_, registers) = geometry(S::ISA);
        let tallest = (1..=max_vectors(registers))
            .map(|v| max_rows(registers, v))
            .max()
            .unwrap_or(1);
        let width = (ow.next_multiple_of(tallest) - 1) * sx + (kw - 1) * dx + 1;
        let height = (self.rows.len() - 1) * sy + (kh - 1) * dy + 1;
        with_local(|local| {
            let padded = local.a.resize(c_in * height * width);
            self.pad(height, width, left, padded);
            local.outputs.clear();
            for (c, ky) in (0..c_in).flat_map(|c| (0..kh).map(move |ky| (c, ky))) {
                let row = (c * height + ky * dy) * width;
                local.outputs.extend((0..kw).map(|kx| row + kx * dx));
            }
            let panels = self.conv.packed.panels;
            for panel in (0..panels.count).map(|i| panels.get(i)) {
                for row in self.rows.clone() {
                    let strip = Strip {
                        x: padded[(row - self.rows.start) * sy * width..].as_ptr(),
                        offsets: &local.outputs,
                        weights: self.conv.packed.panel(0, &panel),
                        panel: &panel,
                        y: self.y,
                        post: self.post,
                        pixel: (self.image * oh + row - self.first) * ow,
                        columns: ow,
                    };
                    // SAFETY: the padded rows reach as far as whole tiles do; `PlanesConv::run` has checked output and post.
                    unsafe { run_strip(s, sx, &strip) };
                }
            }
        });
    }
}

impl RowsKernel<'_> {
    /// Copies the rows that are seen, with zeros around the image.
    #[inline(always)]
    fn pad(&self, height: usize, width: usize, left: usize, padded: &mut [f32]) {
        let Conv2d {
            h,
            w,
            stride: [sy, _],
            padding: [top, ..],
            ..
        } = self.conv.shape;
        let copied = w.min(width.saturating_sub(left));
        for (i, to) in padded.chunks_exact_mut(width).enumerate() {
            let (c, y) = (i / height, i % height + self.rows.start * sy);
            if y < top || y - top >= h || copied == 0 {
                to.fill(0.0);
                continue;
            }
            let from = &self.x[(c * h + y - top) * w..];
            to[..left].fill(0.0);
            to[left..left + copied].copy_from_slice(&from[..copied]);
            to[left + copied..].fill(0.0);
        }
    }
}

/// One row of the output, one panel of its channels.
struct Strip<'a> {
    /// What its first column sees.
    x: *const f32,
    /// Where the floats of a column lie from there on, in the order of the weights.
    offsets: &'a [usize],
    weights: &'a [f32],
    panel: &'a Panel,
    y: Output,
    post: &'a Post,
    /// The first column's pixel.
    pixel: usize,
    columns: usize,
}

/// Runs a strip with the tile for its stride and panel.
///
/// # Safety
///
/// What the columns see, rounded up to whole tiles, must be readable, their pixels writable and the post's pointers valid for them.
#[inline(always)]
unsafe fn run_strip<S: Simd>(s: S, stride: usize, strip: &Strip<'_>) {
    macro_rules! select {
        ($($st:literal: $(($m:literal, $n:literal))*),*) => {
            match (stride, strip.panel.vectors) {
                $($(($st, $n) if const { has_tile(S::ISA, $m, $n) } => s.vectorize(StripKernel::<$m, $n, $st>(strip)),)*)*
                (stride, vectors) => unreachable!("no tile of stride {stride} and {vectors} vectors"),
            }
        };
    }
    select!(
        1: (8, 1) (8, 2) (6, 2) (8, 3) (6, 4),
        2: (8, 1) (8, 2) (6, 2) (8, 3) (6, 4),
        4: (8, 1) (8, 2) (6, 2) (8, 3) (6, 4)
    );
}

/// Whether a tile of so many columns is the one for panels of so many vectors.
const fn has_tile(isa: Isa, columns: usize, vectors: usize) -> bool {
    let (_, registers) = geometry(isa);
    vectors <= max_vectors(registers) && columns == max_rows(registers, vectors)
}

struct StripKernel<'a, const M: usize, const NV: usize, const ST: usize>(&'a Strip<'a>);

impl<const M: usize, const NV: usize, const ST: usize> Kernel for StripKernel<'_, M, NV, ST> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let strip = self.0;
        let (panel, post) = (strip.panel, strip.post);
        let mut col = 0;
        while col < strip.columns {
            let columns = M.min(strip.columns - col);
            // SAFETY: the caller of `run_strip` promised what is seen, written and read.
            unsafe {
                let acc = reduce::<S, M, NV, ST>(s, strip, strip.x.add(col * ST));
                for i in 0..M {
                    if i < columns {
                        let pixel = strip.pixel + col + i;
                        let y = strip.y.data.add(pixel * strip.y.ld + panel.col);
                        for v in 0..NV {
                            let lane = v * S::LANES;
                            let left = panel.cols - lane;
                            if left >= S::LANES {
                                let x = post.apply_early::<S, false>(
                                    s,
                                    acc[i][v],
                                    pixel,
                                    panel.col + lane,
                                    S::LANES,
                                );
                                s.store(y.add(lane), x);
                            } else {
                                let x = post.apply_early::<S, true>(
                                    s,
                                    acc[i][v],
                                    pixel,
                                    panel.col + lane,
                                    left,
                                );
                                s.store_n(y.add(lane), left, x);
                            }
                        }
                    }
                }
            }
            if post.has_late_pass() {
                let rows: [usize; M] = std::array::from_fn(|i| strip.pixel + col + i);
                s.vectorize(Late {
                    post,
                    y: strip.y.data.wrapping_add(panel.col),
                    ld: strip.y.ld,
                    first_col: panel.col,
                    cols: panel.cols,
                    rows: &rows[..columns],
                });
            }
            col += M;
        }
    }
}

/// The sums of `M` neighbouring columns.
#[inline(always)]
unsafe fn reduce<S: Simd, const M: usize, const NV: usize, const ST: usize>(
    s: S,
    strip: &Strip<'_>,
    x: *const f32,
) -> [[S::V; NV]; M] {
    let mut acc = [[s.zero(); NV]; M];
    let mut weights = strip.weights.as_ptr();
    for &offset in strip.offsets {
        // SAFETY: the caller of `run_strip` promised what is seen; a panel has a row of whole vectors for each offset.
        unsafe {
            let x = x.add(offset);
            let mut b = [s.zero(); NV];
            for v in 0..NV {
                b[v] = s.load(weights.add(v * S::LANES));
            }
            for i in 0..M {
                let x = s.splat(*x.add(i * ST));
                for v in 0..NV {
                    acc[i][v] = s.mul_add(x, b[v], acc[i][v]);
                }
            }
        }
        weights = weights.wrapping_add(NV * S::LANES);
    }
    acc
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::Scratch;
    use crate::conv::{Algorithm, PackedConv, Pass};
    use crate::epilogue::{Activation, Residual, ResidualPosition};
    use crate::matrix::Matrix;
    use crate::testing::{assert_close, poisoned, random, sum_tolerance, with_each_isa};
    use proptest::prelude::*;

    /// Against the general kernel over interleaved pixels, which is tested against sums in f64.
    fn check(shape: &Conv2d, pad: usize, late: bool, residual: bool) {
        let Ok([oh, ow]) = shape.output_size() else {
            return;
        };
        let Conv2d {
            n,
            h,
            w,
            c_in,
            c_out,
            ..
        } = *shape;
        let x = random(n * c_in * h * w, 1);
        let mut pixels = vec![0.0; x.len()];
        for (at, to) in pixels.iter_mut().enumerate() {
            let (pixel, c) = (at / c_in, at % c_in);
            *to = x[(pixel / (h * w) * c_in + c) * h * w + pixel % (h * w)];
        }
        let (weight, bias) = (random(shape.weight_len(), 2), random(c_out, 3));
        let other = random(n * oh * ow * c_out, 4);
        let epilogue = Epilogue {
            scale: Some(&bias),
            bias: Some(&bias),
            residual: residual.then_some(Residual {
                data: &other,
                ld: c_out,
                position: match late {
                    true => ResidualPosition::AfterActivation,
                    false => ResidualPosition::BeforeActivation,
                },
            }),
            activation: if late {
                Activation::Silu
            } else {
                Activation::Relu6
            },
            moments: None,
        };
        let general =
            PackedConv::with_algorithm(shape, Pass::Forward, Algorithm::Indirect, &weight).unwrap();
        let mut want = poisoned(n * oh * ow * c_out);
        let (from, to) = (Matrix::new(&pixels, c_in), MatrixMut::new(&mut want, c_out));
        general
            .run(n, from, to, &mut Scratch::new(), &epilogue)
            .unwrap();
        let ld = c_out + pad;
        let mut y = poisoned(n * oh * ow * ld);
        let planes = PlanesConv::new(shape, &weight).unwrap();
        planes
            .run(n, &x, MatrixMut::new(&mut y, ld), &epilogue)
            .unwrap();
        let (mut found, mut beside) = (Vec::new(), Vec::new());
        for row in y.chunks(ld) {
            found.extend_from_slice(&row[..c_out]);
            beside.extend_from_slice(&row[c_out..]);
        }
        let want: Vec<f64> = want.iter().map(|&y| f64::from(y)).collect();
        assert_close(
            &format!("{shape:?}"),
            &found,
            &want,
            2.0 * sum_tolerance(c_in * shape.taps()),
        );
        assert!(
            beside.iter().all(|y| y.is_nan()),
            "written beside: {shape:?}"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]
        #[test]
        fn matches_the_general_kernel(
            n in 1usize..4, size in [1usize..40, 1usize..40], c_in in 1usize..5, c_out in 1usize..140,
            kernel in [1usize..8, 1usize..8], stride in [1usize..4, 0usize..3], padding in [0usize..4, 0usize..4, 0usize..4, 0usize..4],
            dilation in [1usize..3, 1usize..3], pad in 0usize..5, late: bool, residual: bool,
        ) {
            let shape = Conv2d {
                stride: [stride[0], 1 << stride[1]],
                padding,
                dilation,
                ..Conv2d::new([n, size[0], size[1], c_in], c_out, kernel)
            };
            with_each_isa(|_| check(&shape, pad, late, residual));
        }
    }

    #[test]
    fn stems_of_the_zoo() {
        with_each_isa(|_| {
            check(
                &Conv2d::new([2, 64, 64, 3], 32, [3, 3]).stride(2).padding(1),
                0,
                true,
                false,
            );
            check(
                &Conv2d::new([1, 64, 64, 3], 64, [7, 7]).stride(2).padding(3),
                0,
                false,
                false,
            );
            check(
                &Conv2d::new([1, 63, 63, 3], 64, [11, 11])
                    .stride(4)
                    .padding(2),
                0,
                false,
                false,
            );
            check(
                &Conv2d::new([1, 64, 64, 3], 96, [4, 4]).stride(4),
                0,
                false,
                false,
            );
        });
    }

    #[test]
    fn what_is_not_served_is_refused() {
        let weight = |shape: &Conv2d| vec![0.0; shape.weight_len()];
        for shape in [
            Conv2d::new([1, 8, 8, 5], 8, [3, 3]),
            Conv2d::new([1, 8, 8, 3], 8, [3, 3]).stride(3),
            Conv2d::new([1, 8, 8, 2], 8, [3, 3]).groups(2),
            Conv2d::new([1, 2, 2, 3], 8, [3, 3]),
        ] {
            assert!(
                PlanesConv::new(&shape, &weight(&shape)).is_err(),
                "{shape:?}"
            );
        }
        let shape = Conv2d::new([1, 8, 8, 3], 8, [3, 3]);
        assert!(PlanesConv::new(&shape, &[0.0; 7]).is_err());
        let conv = PlanesConv::new(&shape, &weight(&shape)).unwrap();
        let mut y = vec![0.0; 36 * 8];
        let mut run = |n: usize, len: usize| {
            conv.run(
                n,
                &vec![0.0; len],
                MatrixMut::new(&mut y, 8),
                &Epilogue::NONE,
            )
        };
        assert!(run(1, 192).is_ok());
        assert!(run(1, 191).is_err());
        assert!(run(2, 384).is_err(), "too short an output");
    }
}
