//! Every operation that graphs know: captured and run plainly it gives what Burn's CPU backend
//! gives.

use burn::tensor::activation::{
    hard_sigmoid, leaky_relu, log_sigmoid, log_softmax, mish, prelu, softmax,
};
use burn::tensor::module::{
    adaptive_avg_pool2d, attention, avg_pool2d, conv_transpose2d, conv2d, interpolate, max_pool2d,
};
use burn::tensor::ops::{
    AttentionModuleOptions, AvgPoolOptions, ConvOptions, ConvTransposeOptions, InterpolateMode,
    InterpolateOptions, MaxPoolOptions, PadMode,
};
use burn::tensor::{Device, Int, Tensor, TensorData, activation, s};
use lenslet_graph::{Graph, GraphError, Op, reference};
use lenslet_nn::{Sequential, to_nchw, to_nhwc};

/// What sums of at most a few hundred products lose in 32 bits: 500 * 2^-24, about 3e-5, and in
/// practice far less, since roundings cancel.
const TOLERANCE: f64 = 1e-5;
const SHAPE: [usize; 4] = [2, 4, 7, 9];

fn numbers(name: &str, shape: &[usize]) -> TensorData {
    let values = lenslet_reference::input(name, shape.iter().product());
    TensorData::new(values, shape.to_vec())
}

/// The largest difference, relative to the largest expected number.
fn relative(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let expected: Vec<f64> = expected.iter().map(|&v| f64::from(v)).collect();
    lenslet_reference::relative_error(found, &expected)
}

/// A constant on the device of `x`.
fn constant<const D: usize>(name: &str, shape: [usize; D], x: &Tensor<4>) -> Tensor<D> {
    Tensor::from_data(numbers(name, &shape), &x.device())
}

fn capture<const D: usize>(forward: impl Fn(Tensor<4>) -> Tensor<D>) -> Graph {
    Graph::capture(&Sequential::new(), SHAPE, |_, x| forward(x)).unwrap()
}

/// Captures and runs a function, compares with the backend, and gives the graph.
fn check<const D: usize>(forward: impl Fn(Tensor<4>) -> Tensor<D>) -> Graph {
    let graph = capture(&forward);
    let x = numbers("x", &SHAPE);
    let found = reference::run(&graph, &[x.as_slice().unwrap()]).unwrap();
    let expected = forward(Tensor::from_data(x, &Device::flex()));
    assert_eq!(graph.value(graph.outputs()[0]).shape, expected.dims());
    let expected: Vec<f32> = expected.into_data().try_to_vec().unwrap();
    let error = relative(&found[0], &expected);
    assert!(error <= TOLERANCE, "{error:.1e}\n{graph}");
    graph
}

fn names(graph: &Graph) -> Vec<&str> {
    graph.nodes().iter().map(|node| node.op.name()).collect()
}

#[test]
fn convolutions() {
    for (stride, padding, dilation, groups) in [
        ([1, 1], [(0, 0), (0, 0)], [1, 1], 1),
        ([2, 1], [(1, 2), (0, 1)], [1, 2], 2),
        ([3, 2], [(2, 0), (3, 3)], [2, 1], 4),
    ] {
        check(|x| {
            let weight = constant("weight", [8, 4 / groups, 3, 2], &x);
            let bias = constant("bias", [8], &x);
            let options = ConvOptions::new_with_padding(stride, padding, dilation, groups);
            conv2d(x, weight, Some(bias), options)
        });
    }
    for (stride, padding, output_padding, dilation, groups) in [
        ([2, 2], [0, 0], [0, 0], [1, 1], 1),
        ([2, 3], [1, 0], [1, 2], [1, 2], 2),
    ] {
        check(|x| {
            let weight = constant("weight", [4, 3, 3, 2], &x);
            let bias = constant("bias", [3 * groups], &x);
            let options =
                ConvTransposeOptions::new(stride, padding, output_padding, dilation, groups);
            conv_transpose2d(x, weight, Some(bias), options)
        });
    }
}

#[test]
fn pooling() {
    for ceil_mode in [false, true] {
        check(|x| {
            let options = MaxPoolOptions::new([3, 2])
                .with_stride([2, 2])
                .with_padding([1, 1])
                .with_dilation([1, 2])
                .with_ceil_mode(ceil_mode);
            max_pool2d(x, options)
        });
        for count_include_pad in [false, true] {
            check(|x| {
                let options = AvgPoolOptions {
                    stride: [2, 2],
                    padding: [(1, 1); 2],
                    count_include_pad,
                    ceil_mode,
                    ..AvgPoolOptions::new([3, 3])
                };
                avg_pool2d(x, options)
            });
        }
    }
    check(|x| adaptive_avg_pool2d(x, [3, 4]));
    // Padding that differs by side becomes operations of its own.
    check(|x| {
        let options = AvgPoolOptions {
            padding: [(2, 1), (0, 1)],
            ..AvgPoolOptions::new([3, 3])
        };
        avg_pool2d(x, options)
    });
}

#[test]
fn interpolation() {
    for size in [[7, 9], [14, 5], [3, 20], [1, 1]] {
        check(|x| {
            let options = InterpolateOptions::new(InterpolateMode::Nearest).with_output_size(size);
            interpolate(x, options)
        });
        for mode in [InterpolateMode::Bilinear, InterpolateMode::Bicubic] {
            for align_corners in [false, true] {
                check(|x| {
                    let options = InterpolateOptions::new(mode.clone())
                        .with_output_size(size)
                        .with_align_corners(align_corners);
                    interpolate(x, options)
                });
            }
        }
    }
}

#[test]
fn attention_with_all_its_options() {
    let tokens = |name, x: &Tensor<4>, len| constant(name, [2, 4, len, 6], x);
    check(|x| {
        let queries = x.slice([0..2, 0..4, 0..5, 0..6]);
        let (keys, values) = (tokens("k", &queries, 8), tokens("v", &queries, 8));
        attention(queries, keys, values, None, None, Default::default())
    });
    check(|x| {
        let queries = x.slice([0..2, 0..4, 0..5, 0..6]);
        let (keys, values) = (tokens("k", &queries, 8), tokens("v", &queries, 8));
        let bias = constant("bias", [2, 4, 5, 8], &queries);
        let mask = constant("mask", [2, 4, 5, 8], &queries).greater_elem(0.8);
        let options = AttentionModuleOptions {
            scale: Some(0.7),
            softcap: Some(1.5),
            is_causal: true,
        };
        attention(queries, keys, values, Some(mask), Some(bias), options)
    });
}

#[test]
fn functions_of_one_element() {
    check(activation::relu);
    check(activation::relu6);
    check(activation::gelu);
    check(activation::gelu_approximate);
    check(activation::sigmoid);
    check(activation::silu);
    check(activation::hard_swish);
    check(activation::tanh);
    check(mish);
    check(log_sigmoid);
    check(|x| leaky_relu(x, 0.1));
    check(|x| hard_sigmoid(x, 0.2, 0.4));
    check(|x| {
        let alpha = constant("alpha", [4], &x);
        prelu(x, alpha)
    });
    check(|x| x.clone().exp() + x.clone().abs().sqrt() + x.sign());
    check(|x| (x.clone().abs() + 0.5).log() + x.square().log1p());
    check(|x| (x.clone() * 3.0).round() + (x.clone() * 3.0).floor() + (x * 3.0).ceil());
    check(|x| x.clone().sin() + x.clone().cos() - x.erf());
    check(|x| (x.clone().abs() + 0.3).powf_scalar(0.75) + x.powi_scalar(3));
    check(|x| (-x.clone() - 0.25) / 3.0 + (x.abs() + 1.0).recip());
    check(|x| x.clone().clamp(-0.5, 0.25) + x.clone().clamp_min(0.1) + x.clamp_max(0.2));
}

#[test]
fn functions_of_two_elements() {
    check(|x| {
        let (a, b) = (constant("a", [1, 4, 1, 9], &x), constant("b", SHAPE, &x));
        (x.clone() + a.clone()) * (x.clone() - b.clone()) / (b.abs() + 1.0) * a
    });
    check(|x| {
        let power = constant("b", SHAPE, &x);
        (x.abs() + 0.5).powf(power)
    });
    check(|x| {
        let y = constant("b", SHAPE, &x);
        let inside = x
            .clone()
            .greater(y.clone())
            .bool_and(x.clone().lower_elem(0.5));
        let equal = x.clone().equal(y.clone()).bool_not();
        let either = inside.bool_or(equal.bool_not());
        x.clone().mask_where(either.clone(), y) + x.mask_fill(either.clone(), 2.0) + either.float()
    });
    check(|x| {
        let y = constant("b", SHAPE, &x);
        let parts = [
            x.clone().greater_equal(y.clone()),
            x.clone().lower_equal(y.clone()),
            x.clone().lower(y.clone()),
            x.clone().not_equal(y),
            x.clone().greater_equal_elem(0.1),
            x.lower_equal_elem(0.1),
        ];
        let sums = parts.into_iter().map(|part| part.float());
        sums.reduce(|a, b| a * 2.0 + b).unwrap()
    });
    check(|x| (x * 5.0).int().float());
}

#[test]
fn products_and_norms() {
    check(|x| {
        let matrix = constant("matrix", [1, 1, 9, 5], &x);
        x.matmul(matrix)
    });
    check(|x| x.clone().matmul(x.swap_dims(2, 3)));
    check(|x| softmax(x, 1));
    check(|x| log_softmax(x, 3));
    check(|x| {
        let [weight, bias] = ["weight", "bias"].map(|name| constant(name, [9], &x));
        burn::tensor::module::layer_norm(x, weight, Some(bias), 1e-3)
    });
    check(|x| {
        let [weight, bias, mean] = ["weight", "bias", "mean"].map(|name| constant(name, [4], &x));
        let variance = constant("variance", [4], &x).abs() + 0.1;
        burn::tensor::module::batch_norm(x, weight, bias, mean, variance, 1e-3)
    });
}

#[test]
fn reductions() {
    check(|x| x.clone().sum_dim(1) + x.clone().mean_dim(1) - x.max_dim(1));
    check(|x| x.clone().min_dim(3) * x.prod_dim(3));
    check(|x| x.mean_dim(2).mean_dim(3));
    check(|x| x.max_dim_with_indices(2).0);
}

#[test]
fn shapes() {
    check(|x| x.reshape([8, 63]));
    check(|x| x.permute([3, 0, 2, 1]));
    check(|x| x.swap_dims(1, 3).reshape([2, 9, 28]));
    check(|x| x.slice(s![1.., .., 1..6;2, ..;-3]));
    check(|x| Tensor::cat(vec![x.clone(), x.clone().slice([0..2, 1..3]), x], 1));
    check(|x| x.slice([0..2, 0..1]).expand([2, 5, 7, 9]));
    check(|x| x.flip([1, 3]));
    check(|x| x.repeat_dim(2, 3));
    check(|x| x.roll(&[3, -2], &[2, 3]));
    for mode in [PadMode::Constant(0.5), PadMode::Reflect, PadMode::Edge] {
        check(|x| x.pad([(1, 2), (3, 0)], mode));
    }
    check(|x| {
        let indices = Tensor::<1, Int>::from_data([3, 0, 0, 2, 1], &x.device());
        x.select(1, indices)
    });
    check(|x| {
        let indices = x.clone().abs().greater_elem(0.5).int();
        x.gather(1, indices)
    });
}

#[test]
fn layouts_that_cancel_are_not_written() {
    let graph = check(|x| {
        let y = to_nhwc(x);
        let gate = y.clone().mean_dim(1).mean_dim(2);
        let scale = constant("scale", [1, 1, 1, 4], &to_nchw(y.clone()));
        let y = Tensor::cat(vec![y.clone() * gate, activation::relu(y) * scale], 3);
        let y = softmax(y, 3)
            .flip([1])
            .pad([(0, 0), (1, 0), (0, 2), (0, 1)], PadMode::Edge);
        let y = y.slice(s![.., 1.., ..;2, 1..8]).repeat_dim(3, 2);
        to_nchw(y)
    });
    let moving = graph.fixed();
    for node in graph.nodes() {
        let is_fixed = moving[node.output.index()];
        assert!(is_fixed || !matches!(node.op, Op::Permute(_)), "{graph}");
    }
}

#[test]
fn layouts_that_differ_are_written_once() {
    let graph = check(|x| {
        let y = to_nhwc(x.clone()).reshape([2, 63, 4]);
        let z = activation::relu(to_nhwc(x)).reshape([2, 63, 4]);
        Tensor::cat(vec![y, z], 0)
    });
    let expected = ["permute", "reshape", "relu", "permute", "reshape", "concat"];
    assert_eq!(names(&graph), expected);
}

#[test]
fn shapes_that_change_back_are_not_written() {
    let graph = check(|x| {
        let rows = x.reshape([8, 63]);
        let y = activation::silu(rows.clone()).reshape([2, 4, 7, 9]);
        y + activation::relu(rows.reshape([4, 126])).reshape(SHAPE)
    });
    assert_eq!(names(&graph), ["sigmoid", "mul", "relu", "add"]);
    // A dimension of length 1 may stand anywhere.
    let graph = check(|x| to_nhwc(x.mean_dim(2).mean_dim(3)).reshape([2, 4]));
    assert_eq!(names(&graph), ["mean", "mean", "reshape"]);
}

#[test]
fn what_changes_nothing_is_left_out() {
    let graph = check(|x| x.slice([0..2, 0..4]).expand(SHAPE).permute([0, 1, 2, 3]) + 1.0);
    assert_eq!(names(&graph), ["add"]);
    let graph = check(|x| x);
    assert!(graph.nodes().is_empty());
}

#[test]
fn what_does_not_reach_the_output_is_left_out() {
    let graph = check(|x| {
        let unused = constant("unused", [3], &x).exp();
        assert_eq!(unused.dims(), [3]);
        x.exp()
    });
    assert_eq!(names(&graph), ["exp"]);
    assert_eq!(graph.values().len(), 2);
}

#[test]
fn several_outputs() {
    let graph = Graph::capture(&Sequential::new(), SHAPE, |_, x: Tensor<4>| {
        let y = x.clone().mean_dim(3);
        vec![y.clone(), x.exp(), y]
    });
    let graph = graph.unwrap();
    let x = numbers("x", &SHAPE);
    let found = reference::run(&graph, &[x.as_slice().unwrap()]).unwrap();
    assert_eq!(found.len(), 3);
    assert_eq!(found[0], found[2]);
    assert_eq!(found[1].len(), x.as_slice::<f32>().unwrap().len());
}

#[test]
fn constants_are_computed() {
    let graph = capture(|x| {
        let (c, d) = (constant("c", [1, 4], &x), constant("d", [4, 9], &x));
        x + c.matmul(d).reshape([1, 1, 1, 9])
    });
    let add = graph.producer(graph.outputs()[0]).unwrap();
    let [x, c] = [add.inputs[0], add.inputs[1]];
    let [a, b] = [numbers("c", &[4]), numbers("d", &[4, 9])];
    let (a, b) = (a.as_slice::<f32>().unwrap(), b.as_slice::<f32>().unwrap());
    let expected: Vec<f32> = (0..9)
        .map(|j| (0..4).map(|i| a[i] * b[i * 9 + j]).sum())
        .collect();
    let found = reference::constant(&graph, c).unwrap();
    assert!(relative(&found, &expected) <= TOLERANCE);
    let refused = reference::constant(&graph, x).unwrap_err();
    assert!(matches!(refused, GraphError::NotConstant(_)), "{refused}");
}

#[test]
fn what_cannot_be_is_said() {
    let empty = Sequential::new();
    let capture = |forward: fn(Tensor<4>) -> Tensor<4>| {
        Graph::capture(&empty, SHAPE, |_, x| forward(x))
            .unwrap_err()
            .to_string()
    };
    let unknown = capture(|x| x.cumsum(1));
    assert!(unknown.contains("NumericFloat CumSum"), "{unknown}");
    let reading = capture(|x| x.clone() * x.sum().into_scalar::<f32>());
    assert!(reading.contains("[2, 4, 7, 9]"), "{reading}");
    let elsewhere = capture(|_| Tensor::zeros([1, 1, 1, 1], &Device::flex()));
    assert!(elsewhere.contains("output 0"), "{elsewhere}");
    let indices = capture(|x| {
        let indices = x.clone().max_dim_with_indices(1).1;
        indices.float() + x
    });
    assert!(indices.contains("does not hold"), "{indices}");

    let graph = check(|x| x.exp());
    let refused = reference::run(&graph, &[&[0.0; 3]]).unwrap_err();
    assert!(refused.to_string().contains("[2, 4, 7, 9]"), "{refused}");
    let outside = self::capture(|x| {
        let indices = Tensor::<1, Int>::from_data([0, 4], &x.device());
        x.select(1, indices)
    });
    let x = numbers("x", &SHAPE);
    let refused = reference::run(&outside, &[x.as_slice().unwrap()]).unwrap_err();
    assert!(refused.to_string().contains("index 4"), "{refused}");
}
