use super::*;
use crate::inout::InOut;
use crate::testing::{
    ALL_ACTIVATIONS, activate, activate_derivative, assert_close, poisoned, random, with_each_isa,
};
use proptest::prelude::*;

fn f(x: f32) -> f64 {
    f64::from(x)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn activations_match_the_reference(len in 0usize..3000, kind in 0usize..11, seed: u64) {
        let activation = ALL_ACTIVATIONS[kind];
        // Away from corners, where the derivative depends on rounding.
        let mut x = random(len, seed);
        for x in &mut x {
            *x *= 8.0;
            if [0.0, 3.0, 6.0].iter().any(|corner| (x.abs() - corner).abs() < 1e-3) {
                *x += 0.01;
            }
        }
        let (b, dy) = (random(len, seed ^ 1), random(len, seed ^ 2));
        let a: Vec<f32> = x.iter().zip(&b).map(|(x, b)| x - b).collect();
        let want: Vec<f64> = x.iter().map(|&x| activate(activation, f(x))).collect();
        let want_dx: Vec<f64> = x.iter().zip(&dy).map(|(&x, &dy)| f(dy) * activate_derivative(activation, f(x))).collect();
        with_each_isa(|_| {
            let mut y = poisoned(len);
            activation_forward(activation, InOut::Separate(&x, &mut y)).unwrap();
            assert_close("activation", &y, &want, 1e-5);
            let mut sum = a.clone();
            add_forward(activation, InOut::InPlace(&mut sum), &b).unwrap();
            assert_close("sum", &sum, &want, 1e-5);
            let mut dx = poisoned(len);
            activation_backward(activation, Saved::Input(&x), InOut::Separate(&dy, &mut dx)).unwrap();
            assert_close("dx", &dx, &want_dx, 1e-5);
            let mut dx = dy.clone();
            activation_backward(activation, Saved::Summands(&a, &b), InOut::InPlace(&mut dx)).unwrap();
            assert_close("dx of a sum", &dx, &want_dx, 1e-5);
            let mut dx = poisoned(len);
            let from_output = activation_backward(activation, Saved::Output(&y), InOut::Separate(&dy, &mut dx));
            assert_eq!(from_output.is_ok(), activation.derivative_from_output_exists());
            if from_output.is_ok() {
                assert_close("dx from the output", &dx, &want_dx, 1e-5);
            }
        });
    }

    #[test]
    fn scalings_match_the_reference(samples in 1usize..5, pixels in 1usize..60, channels in 1usize..150, kind in 0usize..3, seed: u64) {
        let shape = Scaling { samples, pixels, channels };
        let len = samples * pixels * channels;
        let (x, dy, residual) = (random(len, seed), random(len, seed ^ 1), random(len, seed ^ 2));
        let count = [channels, samples, samples * channels][kind];
        let factors = random(count, seed ^ 3);
        let factor = [Factor::Channels, Factor::Samples, Factor::SampleChannels][kind](&factors);
        let index = |i: usize| {
            let (n, c) = (i / (pixels * channels), i % channels);
            [c, n, n * channels + c][kind]
        };
        let want: Vec<f64> = (0..len).map(|i| f(x[i]) * f(factors[index(i)])).collect();
        let want_sum: Vec<f64> = want.iter().zip(&residual).map(|(y, &r)| y + f(r)).collect();
        let want_dx: Vec<f64> = (0..len).map(|i| f(dy[i]) * f(factors[index(i)])).collect();
        let mut want_d = vec![0.0; count];
        (0..len).for_each(|i| want_d[index(i)] += f(dy[i]) * f(x[i]));
        with_each_isa(|_| {
            let mut y = poisoned(len);
            shape.forward(InOut::Separate(&x, &mut y), factor, None).unwrap();
            assert_close("scaled", &y, &want, 1e-6);
            shape.forward(InOut::Separate(&x, &mut y), factor, Some(&residual)).unwrap();
            assert_close("scaled and added", &y, &want_sum, 1e-6);
            let (mut dx, mut d) = (poisoned(len), poisoned(count));
            shape.backward(&x, factor, InOut::Separate(&dy, &mut dx), &mut d).unwrap();
            assert_close("dx", &dx, &want_dx, 1e-6);
            assert_close("d factor", &d, &want_d, 1e-6 * (1.0 + len as f64 / count as f64));
        });
    }

    #[test]
    fn dropout_is_a_function_of_seed_and_position(len in 0usize..5000, p in 0f32..0.9, seed: u64) {
        let x = random(len, seed);
        let mut mask = poisoned(len);
        dropout_mask(seed, p, &mut mask).unwrap();
        let keep = 1.0 / (1.0 - p);
        prop_assert!(mask.iter().all(|&m| m == 0.0 || m == keep));
        let want: Vec<f32> = x.iter().zip(&mask).map(|(x, m)| x * m).collect();
        with_each_isa(|_| {
            let mut y = poisoned(len);
            dropout(seed, p, InOut::Separate(&x, &mut y)).unwrap();
            assert_eq!(y, want);
            let mut y = x.clone();
            dropout(seed, p, InOut::InPlace(&mut y)).unwrap();
            assert_eq!(y, want);
        });
    }

    #[test]
    fn updates_match_the_reference(len in 0usize..2000, step in 1u64..50, nesterov: bool, momentum: bool, seed: u64) {
        let (param, grad) = (random(len, seed), random(len, seed ^ 1));
        let (m, mut v) = (random(len, seed ^ 2), random(len, seed ^ 3));
        v.iter_mut().for_each(|v| *v = v.abs() + 0.01);
        let scale = 0.25f32;
        let adam = AdamW { lr: 0.01, betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.05 };
        let sgd = Sgd {
            lr: 0.1,
            momentum: if momentum { 0.9 } else { 0.0 },
            dampening: if nesterov { 0.0 } else { 0.1 },
            weight_decay: 0.01,
            nesterov: nesterov && momentum,
        };
        let [mut want_m, mut want_v, mut want_adam, mut want_sgd, mut want_velocity]: [Vec<f64>; 5] = Default::default();
        for i in 0..len {
            let g = f(grad[i]) * f(scale);
            want_m.push(0.9 * f(m[i]) + 0.1 * g);
            want_v.push(0.999 * f(v[i]) + 0.001 * g * g);
            let root = (want_v[i] / (1.0 - 0.999f64.powf(step as f64))).sqrt() + 1e-8;
            let change = 0.01 * want_m[i] / (1.0 - 0.9f64.powf(step as f64)) / root;
            want_adam.push(f(param[i]) * (1.0 - 0.01 * 0.05) - change);
            let g = g + 0.01 * f(param[i]);
            let velocity = if step == 1 { g } else { 0.9 * f(m[i]) + (1.0 - f(sgd.dampening)) * g };
            want_velocity.push(velocity);
            let change = match (momentum, nesterov) {
                (false, _) => g,
                (true, false) => velocity,
                (true, true) => g + 0.9 * velocity,
            };
            want_sgd.push(f(param[i]) - 0.1 * change);
        }
        let want_squares: f64 = grad.iter().map(|&g| f(g) * f(g)).sum();
        with_each_isa(|_| {
            let (mut p, mut m1, mut v1) = (param.clone(), m.clone(), v.clone());
            adam.step(step, scale, &mut p, &grad, &mut m1, &mut v1).unwrap();
            assert_close("AdamW", &p, &want_adam, 1e-6);
            assert_close("first moment", &m1, &want_m, 1e-6);
            assert_close("second moment", &v1, &want_v, 1e-6);
            let (mut p, mut velocity) = (param.clone(), m.clone());
            sgd.step(step, scale, &mut p, &grad, momentum.then_some(&mut velocity[..])).unwrap();
            assert_close("SGD", &p, &want_sgd, 1e-6);
            if momentum {
                assert_close("velocity", &velocity, &want_velocity, 1e-6);
            }
            let squares = sum_of_squares(&grad);
            assert!((squares - want_squares).abs() <= 1e-6 * want_squares);
            let mut y = param.clone();
            add_scaled(-0.5, &grad, &mut y).unwrap();
            scale_in_place(3.0, &mut y);
            let want: Vec<f64> = param.iter().zip(&grad).map(|(&p, &g)| 3.0 * (f(p) - 0.5 * f(g))).collect();
            assert_close("combination", &y, &want, 1e-6);
        });
    }
}

#[test]
fn dropout_drops_its_share_independently() {
    let len = 1 << 20;
    let [mut a, mut b] = [poisoned(len), poisoned(len)];
    for p in [0.1f32, 0.5, 0.8] {
        dropout_mask(1, p, &mut a).unwrap();
        dropout_mask(2, p, &mut b).unwrap();
        let share = |hit: &dyn Fn(usize) -> bool| {
            (0..len - 1).filter(|&i| hit(i)).count() as f64 / len as f64
        };
        let expected = f(p) * f(p);
        // Five standard deviations.
        let tolerance = 5.0 * (0.25 / len as f64).sqrt();
        assert!((share(&|i| a[i] == 0.0) - f(p)).abs() < tolerance);
        assert!((share(&|i| a[i] == 0.0 && a[i + 1] == 0.0) - expected).abs() < tolerance);
        assert!((share(&|i| a[i] == 0.0 && b[i] == 0.0) - expected).abs() < tolerance);
    }
    assert!(dropout_mask(0, 1.0, &mut a).is_err());
    assert!(dropout_mask(0, f32::NAN, &mut a).is_err());
}

#[test]
fn wrong_lengths_are_refused() {
    let mut y = [0.0; 3];
    assert!(
        activation_forward(crate::Activation::Relu, InOut::Separate(&[0.0; 2], &mut y)).is_err()
    );
    assert!(add_scaled(1.0, &[0.0; 2], &mut y).is_err());
    let sgd = Sgd {
        momentum: 0.9,
        ..Sgd::default()
    };
    assert!(sgd.step(1, 1.0, &mut y, &[0.0; 3], None).is_err());
    let shape = Scaling {
        samples: 1,
        pixels: 1,
        channels: 3,
    };
    assert!(
        shape
            .forward(InOut::InPlace(&mut y), Factor::Samples(&[1.0, 2.0]), None)
            .is_err()
    );
}
