//! Every layer both ways: the CPU's kernels against the composition of Burn's own operations, which a device with gradient
//! checkpointing takes. Outputs, the input's gradient and every parameter's.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Gradients, Tensor, TensorData};
use lenslet_nn::{
    Activation, AdaptiveAvgPool2d, AvgPool2d, BatchNorm2dConfig, Conv2dConfig,
    ConvTranspose2dConfig, GroupNorm, Init, Interpolation, LayerNormConfig, LinearConfig,
    LocalResponseNorm, MaxPool2d, ModulePath, MultiHeadAttentionConfig, Padding, Sequential,
    SqueezeExcitation, WeightInit, add, channel_shuffle, concat, conv_bn_act, flatten,
    forward_sequential, forward_tokens, resize, scale, to_nchw, to_nhwc,
};

/// Repeatable values in [-1, 1), different for each seed.
fn values(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678_9abc_def1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..len).map(next).collect()
}

fn tensor<const D: usize>(shape: [usize; D], seed: u64, device: &Device) -> Tensor<D> {
    let data = TensorData::new(values(shape.iter().product(), seed), shape);
    Tensor::from_data(data, device)
}

/// Takes a module's gradients by name.
struct Taker<'a> {
    path: ModulePath,
    gradients: &'a Gradients,
    found: BTreeMap<String, Vec<f32>>,
}

impl ModuleVisitor for Taker<'_> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }
    fn exit_module(&mut self, _: &str, container: &str) {
        self.path.exit(container);
    }
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = param.val().grad(self.gradients) {
            let name = self.path.name();
            self.found
                .insert(name, gradient.into_data().try_to_vec().unwrap());
        }
    }
}

type Results = BTreeMap<String, Vec<f32>>;

/// Output and gradients of a sum of the outputs with random weights.
fn results<M: Module, const A: usize, const B: usize>(
    device: &Device,
    shape: [usize; A],
    build: &dyn Fn(&mut Init) -> M,
    forward: &dyn Fn(&M, Tensor<A>) -> Tensor<B>,
) -> Results {
    let module = build(&mut Init::seeded(device, 3));
    let x = tensor(shape, 1, device).require_grad();
    let y = forward(&module, x.clone());
    let weights = tensor(y.dims(), 2, device);
    let gradients = (y.clone() * weights).sum().backward();
    let mut taker = Taker {
        path: ModulePath::default(),
        gradients: &gradients,
        found: BTreeMap::new(),
    };
    module.visit(&mut taker);
    let mut found = taker.found;
    let dx = x.grad(&gradients).expect("the input is tracked");
    found.insert("input".into(), dx.into_data().try_to_vec().unwrap());
    found.insert("output".into(), y.into_data().try_to_vec().unwrap());
    found
}

#[track_caller]
fn check<M: Module, const A: usize, const B: usize>(
    what: &str,
    shape: [usize; A],
    build: impl Fn(&mut Init) -> M,
    forward: impl Fn(&M, Tensor<A>) -> Tensor<B>,
) {
    let kernels = results(&Device::flex().autodiff(), shape, &build, &forward);
    let checkpointing = Device::flex().autodiff().gradient_checkpointing();
    let composed = results(&checkpointing, shape, &build, &forward);
    same(what, &kernels, &composed);
}

#[track_caller]
fn same(what: &str, kernels: &Results, composed: &Results) {
    assert_eq!(
        kernels.keys().collect::<Vec<_>>(),
        composed.keys().collect::<Vec<_>>(),
        "{what}"
    );
    for (name, got) in kernels {
        let want = &composed[name];
        assert_eq!(got.len(), want.len(), "{what}: {name}");
        let largest = want.iter().fold(0f32, |m, x| m.max(x.abs()));
        // Sums of some hundred products, in two orders, and the rounding of what went before.
        let tolerance = 2e-5 * largest + 1e-6;
        for (i, (got, want)) in got.iter().zip(want).enumerate() {
            assert!(
                (got - want).abs() <= tolerance,
                "{what}: {name}[{i}] is {got}, composed {want}"
            );
        }
    }
}

/// Something without parameters.
#[derive(Module, Debug)]
struct Plain {
    #[module(skip)]
    _nothing: (),
}

#[track_caller]
fn check_plain<const A: usize, const B: usize>(
    what: &str,
    shape: [usize; A],
    forward: impl Fn(Tensor<A>) -> Tensor<B>,
) {
    check(what, shape, |_| Plain { _nothing: () }, |_, x| forward(x));
}

#[test]
fn convolutions() {
    let conv = Conv2dConfig::new;
    let cases = [
        ("1x1", conv(24, 40, 1)),
        ("1x1, stride 2", conv(16, 24, 1).with_stride(2)),
        ("3x3", conv(24, 20, 3).with_padding(1)),
        ("3x3 without padding", conv(16, 16, 3)),
        (
            "3x3, stride 2",
            conv(12, 20, 3).with_stride(2).with_padding(1),
        ),
        (
            "3x3, dilation 2",
            conv(16, 16, 3).with_dilation(2).with_padding(2),
        ),
        ("stem", conv(3, 16, 7).with_stride(2).with_padding(3)),
        ("one channel", conv(1, 6, 5)),
        ("groups", conv(24, 48, 3).with_groups(4).with_padding(1)),
        (
            "depthwise 3x3",
            conv(20, 20, 3).with_groups(20).with_padding(1),
        ),
        (
            "depthwise 5x5, stride 2",
            conv(24, 24, 5)
                .with_groups(24)
                .with_stride(2)
                .with_padding(2),
        ),
        (
            "depthwise 7x7",
            conv(16, 16, 7).with_groups(16).with_padding(3),
        ),
        (
            "same padding",
            conv(16, 8, 3)
                .with_stride(2)
                .with_padding_mode(Padding::Same),
        ),
    ];
    for (what, config) in cases {
        for bias in [false, true] {
            let config = config.clone().with_bias(bias);
            let channels = match what {
                "1x1" | "3x3" | "groups" | "depthwise 5x5, stride 2" => 24,
                "3x3, stride 2" => 12,
                "stem" => 3,
                "one channel" => 1,
                "depthwise 3x3" => 20,
                _ => 16,
            };
            check(
                what,
                [2, 12, 13, channels],
                |init| config.init(init),
                |m, x| m.forward(x),
            );
        }
    }
    check(
        "transposed",
        [2, 5, 6, 8],
        |init| ConvTranspose2dConfig::new(8, 12, 2, 2).init(init),
        |m, x| m.forward(x),
    );
}

#[test]
fn linear_layers() {
    for bias in [false, true] {
        check(
            "linear",
            [7, 30],
            |init| LinearConfig::new(30, 50).with_bias(bias).init(init),
            |m, x: Tensor<2>| m.forward(x),
        );
    }
    check(
        "linear on tokens",
        [2, 9, 24],
        |init| LinearConfig::new(24, 20).init(init),
        |m, x: Tensor<3>| m.forward(x),
    );
}

#[test]
fn perceptrons_of_few_and_many_tokens() {
    for (tokens, bias) in [(9, true), (101, true), (101, false)] {
        for activation in ACTIVATIONS {
            check(
                &format!("linear layer, {activation:?}, linear layer on 2 x {tokens} tokens"),
                [2, tokens, 24],
                |init| -> Sequential {
                    let mut linear = |from, to| {
                        let config = LinearConfig::new(from, to).with_bias(bias);
                        config.init(init)
                    };
                    vec![
                        linear(24, 67).into(),
                        activation.into(),
                        linear(67, 24).into(),
                    ]
                },
                |layers, x: Tensor<3>| {
                    let x = x * 3.0;
                    add(forward_tokens(layers, x.clone()), x)
                },
            );
        }
    }
}

#[test]
fn norms() {
    for channels in [5, 24, 160] {
        let shape = [3, 6, 5, channels];
        check(
            "batch norm",
            shape,
            |init| BatchNorm2dConfig::new(channels).init(init),
            |m, x| m.forward(x),
        );
        check(
            "frozen batch norm",
            shape,
            |init| BatchNorm2dConfig::new(channels).init(init),
            |m, x| {
                // The flag is off, the parameters go on being tracked.
                let mut frozen = m.clone();
                frozen.training = Param::from_bool(false);
                frozen.forward(x)
            },
        );
        check(
            "layer norm",
            shape,
            |init| LayerNormConfig::new(channels).init(init),
            |m, x| m.forward(x),
        );
        // The shortcut's gradient comes first, and the norm adds its own to it.
        check(
            "layer norm beside a shortcut",
            shape,
            |init| LayerNormConfig::new(channels).init(init),
            |m, x| {
                let x = Activation::Tanh.forward(x);
                add(m.forward(x.clone()), x)
            },
        );
    }
    check(
        "group norm",
        [2, 5, 4, 24],
        |init| GroupNorm::new(4, 24, init),
        |m, x| m.forward(x),
    );
    for (size, beta) in [(5, 0.75), (4, 0.75), (2, 1.3)] {
        check_plain("local response norm", [2, 5, 4, 12], |x| {
            LocalResponseNorm::new(size, 0.1, beta, 2.0).forward(x)
        });
    }
}

/// Convolution, batch norm and a projection for the residual.
#[derive(Module, Debug)]
struct Unit {
    conv: lenslet_nn::Conv2d,
    bn: lenslet_nn::BatchNorm2d,
}

#[test]
fn fused_units() {
    use Activation as A;
    for activation in [
        None,
        Some(A::Relu),
        Some(A::Relu6),
        Some(A::Silu),
        Some(A::HardSwish),
    ] {
        for residual in [false, true] {
            check(
                &format!("convolution, norm, {activation:?}, residual: {residual}"),
                [2, 8, 7, 24],
                |init| Unit {
                    conv: Conv2dConfig::new(24, 24, 3)
                        .with_padding(1)
                        .with_bias(false)
                        .init(init),
                    bn: BatchNorm2dConfig::new(24).init(init),
                },
                |m, x| {
                    // The input is used twice, so that gradients meet.
                    let other = residual.then(|| x.clone());
                    conv_bn_act(("conv", &m.conv), ("bn", &m.bn), activation, other, x)
                },
            );
        }
    }
}

const ACTIVATIONS: [Activation; 10] = [
    Activation::Relu,
    Activation::Relu6,
    Activation::LeakyRelu { slope: 0.1 },
    Activation::Silu,
    Activation::HardSwish,
    Activation::HardSigmoid,
    Activation::Gelu,
    Activation::GeluTanh,
    Activation::Sigmoid,
    Activation::Tanh,
];

#[test]
fn activations() {
    for activation in ACTIVATIONS {
        check_plain(&format!("{activation:?}"), [3, 5, 4, 7], |x: Tensor<4>| {
            activation.forward(x * 5.0)
        });
    }
}

#[test]
fn layers_with_an_activation_behind_them() {
    for activation in ACTIVATIONS {
        check(
            &format!("convolution, {activation:?}, linear layer, {activation:?}"),
            [2, 9, 18, 6],
            |init| -> Sequential {
                vec![
                    Conv2dConfig::new(6, 5, 3).init(init).into(),
                    activation.into(),
                    LinearConfig::new(5, 7).init(init).into(),
                    activation.into(),
                ]
            },
            |layers, x| forward_sequential(layers, x),
        );
    }
}

#[test]
fn pools() {
    for [k, s, p] in [[2, 2, 0], [3, 2, 1], [3, 1, 1]] {
        check_plain("max pool", [2, 9, 8, 20], |x| {
            MaxPool2d::new(k, s).with_padding(p).forward(x)
        });
        for count in [false, true] {
            check_plain("average pool", [2, 9, 8, 6], |x| {
                AvgPool2d::new(k, s)
                    .with_padding(p)
                    .with_count_include_pad(count)
                    .forward(x)
            });
        }
    }
    check_plain("max pool, ceil", [2, 9, 8, 20], |x| {
        MaxPool2d::new(2, 2).with_ceil_mode(true).forward(x)
    });
    for size in [1, 3, 7] {
        check_plain("adaptive pool", [2, 9, 8, 20], |x| {
            AdaptiveAvgPool2d::new(size).forward(x)
        });
    }
}

#[test]
fn combinations() {
    check_plain("sum", [2, 5, 4, 7], |x: Tensor<4>| {
        add(x.clone(), Activation::Tanh.forward(x))
    });
    check_plain("sum with itself", [2, 5, 4, 7], |x: Tensor<4>| {
        add(x.clone(), x)
    });
    check_plain("channels side by side", [2, 5, 4, 7], |x: Tensor<4>| {
        let more = Activation::Silu.forward(x.clone());
        concat(vec![x, more])
    });
    check_plain("three side by side", [2, 5, 4, 7], |x: Tensor<4>| {
        concat(vec![x.clone(), Activation::Silu.forward(x.clone()), x])
    });
    for factor in [[1, 1, 1, 7], [2, 1, 1, 1], [2, 1, 1, 7]] {
        for residual in [false, true] {
            check_plain("scaling", [2, 5, 4, 7], move |x: Tensor<4>| {
                let [n, h, w, c] = factor;
                let gate = AdaptiveAvgPool2d::new(1).forward(x.clone());
                let gate = gate.slice([0..n, 0..h, 0..w, 0..c]);
                let other = residual.then(|| x.clone());
                scale(x, gate, other)
            });
        }
    }
    check(
        "squeeze and excitation",
        [2, 5, 4, 16],
        |init| {
            let functions = [Activation::Silu, Activation::Sigmoid];
            SqueezeExcitation::new(16, 4, functions, WeightInit::Default, init)
        },
        |m, x| m.forward(x),
    );
    check_plain("flattened", [2, 5, 4, 6], flatten);
    check_plain("layout", [2, 6, 5, 4], |x| to_nchw(to_nhwc(x)));
    check_plain("shuffled", [2, 5, 4, 12], |x| channel_shuffle(x, 3));
    let corners = Interpolation::Bilinear {
        align_corners: true,
    };
    check_plain("resized", [2, 5, 4, 6], move |x| resize(x, [9, 8], corners));
}

#[test]
fn attention() {
    for length in [1, 7, 50] {
        check(
            "attention",
            [2, length, 24],
            |init| MultiHeadAttentionConfig::new(24, 3).init(init),
            |m, x| m.forward(x),
        );
        check(
            "attention of the first token",
            [2, length, 24],
            |init| MultiHeadAttentionConfig::new(24, 3).init(init),
            |m, x| m.forward_first(x),
        );
    }
}

#[test]
fn attention_of_the_first_token_is_that_of_all() {
    let device = Device::flex().autodiff();
    let build = |init: &mut Init| MultiHeadAttentionConfig::new(24, 3).init(init);
    let alone = results(&device, [2, 50, 24], &build, &|m, x| m.forward_first(x));
    let all = results(&device, [2, 50, 24], &build, &|m, x: Tensor<3>| {
        m.forward(x).narrow(1, 0, 1)
    });
    same("first token", &alone, &all);
}
