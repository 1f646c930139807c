//! Interpolation of `[n, h, w, c]` to another size, forward and backward.

use crate::error::{KernelError, elements, expect_len};
use crate::gather::{Covers, Gather};
use crate::inout::{In, Out};

/// How pixels between pixels are made; both place pixel centres as PyTorch's `align_corners=False` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interpolation {
    /// The pixel whose area contains the position of the output pixel's corner (PyTorch's `nearest`).
    Nearest,
    /// The weighted mean of the four pixels around.
    Bilinear,
}

/// An interpolation to another size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resize2d {
    /// Input: images, height, width, channels.
    pub input: [usize; 4],
    /// Output height and width.
    pub output: [usize; 2],
    /// The method.
    pub interpolation: Interpolation,
}

impl Resize2d {
    /// (output position, input position, weight) along an axis, with positions computed in f32 as PyTorch does.
    fn weights(&self, axis: usize) -> Vec<(usize, usize, f32)> {
        let (input, output) = (self.input[1 + axis], self.output[axis]);
        let scale = input as f32 / output as f32;
        let mut weights = Vec::new();
        for o in 0..output {
            match self.interpolation {
                Interpolation::Nearest => {
                    let i = (o as f32 * scale).floor() as usize;
                    weights.push((o, i.min(input - 1), 1.0));
                }
                Interpolation::Bilinear => {
                    let at = ((o as f32 + 0.5) * scale - 0.5).max(0.0);
                    let first = (at as usize).min(input - 1);
                    let share = (at - first as f32).min(1.0);
                    if first + 1 < input && share > 0.0 {
                        weights.push((o, first, 1.0 - share));
                        weights.push((o, first + 1, share));
                    } else {
                        weights.push((o, first, 1.0));
                    }
                }
            }
        }
        weights
    }

    fn check(&self, x: usize, y: usize) -> Result<(), KernelError> {
        let [n, h, w, c] = self.input;
        let [oh, ow] = self.output;
        if h == 0 || w == 0 || oh == 0 || ow == 0 {
            return Err(KernelError::Shape {
                what: "interpolation",
                why: format!("from {h} x {w} to {oh} x {ow} pixels"),
            });
        }
        expect_len(
            "interpolation input or its gradient",
            x,
            elements([n, h, w, c]),
        )?;
        expect_len(
            "interpolation output or its gradient",
            y,
            elements([n, oh, ow, c]),
        )
    }

    /// Writes the interpolated images to `y` (`[n, oh, ow, c]`).
    ///
    /// # Errors
    ///
    /// If input or output is empty or a slice has the wrong length.
    pub fn forward(&self, x: &[f32], y: &mut [f32]) -> Result<(), KernelError> {
        self.check(x.len(), y.len())?;
        let [n, h, w, c] = self.input;
        let covers = [0, 1].map(|axis| Covers::new(self.output[axis], &self.weights(axis)));
        let gather = Gather {
            images: n,
            from_size: [h, w],
            to_size: self.output,
            channels: c,
            covers: &covers,
            from: In::new(x),
            to: Out::new(y),
        };
        // SAFETY: the lengths were checked; the weights name input positions.
        unsafe { gather.run() };
        Ok(())
    }

    /// Writes the input's gradient.
    ///
    /// # Errors
    ///
    /// If input or output is empty or a slice has the wrong length.
    pub fn backward(&self, dy: &[f32], dx: &mut [f32]) -> Result<(), KernelError> {
        self.check(dx.len(), dy.len())?;
        let [n, h, w, c] = self.input;
        let covers = [0, 1].map(|axis| {
            let weights = self.weights(axis).into_iter();
            let turned: Vec<_> = weights.map(|(o, i, weight)| (i, o, weight)).collect();
            Covers::new([h, w][axis], &turned)
        });
        let gather = Gather {
            images: n,
            from_size: self.output,
            to_size: [h, w],
            channels: c,
            covers: &covers,
            from: In::new(dy),
            to: Out::new(dx),
        };
        // SAFETY: the lengths were checked; the weights name output positions.
        unsafe { gather.run() };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, poisoned, random, with_each_isa};
    use proptest::prelude::*;

    /// Weights of the input positions for output position `o`, from the definition.
    fn reference_weights(kind: Interpolation, input: usize, output: usize, o: usize) -> Vec<f64> {
        let scale = input as f64 / output as f64;
        let mut weights = vec![0.0; input];
        match kind {
            Interpolation::Nearest => weights[o * input / output] = 1.0,
            Interpolation::Bilinear => {
                let at = ((o as f64 + 0.5) * scale - 0.5).max(0.0);
                for (i, weight) in weights.iter_mut().enumerate() {
                    *weight = (1.0 - (at - i as f64).abs()).max(0.0);
                }
                if at > (input - 1) as f64 {
                    weights[input - 1] = 1.0;
                }
            }
        }
        weights
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(50))]

        #[test]
        fn interpolation_matches_the_reference(
            n in 1usize..3, size in [1usize..9, 1usize..9], output in [1usize..14, 1usize..14], c in 1usize..40,
            bilinear: bool, seed: u64,
        ) {
            let interpolation = if bilinear { Interpolation::Bilinear } else { Interpolation::Nearest };
            // For the nearest pixel, ratios that f32 represents; others round as PyTorch's do.
            let output = if bilinear { output } else { [size[0] * 2, size[1] * 4] };
            let resize = Resize2d { input: [n, size[0], size[1], c], output, interpolation };
            let x = random(n * size[0] * size[1] * c, seed);
            let dy = random(n * output[0] * output[1] * c, seed ^ 1);
            let (mut want, mut want_dx) = (vec![0.0; dy.len()], vec![0.0; x.len()]);
            for image in 0..n {
                for oy in 0..output[0] {
                    let rows = reference_weights(interpolation, size[0], output[0], oy);
                    for ox in 0..output[1] {
                        let cols = reference_weights(interpolation, size[1], output[1], ox);
                        for (y, a) in rows.iter().enumerate() {
                            for (at, b) in cols.iter().enumerate() {
                                for channel in 0..c {
                                    let to = ((image * output[0] + oy) * output[1] + ox) * c + channel;
                                    let from = ((image * size[0] + y) * size[1] + at) * c + channel;
                                    want[to] += a * b * f64::from(x[from]);
                                    want_dx[from] += a * b * f64::from(dy[to]);
                                }
                            }
                        }
                    }
                }
            }
            with_each_isa(|_| {
                let (mut y, mut dx) = (poisoned(want.len()), poisoned(x.len()));
                resize.forward(&x, &mut y).unwrap();
                assert_close("interpolation", &y, &want, 1e-5);
                resize.backward(&dy, &mut dx).unwrap();
                assert_close("its gradient", &dx, &want_dx, 1e-4);
            });
        }
    }

    #[test]
    fn empty_images_are_refused() {
        let resize = Resize2d {
            input: [1, 0, 2, 1],
            output: [2, 2],
            interpolation: Interpolation::Nearest,
        };
        assert!(resize.forward(&[], &mut [0.0; 4]).is_err());
        let resize = Resize2d {
            input: [1, 2, 2, 1],
            output: [2, 0],
            ..resize
        };
        assert!(resize.forward(&[0.0; 4], &mut []).is_err());
    }
}
