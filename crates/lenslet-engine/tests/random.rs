//! Random small networks, written with Burn's own functions: compiled they give what Burn gives.

use burn::tensor::activation::{gelu, gelu_approximate, leaky_relu, relu, sigmoid, silu, softmax};
use burn::tensor::module::{
    adaptive_avg_pool2d, avg_pool2d, conv_transpose2d, conv2d, interpolate, max_pool2d,
};
use burn::tensor::ops::{
    AvgPoolOptions, ConvOptions, ConvTransposeOptions, InterpolateMode, InterpolateOptions,
    MaxPoolOptions,
};
use burn::tensor::{Device, Tensor, TensorData};
use lenslet_engine::{Engine, Options, StepInfo};
use lenslet_nn::{Sequential, to_nchw, to_nhwc};
use proptest::prelude::*;

/// Of the largest number: what Winograd's transforms and sums of a few hundred products lose in a chain of some ten layers.
const TOLERANCE: f32 = 5e-5;
/// Outputs of less are what is left of sums of numbers around 1, as the average of a normalised map, which is 0 but for rounding.
const CANCELLED: f32 = 1e-2;

/// A layer: what it does, two choices of how, and which earlier map it reads beside the last.
type Layer = (usize, usize, usize, usize);

/// How many kinds of layers there are.
const KINDS: usize = 19;

/// Numbers of a network: the same for the same place in it.
struct Weights {
    device: Device,
    place: usize,
}

impl Weights {
    fn next<const D: usize>(&mut self, shape: [usize; D], size: f32) -> Tensor<D> {
        self.place += 1;
        let len = shape.iter().product();
        let values = lenslet_reference::input(&format!("weight {}", self.place), len);
        let values = values.into_iter().map(|v| v * size).collect::<Vec<_>>();
        Tensor::from_data(TensorData::new(values, shape), &self.device)
    }

    fn conv(
        &mut self,
        x: Tensor<4>,
        out: usize,
        kernel: usize,
        stride: usize,
        groups: usize,
    ) -> Tensor<4> {
        let fan_in = x.dims()[1] / groups;
        let size = 1.0 / ((fan_in * kernel * kernel) as f32).sqrt();
        let weight = self.next([out, fan_in, kernel, kernel], size);
        let bias = self.next([out], 0.1);
        let options = ConvOptions::new([stride; 2], [kernel / 2; 2], [1, 1], groups);
        conv2d(x, weight, Some(bias), options)
    }
}

fn network(layers: &[Layer], x: Tensor<4>) -> Tensor<2> {
    let mut weights = Weights {
        device: x.device(),
        place: 0,
    };
    let mut maps = vec![x];
    for &(kind, a, b, other) in layers {
        let x = maps[maps.len() - 1].clone();
        let [n, c, h, w] = x.dims();
        // The first of the earlier maps that fits, from a place of its own choice on.
        let earlier = |fits: &dyn Fn([usize; 4]) -> bool| {
            let from = other % maps.len();
            (maps.iter().cycle().skip(from).take(maps.len()))
                .find(|map| fits(map.dims()))
                .cloned()
        };
        let made = &mut weights;
        let y = match kind {
            0 => made.conv(x, 1 + a * 7 % 19, 1, 1 + b % 2, 1),
            1 => made.conv(x, 1 + a * 5 % 17, 3, 1 + b % 2, 1),
            2 => made.conv(x, c, 3 + 2 * (a % 2), 1 + b % 2, c),
            3 => made.conv(x, 2 * c, 3, 1, if c.is_multiple_of(2) { 2 } else { 1 }),
            4 => {
                let (factor, summand) =
                    (made.next([1, c, 1, 1], 1.0), made.next([1, c, 1, 1], 0.5));
                x * factor + summand
            }
            5 => match a % 7 {
                0 => relu(x),
                1 => sigmoid(x),
                2 => silu(x),
                3 => gelu(x),
                4 => leaky_relu(x, 0.1),
                5 => gelu_approximate(x),
                _ => x.clamp(0.0, 6.0),
            },
            6 => x.clone() * sigmoid(x),
            7 => match earlier(&|dims| dims == [n, c, h, w]) {
                Some(earlier) => x + earlier,
                None => x,
            },
            8 => match earlier(&|dims| dims[2..] == [h, w]) {
                Some(earlier) if c < 40 => Tensor::cat(vec![earlier, x], 1),
                _ => x,
            },
            9 if h > 2 && w > 2 => max_pool2d(
                x,
                MaxPoolOptions::new([2 + a % 2; 2]).with_stride([1 + b % 2; 2]),
            ),
            10 if h > 2 && w > 2 => {
                avg_pool2d(x, AvgPoolOptions::new([2; 2]).with_stride([1 + b % 2; 2]))
            }
            11 => {
                let pooled = adaptive_avg_pool2d(x.clone(), [1, 1]);
                let gate = sigmoid(made.conv(pooled, c, 1, 1, 1));
                made.conv(x * gate, 1 + a % 9, 1, 1, 1)
            }
            12 if h < 12 && w < 12 => {
                let mode = match a % 2 {
                    0 => InterpolateMode::Nearest,
                    _ => InterpolateMode::Bilinear,
                };
                let size = [h + b % 3, 2 * w];
                interpolate(
                    x,
                    InterpolateOptions::new(mode)
                        .with_output_size(size)
                        .with_align_corners(false),
                )
            }
            13 => x.narrow(1, a % c, 1 + b % (c - a % c)),
            14 => x.swap_dims(2, 3),
            15 if h < 12 && w < 12 => {
                let weight = made.next([c, 1 + a % 5, 2, 2], 0.5);
                conv_transpose2d(
                    x,
                    weight,
                    None,
                    ConvTransposeOptions::new([2, 2], [0, 0], [0, 0], [1, 1], 1),
                )
            }
            16 => {
                // Pixels attend to one another, in pieces.
                let tokens = x.reshape([n, c, h * w]).swap_dims(1, 2);
                let mut part = || {
                    let weight = made.next([1, c, 8], 1.0 / (c as f32).sqrt());
                    let y: Tensor<3> = tokens.clone().matmul(weight);
                    y.reshape([n, h * w, 2, 4]).swap_dims(1, 2)
                };
                let [q, k, v] = [part(), part(), part()];
                let mut scores = q.matmul(k.transpose()).div_scalar(2.0);
                if a % 2 == 0 {
                    scores = scores + made.next([1, 2, h * w, h * w], 1.0);
                }
                let y = softmax(scores, 3).matmul(v);
                y.swap_dims(1, 2)
                    .reshape([n, h * w, 8])
                    .swap_dims(1, 2)
                    .reshape([n, 8, h, w])
            }
            17 => {
                // A group norm in pieces.
                let groups = if c.is_multiple_of(2) { 1 + a % 2 } else { 1 };
                let tokens = to_nhwc(x).reshape([n, h * w, groups, c / groups]);
                let centred = tokens.clone() - tokens.mean_dim(1).mean_dim(3);
                let variance = centred.clone().square().mean_dim(1).mean_dim(3);
                let y = to_nchw((centred / (variance + 1e-2).sqrt()).reshape([n, h, w, c]));
                y * made.next([1, c, 1, 1], 1.0) + made.next([1, c, 1, 1], 0.5)
            }
            18 => match a % 6 {
                0 => x.clone() / (x.square().sum_dim(1) + 1.0).sqrt(),
                1 => (x.clone() - x.max_dim(3)).exp(),
                2 => x.clone().abs().log1p() - x.min_dim(2).tanh(),
                3 => (x.clone().mean_dim(1) + x).powf_scalar(2.0) * 0.25,
                // What a comparison decides near its border is near 0.
                4 => {
                    let mean = x.clone().mean_dim(1);
                    (x.clone() - mean.clone()) * x.greater(mean).float()
                }
                _ => (x.clone() - 0.1) * x.clone().lower_elem(0.1).float() - x.sin(),
            },
            _ => relu(x),
        };
        maps.push(y);
    }
    let last = maps.swap_remove(maps.len() - 1);
    let [n, c, _, _] = last.dims();
    let weight = weights.next([c, 3], 1.0);
    adaptive_avg_pool2d(last.clone(), [1, 1])
        .reshape([n, c])
        .matmul(weight)
        + last.max_dim(3).max_dim(2).mean_dim(1).reshape([n, 1])
}

/// Compares what is compiled with what Burn computes; the steps.
fn check(layers: &[Layer], shape: [usize; 4], options: &Options) -> Vec<StepInfo> {
    let x = lenslet_reference::input("x", shape.iter().product());
    let device = Device::flex();
    let expected = network(
        layers,
        Tensor::from_data(TensorData::new(x.clone(), shape), &device),
    );
    let expected: Vec<f32> = expected.into_data().try_to_vec().expect("numbers");
    let session = Engine::compile(&Sequential::new(), shape, options, |_, x| {
        network(layers, x)
    })
    .expect("every layer compiles");
    let found = session.run(&x).expect("it runs");
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(CANCELLED, |m, v| m.max(v.abs()));
    for (a, b) in found.iter().zip(&expected) {
        let fits = (a - b).abs() <= TOLERANCE * largest;
        assert!(fits, "{a} is not {b}: {layers:?} on {shape:?}");
    }
    // What is not a whole batch is computed as well.
    let one = session.run(&x[..x.len() / shape[0]]).expect("one picture");
    for (a, b) in one.iter().zip(&expected) {
        assert!(
            (a - b).abs() <= TOLERANCE * largest,
            "{a} is not {b}, alone"
        );
    }
    session.steps()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn compiled_is_what_burn_computes(
        layers in prop::collection::vec((0..KINDS, 0usize..20, 0usize..20, 0usize..20), 1..10),
        n in 1usize..3, c in 1usize..9, h in 4usize..14, w in 4usize..14, exact: bool, plain: bool, strips: bool,
    ) {
        let mut options = Options { exact, ..Options::default() };
        if strips {
            options.strips_from = 0;
        }
        if plain {
            for pass in ["fold-norms", "fuse-residuals", "concat-in-place"] {
                prop_assert!(options.leave_out(pass));
            }
        }
        check(&layers, [n, c, h, w], &options);
    }
}

#[test]
fn every_kind_of_layer_is_tried_with_every_other() {
    for first in 0..KINDS {
        for second in 0..KINDS {
            let layers = [(first, 0, 1, 0), (second, 1, 0, 1), (5, 0, 0, 0)];
            let steps = check(&layers, [2, 6, 8, 9], &Options::default());
            let plain = steps.iter().find(|step| step.kernel == "reference");
            assert!(plain.is_none(), "{plain:?} has no kernel: {layers:?}");
        }
    }
}

#[test]
fn strips_join_a_depthwise_convolution_with_its_neighbours() {
    let kernels = |layers: &[Layer], strips_from| {
        let options = Options {
            strips_from,
            ..Options::default()
        };
        let steps = check(layers, [2, 6, 8, 9], &options);
        (
            steps.iter().filter(|step| step.kernel == "strips").count(),
            steps.len(),
        )
    };
    let (point, depth, sum) = ((0, 2, 0, 0), (2, 0, 1, 0), (7, 0, 0, 0));
    let all = [point, depth, point];
    let (none, apart) = kernels(&all, usize::MAX);
    assert_eq!(none, 0);
    assert_eq!(kernels(&all, 0), (1, apart - 2));
    assert_eq!(kernels(&[point, depth, depth, point], 0).0, 2);
    assert_eq!(kernels(&[depth, depth], 0).0, 0);
    // Each map of these is read twice, by the sum too.
    assert_eq!(kernels(&[point, (2, 0, 0, 0), sum, point], 0).0, 0);
}

#[test]
fn panels_of_small_maps_join_a_depthwise_convolution_with_the_one_before() {
    let all = [(0, 2, 0, 0), (2, 0, 1, 0), (0, 2, 0, 0)];
    let count = |options: &Options| {
        let steps = check(&all, [2, 6, 7, 8], options);
        let strips = steps.iter().filter(|step| step.kernel == "strips");
        (strips.count(), steps.len())
    };
    let apart = Options {
        strips_from: usize::MAX,
        ..Options::default()
    };
    let (none, steps) = count(&apart);
    assert_eq!(none, 0);
    assert_eq!(count(&Options::default()), (1, steps - 1));
}

#[test]
fn pieces_are_recognised() {
    let kernels = |layers: &[Layer]| {
        let steps = check(layers, [2, 6, 8, 9], &Options::default());
        let kernels: Vec<&str> = steps.iter().map(|step| step.kernel).collect();
        kernels
    };
    for bias in [0, 1] {
        let kernels = kernels(&[(16, bias, 0, 0)]);
        assert!(kernels.contains(&"attention"), "{kernels:?}");
        assert!(!kernels.contains(&"softmax"), "{kernels:?}");
    }
    // GELU's tanh form behind a convolution, and by itself.
    let behind = kernels(&[(0, 3, 0, 0), (5, 5, 0, 0)]);
    let alone = kernels(&[(9, 0, 0, 0), (5, 5, 0, 0)]);
    let plain = kernels(&[(9, 0, 0, 0)]);
    assert_eq!(behind, kernels(&[(0, 3, 0, 0)]));
    assert_eq!(alone.len(), plain.len() + 1, "{alone:?}");
}
