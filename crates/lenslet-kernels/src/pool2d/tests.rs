use super::*;
use crate::testing::{assert_close, poisoned, random, with_each_isa};
use proptest::prelude::*;

/// For each output element: the (input element, tap) pairs of its window.
type Windows = Vec<Vec<(usize, usize)>>;

fn windows(input: [usize; 4], axes: &[Axis; 2]) -> Windows {
    let [n, h, w, c] = input;
    let mut all = Vec::new();
    let inside = |axis: &Axis, o: usize, k: usize| {
        let at = (o * axis.stride + k * axis.dilation) as isize - axis.padding[0] as isize;
        usize::try_from(at).ok().filter(|&at| at < axis.input)
    };
    for image in 0..n {
        for oy in 0..axes[0].output {
            for ox in 0..axes[1].output {
                for channel in 0..c {
                    let mut window = Vec::new();
                    for ky in 0..axes[0].kernel {
                        for kx in 0..axes[1].kernel {
                            if let (Some(y), Some(x)) =
                                (inside(&axes[0], oy, ky), inside(&axes[1], ox, kx))
                            {
                                window.push((
                                    ((image * h + y) * w + x) * c + channel,
                                    ky * axes[1].kernel + kx,
                                ));
                            }
                        }
                    }
                    all.push(window);
                }
            }
        }
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn pooling_matches_the_reference(
        n in 1usize..4, size in [1usize..14, 1usize..14], c in 1usize..70,
        kernel in [1usize..5, 1usize..5], stride in [1usize..4, 1usize..4], padding in [0usize..3, 0usize..3, 0usize..3, 0usize..3],
        dilation in [1usize..3, 1usize..3], ceil_mode: bool, count_include_pad: bool, seed: u64,
    ) {
        let windows_of = Pool2d { input: [n, size[0], size[1], c], kernel, stride, padding, ceil_mode };
        let max = MaxPool2d { windows: windows_of, dilation };
        if let Ok(axes) = max.axes() {
            check_max(&max, &axes, seed);
        }
        let average = AveragePool2d { windows: windows_of, count_include_pad };
        if let Ok(axes) = windows_of.axes([1, 1]) {
            check_average(&average, &axes, seed);
        }
    }

    #[test]
    fn adaptive_pooling_matches_the_reference(
        n in 1usize..4, size in [1usize..14, 1usize..14], c in 1usize..150, output in [1usize..9, 1usize..9], seed: u64,
    ) {
        let input = [n, size[0], size[1], c];
        for output in [output, [1, 1]] {
            let pool = AdaptiveAveragePool2d { input, output };
            let x = random(n * size[0] * size[1] * c, seed);
            let dy = random(n * output[0] * output[1] * c, seed ^ 1);
            let (mut want, mut want_dx) = (Vec::new(), vec![0.0; x.len()]);
            for image in 0..n {
                for oy in 0..output[0] {
                    for ox in 0..output[1] {
                        let ys = oy * size[0] / output[0]..((oy + 1) * size[0]).div_ceil(output[0]);
                        let xs = ox * size[1] / output[1]..((ox + 1) * size[1]).div_ceil(output[1]);
                        let count = (ys.len() * xs.len()) as f64;
                        for channel in 0..c {
                            let mut sum = 0.0;
                            let d = f64::from(dy[want.len()]) / count;
                            for y in ys.clone() {
                                for at in xs.clone() {
                                    let i = ((image * size[0] + y) * size[1] + at) * c + channel;
                                    sum += f64::from(x[i]);
                                    want_dx[i] += d;
                                }
                            }
                            want.push(sum / count);
                        }
                    }
                }
            }
            with_each_isa(|_| {
                let (mut y, mut dx) = (poisoned(want.len()), poisoned(x.len()));
                pool.forward(&x, &mut y).unwrap();
                assert_close("adaptive average", &y, &want, 1e-5);
                pool.backward(&dy, &mut dx).unwrap();
                assert_close("its gradient", &dx, &want_dx, 1e-5);
            });
        }
    }
}

fn check_max(pool: &MaxPool2d, axes: &[Axis; 2], seed: u64) {
    let input = pool.windows.input;
    let mut x = random(volume(input, [input[1], input[2]]), seed);
    // Few different values, so that there are ties.
    x.iter_mut().for_each(|x| *x = (*x * 4.0).round() / 4.0);
    let windows = windows(input, axes);
    let dy = random(windows.len(), seed ^ 1);
    let (mut want, mut want_taps, mut want_dx) = (Vec::new(), Vec::new(), vec![0.0; x.len()]);
    for (window, &dy) in windows.iter().zip(&dy) {
        let mut best = window[0];
        for &tap in window {
            if x[tap.0] > x[best.0] {
                best = tap;
            }
        }
        want.push(f64::from(x[best.0]));
        want_taps.push(best.1 as u16);
        want_dx[best.0] += f64::from(dy);
    }
    with_each_isa(|_| {
        let (mut y, mut taps, mut dx) = (
            poisoned(want.len()),
            vec![u16::MAX; want.len()],
            poisoned(x.len()),
        );
        pool.forward(&x, &mut y, Some(&mut taps)).unwrap();
        assert_close("maximum", &y, &want, 0.0);
        assert_eq!(taps, want_taps);
        let mut again = poisoned(want.len());
        pool.forward(&x, &mut again, None).unwrap();
        assert_eq!(again, y);
        pool.backward(&dy, &taps, &mut dx).unwrap();
        assert_close("its gradient", &dx, &want_dx, 1e-5);
    });
}

fn check_average(pool: &AveragePool2d, axes: &[Axis; 2], seed: u64) {
    let input = pool.windows.input;
    let x = random(volume(input, [input[1], input[2]]), seed);
    let windows = windows(input, axes);
    let dy = random(windows.len(), seed ^ 1);
    let (mut want, mut want_dx) = (Vec::new(), vec![0.0; x.len()]);
    for (i, window) in windows.iter().enumerate() {
        let pixel = i / input[3];
        let (ox, oy) = (
            pixel % axes[1].output,
            pixel / axes[1].output % axes[0].output,
        );
        let extent = |axis: &Axis, o: usize| {
            let end = axis.input + axis.padding[0] + axis.padding[1];
            (o * axis.stride + axis.kernel).min(end) - o * axis.stride
        };
        let count = if pool.count_include_pad {
            extent(&axes[0], oy) * extent(&axes[1], ox)
        } else {
            window.len()
        };
        want.push(window.iter().map(|&(at, _)| f64::from(x[at])).sum::<f64>() / count as f64);
        for &(at, _) in window {
            want_dx[at] += f64::from(dy[i]) / count as f64;
        }
    }
    with_each_isa(|_| {
        let (mut y, mut dx) = (poisoned(want.len()), poisoned(x.len()));
        pool.forward(&x, &mut y).unwrap();
        assert_close("average", &y, &want, 1e-5);
        pool.backward(&dy, &mut dx).unwrap();
        assert_close("its gradient", &dx, &want_dx, 1e-5);
    });
}

#[test]
fn sizes_are_those_of_pytorch() {
    let size = |pool: Pool2d| MaxPool2d::new(pool).output_size();
    assert_eq!(
        size(Pool2d::new([1, 112, 112, 64], 3, 2).padding(1)),
        Ok([56, 56])
    );
    assert_eq!(
        size(Pool2d::new([1, 112, 112, 64], 3, 2).ceil_mode(true)),
        Ok([56, 56])
    );
    assert_eq!(size(Pool2d::new([1, 55, 55, 64], 3, 2)), Ok([27, 27]));
    // The last window would start in the padding behind the input.
    assert!(size(Pool2d::new([1, 2, 2, 1], 1, 2).padding(1).ceil_mode(true)).is_err());
    assert_eq!(
        size(Pool2d::new([1, 4, 4, 1], 2, 2).padding(1).ceil_mode(true)),
        Ok([3, 3])
    );
}

#[test]
fn impossible_windows_are_refused() {
    for pool in [
        Pool2d::new([1, 0, 4, 1], 1, 1),
        Pool2d::new([1, 4, 4, 1], 0, 1),
        Pool2d::new([1, 4, 4, 1], 2, 0),
        Pool2d::new([1, 4, 4, 1], 5, 1),
        Pool2d::new([1, 4, 4, 1], 2, 1).padding(2),
    ] {
        assert!(MaxPool2d::new(pool).output_size().is_err(), "{pool:?}");
        let average = AveragePool2d {
            windows: pool,
            count_include_pad: true,
        };
        assert!(average.output_size().is_err(), "{pool:?}");
    }
    let empty = AdaptiveAveragePool2d {
        input: [1, 0, 3, 1],
        output: [1, 1],
    };
    assert!(empty.forward(&[], &mut [0.0]).is_err());
}

#[test]
fn nan_wins() {
    let pool = MaxPool2d::new(Pool2d::new([1, 1, 3, 1], 1, 1).padding(0));
    let pool = MaxPool2d {
        windows: Pool2d {
            kernel: [1, 3],
            ..pool.windows
        },
        ..pool
    };
    with_each_isa(|isa| {
        for place in 0..3 {
            let mut x = [1.0, 2.0, 3.0];
            x[place] = f32::NAN;
            let mut y = [0.0];
            pool.forward(&x, &mut y, None).unwrap();
            assert!(y[0].is_nan(), "{isa}, place {place}");
        }
    });
}
