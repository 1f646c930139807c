use super::*;
use crate::inout::InOut;
use crate::testing::{
    ALL_ACTIVATIONS, activate, activate_derivative, assert_close, poisoned, random, sum_tolerance,
    wide, with_each_isa,
};
use proptest::prelude::*;

/// Mean and biased variance of each channel in f64.
fn moments(rows: usize, channels: usize, x: &[f32]) -> (Vec<f64>, Vec<f64>) {
    let column = |c: usize| (0..rows).map(move |r| f64::from(x[r * channels + c]));
    let mean: Vec<f64> = (0..channels)
        .map(|c| column(c).sum::<f64>() / rows as f64)
        .collect();
    let variance = (0..channels)
        .map(|c| column(c).map(|x| (x - mean[c]).powi(2)).sum::<f64>() / rows as f64)
        .collect();
    (mean, variance)
}

struct Problem {
    rows: usize,
    channels: usize,
    x: Vec<f32>,
    residual: Vec<f32>,
    dy: Vec<f32>,
    mean: Vec<f32>,
    inv_std: Vec<f32>,
    gamma: Vec<f32>,
    beta: Vec<f32>,
}

impl Problem {
    fn new(rows: usize, channels: usize, seed: u64) -> Self {
        let x = random(rows * channels, seed);
        let (mean, variance) = moments(rows, channels, &x);
        // A generous epsilon keeps single rows well conditioned.
        let inv_std = variance.iter().map(|v| (1.0 / (v + 0.1).sqrt()) as f32);
        Problem {
            rows,
            channels,
            residual: random(rows * channels, seed ^ 1),
            dy: random(rows * channels, seed ^ 2),
            mean: mean.iter().map(|&m| m as f32).collect(),
            inv_std: inv_std.collect(),
            gamma: random(channels, seed ^ 3),
            beta: random(channels, seed ^ 4),
            x,
        }
    }

    fn norm(&self, activation: crate::Activation) -> BatchNorm<'_> {
        BatchNorm {
            mean: &self.mean,
            inv_std: &self.inv_std,
            gamma: Some(&self.gamma),
            beta: Some(&self.beta),
            activation,
        }
    }

    fn normal(&self, i: usize) -> f64 {
        let c = i % self.channels;
        (f64::from(self.x[i]) - f64::from(self.mean[c])) * f64::from(self.inv_std[c])
    }

    /// The value before the activation.
    fn z(&self, i: usize, residual: bool) -> f64 {
        let c = i % self.channels;
        let r = if residual {
            f64::from(self.residual[i])
        } else {
            0.0
        };
        self.normal(i) * f64::from(self.gamma[c]) + f64::from(self.beta[c]) + r
    }
}

/// Gradients of x, residual, gamma and beta in f64, given dz.
fn reference_backward(p: &Problem, dz: &[f64], frozen: bool) -> [Vec<f64>; 3] {
    let (mut d_gamma, mut d_beta) = (vec![0.0; p.channels], vec![0.0; p.channels]);
    for (i, dz) in dz.iter().enumerate() {
        d_gamma[i % p.channels] += dz * p.normal(i);
        d_beta[i % p.channels] += dz;
    }
    let rows = if frozen { f64::INFINITY } else { p.rows as f64 };
    let dx = dz.iter().enumerate().map(|(i, dz)| {
        let c = i % p.channels;
        let scale = f64::from(p.gamma[c]) * f64::from(p.inv_std[c]);
        scale * (dz - d_beta[c] / rows - p.normal(i) * d_gamma[c] / rows)
    });
    [dx.collect(), d_gamma, d_beta]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn statistics_match_the_reference(rows in 1usize..700, channels in 1usize..150, offset in -9f32..9.0, seed: u64) {
        let mut x = random(rows * channels, seed);
        x.iter_mut().for_each(|x| *x += offset);
        let (want_mean, want_variance) = moments(rows, channels, &x);
        with_each_isa(|_| {
            let (mut mean, mut variance) = (poisoned(channels), poisoned(channels));
            batch_statistics(rows, &x, &mut mean, &mut variance).unwrap();
            assert_close("mean", &mean, &want_mean, 1e-6);
            assert_close("variance", &variance, &want_variance, 1e-6);
        });
    }

    #[test]
    fn batch_norm_matches_the_reference(
        rows in 1usize..40, channels in 1usize..150, kind in 0usize..11,
        with_residual: bool, from_output: bool, frozen: bool, in_place: bool, seed: u64,
    ) {
        let activation = ALL_ACTIVATIONS[kind];
        let mut p = Problem::new(rows, channels, seed);
        // Keep away from corners, where the derivative depends on rounding.
        for i in 0..rows * channels {
            let z = p.z(i, with_residual);
            let near = [0.0, 3.0, -3.0, 6.0].iter().any(|corner| (z - corner).abs() < 1e-3);
            if near {
                p.dy[i] = 0.0;
            }
        }
        let residual = with_residual.then_some(&p.residual[..]);
        let z: Vec<f64> = (0..rows * channels).map(|i| p.z(i, with_residual)).collect();
        let want: Vec<f64> = z.iter().map(|&z| activate(activation, z)).collect();
        let dz = z.iter().zip(&p.dy).map(|(&z, &dy)| activate_derivative(activation, z) * f64::from(dy));
        let dz: Vec<f64> = dz.collect();
        let [want_dx, want_gamma, want_beta] = reference_backward(&p, &dz, frozen);
        with_each_isa(|_| {
            let norm = p.norm(activation);
            let mut y = if in_place { p.x.clone() } else { poisoned(p.x.len()) };
            let x_y = if in_place { InOut::InPlace(&mut y) } else { InOut::Separate(&p.x, &mut y) };
            norm.forward(rows, x_y, residual).unwrap();
            assert_close("batch norm", &y, &want, 2e-5);

            let z = match residual {
                _ if from_output && activation.derivative_from_output_exists() => Preactivation::FromOutput(&y),
                Some(residual) => Preactivation::FromResidual(residual),
                None => Preactivation::FromInput,
            };
            let statistics = if frozen { Statistics::Frozen } else { Statistics::Batch };
            let mut dx = if in_place { p.dy.clone() } else { poisoned(p.x.len()) };
            let dy_dx = if in_place { InOut::InPlace(&mut dx) } else { InOut::Separate(&p.dy, &mut dx) };
            let (mut d_residual, mut d_gamma, mut d_beta) = (poisoned(p.x.len()), poisoned(channels), poisoned(channels));
            norm.backward(rows, statistics, &p.x, z, dy_dx, Some(&mut d_residual),
                [Some(&mut d_gamma), Some(&mut d_beta)]).unwrap();
            assert_close("dx", &dx, &want_dx, 1e-4);
            assert_close("d residual", &d_residual, &dz, 2e-5);
            let tolerance = 10.0 * sum_tolerance(rows) + 2e-5 * rows as f64;
            assert_close("d gamma", &d_gamma, &want_gamma, tolerance);
            assert_close("d beta", &d_beta, &want_beta, tolerance);
            let mut again = poisoned(p.x.len());
            norm.backward(rows, statistics, &p.x, z, InOut::Separate(&p.dy, &mut again), None, [None, None]).unwrap();
            assert_eq!(again, dx);
        });
    }

    #[test]
    fn layer_norm_matches_the_reference(rows in 1usize..70, channels in 1usize..150, affine: bool, seed: u64) {
        let x = random(rows * channels, seed);
        let dy = random(rows * channels, seed ^ 1);
        let (gamma, beta) = (random(channels, seed ^ 2), random(channels, seed ^ 3));
        let epsilon = 1e-2;
        let norm = LayerNorm {
            channels,
            gamma: affine.then_some(&gamma),
            beta: affine.then_some(&beta),
            epsilon,
        };
        let (mut want_y, mut want_dx) = (Vec::new(), Vec::new());
        let (mut want_gamma, mut want_beta) = (vec![0.0; channels], vec![0.0; channels]);
        for (x, dy) in x.chunks(channels).zip(dy.chunks(channels)) {
            let (x, dy) = (wide(x), wide(dy));
            let n = channels as f64;
            let mean = x.iter().sum::<f64>() / n;
            let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
            let inv = 1.0 / (variance + f64::from(epsilon)).sqrt();
            let factor = |c: usize| if affine { f64::from(gamma[c]) } else { 1.0 };
            let normal: Vec<f64> = x.iter().map(|x| (x - mean) * inv).collect();
            let g: Vec<f64> = (0..channels).map(|c| dy[c] * factor(c)).collect();
            let g_mean = g.iter().sum::<f64>() / n;
            let gx_mean = g.iter().zip(&normal).map(|(a, b)| a * b).sum::<f64>() / n;
            for c in 0..channels {
                want_y.push(normal[c] * factor(c) + if affine { f64::from(beta[c]) } else { 0.0 });
                want_dx.push(inv * (g[c] - g_mean - normal[c] * gx_mean));
                want_gamma[c] += dy[c] * normal[c];
                want_beta[c] += dy[c];
            }
        }
        with_each_isa(|_| {
            let (mut y, mut dx) = (poisoned(x.len()), poisoned(x.len()));
            let (mut mean, mut inv_std) = (poisoned(rows), poisoned(rows));
            norm.forward(rows, InOut::Separate(&x, &mut y), Some([&mut mean, &mut inv_std])).unwrap();
            assert_close("layer norm", &y, &want_y, 1e-5);
            let mut in_place = x.clone();
            norm.forward(rows, InOut::InPlace(&mut in_place), None).unwrap();
            assert_eq!(in_place, y);
            let (mut d_gamma, mut d_beta) = (poisoned(channels), poisoned(channels));
            norm.backward(rows, &x, [&mean, &inv_std], InOut::Separate(&dy, &mut dx), None,
                [Some(&mut d_gamma), Some(&mut d_beta)]).unwrap();
            let mut onto = dy.clone();
            norm.backward(rows, &x, [&mean, &inv_std], InOut::InPlace(&mut onto), Some(&x), [None, None]).unwrap();
            let sum: Vec<f32> = dx.iter().zip(&x).map(|(dx, x)| dx + x).collect();
            assert_eq!(onto, sum);
            assert_close("dx", &dx, &want_dx, 1e-4);
            assert_close("d gamma", &d_gamma, &want_gamma, 1e-5 * rows as f64);
            assert_close("d beta", &d_beta, &want_beta, 1e-5 * rows as f64);
        });
    }
}

#[test]
fn many_rows_cost_no_precision() {
    // As many pixels as a batch of 32 at 112 x 112 has, with a mean far from zero.
    let (rows, channels) = (401_408, 3);
    let mut x = random(rows * channels, 5);
    x.iter_mut().for_each(|x| *x += 10.0);
    let (want_mean, want_variance) = moments(rows, channels, &x);
    let (mut mean, mut variance) = (poisoned(channels), poisoned(channels));
    batch_statistics(rows, &x, &mut mean, &mut variance).unwrap();
    assert_close("mean", &mean, &want_mean, 1e-6);
    assert_close("variance", &variance, &want_variance, 3e-7);
}

#[test]
fn wrong_arguments_are_refused() {
    let (mut a, mut b) = ([0.0; 3], [0.0; 3]);
    assert!(batch_statistics(0, &[], &mut a, &mut b).is_err());
    assert!(batch_statistics(2, &[0.0; 5], &mut a, &mut b).is_err());
    let p = Problem::new(2, 3, 0);
    let norm = p.norm(crate::Activation::Silu);
    let mut y = [0.0; 6];
    assert!(
        norm.forward(3, InOut::Separate(&p.x, &mut y), None)
            .is_err()
    );
    let saved = Preactivation::FromOutput(&p.residual);
    let dy_dx = InOut::Separate(&p.dy, &mut y);
    let refused = norm.backward(2, Statistics::Batch, &p.x, saved, dy_dx, None, [None, None]);
    assert!(refused.is_err());
    let empty = LayerNorm {
        channels: 0,
        gamma: None,
        beta: None,
        epsilon: 0.0,
    };
    assert!(empty.forward(0, InOut::InPlace(&mut []), None).is_err());
}
