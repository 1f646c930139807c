//! Winograd's error on the layers of VGG-16 and ResNet-50, against sums in f64, relative to the largest result.
//!
//!     cargo test --release -p lenslet-kernels winograd_error -- --nocapture

use super::*;
use crate::buffer::Scratch;
use crate::epilogue::Epilogue;
use crate::matrix::{Matrix, MatrixMut};
use crate::testing::{poisoned, random, turn};

/// 3 x 3 layers of stride 1: network, size, input and output channels.
const LAYERS: [(&str, usize, usize, usize); 12] = [
    ("vgg16", 224, 64, 64),
    ("vgg16", 112, 64, 128),
    ("vgg16", 112, 128, 128),
    ("vgg16", 56, 128, 256),
    ("vgg16", 56, 256, 256),
    ("vgg16", 28, 256, 512),
    ("vgg16", 28, 512, 512),
    ("vgg16", 14, 512, 512),
    ("resnet50", 56, 64, 64),
    ("resnet50", 28, 128, 128),
    ("resnet50", 14, 256, 256),
    ("resnet50", 7, 512, 512),
];

/// Results that are computed again in f64, of each layer and pass.
const SAMPLES: usize = 150;

struct Layer {
    shape: Conv2d,
    x: Vec<f32>,
    w: Vec<f32>,
    dy: Vec<f32>,
}

impl Layer {
    fn new(size: usize, c_in: usize, c_out: usize) -> Self {
        let shape = Conv2d::new([1, size, size, c_in], c_out, [3, 3]).padding(1);
        // Inputs of a ReLU's sign and weights after He, so that sums cancel as they do in a network.
        let x = random(size * size * c_in, 1);
        let scale = (6.0 / (9 * c_in) as f32).sqrt();
        Layer {
            shape,
            x: x.into_iter().map(|x| x.max(0.0)).collect(),
            w: random(shape.weight_len(), 2)
                .into_iter()
                .map(|w| w * scale)
                .collect(),
            dy: random(size * size * c_out, 3),
        }
    }

    /// Calls `f(y, x)` for the positions of every pixel of the output and the pixel that tap (ky, kx) sees from there.
    fn pixels(&self, [ky, kx]: [usize; 2], mut f: impl FnMut(usize, usize)) {
        let size = self.shape.h;
        for y in 0..size {
            for x in 0..size {
                let (iy, ix) = ((y + ky).wrapping_sub(1), (x + kx).wrapping_sub(1));
                if iy < size && ix < size {
                    f(y * size + x, iy * size + ix);
                }
            }
        }
    }

    fn product(&self, pass: Pass, at: usize) -> f64 {
        let Conv2d { h, c_in, c_out, .. } = self.shape;
        let forward = pass == Pass::Forward;
        let (from, inner, outer) = if forward {
            (&self.x, c_in, c_out)
        } else {
            (&self.dy, c_out, c_in)
        };
        let (pixel, c) = (at / outer, at % outer);
        let (y, x) = (pixel / h, pixel % h);
        let mut sum = 0.0;
        for (ky, kx) in (0..3).flat_map(|y| (0..3).map(move |x| (y, x))) {
            let (iy, ix) = ((y + ky).wrapping_sub(1), (x + kx).wrapping_sub(1));
            if iy >= h || ix >= h {
                continue;
            }
            let tap = if forward {
                ky * 3 + kx
            } else {
                8 - ky * 3 - kx
            };
            for k in 0..inner {
                let (o, i) = if forward { (c, k) } else { (k, c) };
                let w = self.w[(o * c_in + i) * 9 + tap];
                sum += f64::from(from[(iy * h + ix) * inner + k]) * f64::from(w);
            }
        }
        sum
    }

    fn weight_gradient(&self, at: usize) -> f64 {
        let Conv2d { c_in, c_out, .. } = self.shape;
        let (filter, tap) = (at / 9, at % 9);
        let (o, i) = (filter / c_in, filter % c_in);
        let mut sum = 0.0;
        self.pixels([tap / 3, tap % 3], |y, x| {
            sum += f64::from(self.dy[y * c_out + o]) * f64::from(self.x[x * c_in + i]);
        });
        sum
    }
}

/// The largest error of some results, relative to the largest result.
fn error(got: &[f32], want: impl Fn(usize) -> f64) -> f64 {
    let largest = got.iter().fold(0f32, |m, x| m.max(x.abs()));
    let step = (got.len() / SAMPLES).max(1) | 1;
    let errors = (0..got.len()).step_by(step);
    errors
        .map(|at| (f64::from(got[at]) - want(at)).abs())
        .fold(0.0, f64::max)
        / f64::from(largest)
}

#[test]
fn winograd_error() {
    let _turn = turn();
    println!(
        "{:<10} {:<16} {:<12} {:>9} {:>9} {:>9}",
        "network", "layer", "algorithm", "forward", "input", "weight"
    );
    for (net, size, c_in, c_out) in LAYERS {
        let layer = Layer::new(size, c_in, c_out);
        for algorithm in [
            Algorithm::Indirect,
            Algorithm::WinogradF2,
            Algorithm::WinogradF4,
        ] {
            let mut scratch = Scratch::new();
            let mut errors = [0.0; 3];
            for (i, pass) in [Pass::Forward, Pass::InputGradient].into_iter().enumerate() {
                let packed =
                    PackedConv::with_algorithm(&layer.shape, pass, algorithm, &layer.w).unwrap();
                let (from, inner, outer) = match pass {
                    Pass::Forward => (&layer.x, c_in, c_out),
                    Pass::InputGradient => (&layer.dy, c_out, c_in),
                };
                let mut y = poisoned(size * size * outer);
                let to = MatrixMut::new(&mut y, outer);
                let from = Matrix::new(from, inner);
                packed
                    .run(1, from, to, &mut scratch, &Epilogue::NONE)
                    .unwrap();
                errors[i] = error(&y, |at| layer.product(pass, at));
            }
            let mut dw = poisoned(layer.w.len());
            let (x, dy) = (Matrix::new(&layer.x, c_in), Matrix::new(&layer.dy, c_out));
            layer
                .shape
                .weight_gradient_by(algorithm, x, dy, &mut dw, &mut scratch)
                .unwrap();
            errors[2] = error(&dw, |at| layer.weight_gradient(at));
            let what = format!("{size}² {c_in}-{c_out}");
            let [forward, input, weight] = errors;
            println!(
                "{net:<10} {what:<16} {:<12} {forward:>9.1e} {input:>9.1e} {weight:>9.1e}",
                algorithm.name()
            );
            // Ten times what is seen, far below what a training step's tolerance allows.
            let bound = match algorithm {
                Algorithm::WinogradF4 => 5e-5,
                _ => 1e-5,
            };
            assert!(
                errors.iter().all(|&e| e < bound),
                "{net} {what} {}: {errors:?}",
                algorithm.name()
            );
        }
    }
}
