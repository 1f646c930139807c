//! GoogLeNet, and the Inception module by itself.
//!
//! C. Szegedy et al., *Going Deeper with Convolutions*, CVPR 2015, table 1, with batch
//! normalisation and, as in torchvision, 3x3 convolutions in the paper's 5x5 branch.

use burn::module::Module;
use burn::tensor::Tensor;
use lenslet_data::Interpolation::Bilinear;
use lenslet_data::Preprocess;
use lenslet_nn::tap::tap;
use lenslet_nn::{
    Activation, AdaptiveAvgPool2d, BatchNorm2d, BatchNorm2dConfig, BiasInit, Conv2d, Conv2dConfig,
    Dropout, Head, Init, Linear, LinearConfig, MaxPool2d, Named, Sequential, WeightInit, concat,
    conv_bn_act, flatten, forward_sequential, to_nhwc,
};

use crate::model::{ImageModel, Stage, Taken};
use crate::{BuildOptions, Published, Variant};

const RELU: Activation = Activation::Relu;
/// As `init_weights=True` of torchvision: normal with a deviation of 0.01, cut off at 2.
const WEIGHTS: WeightInit = WeightInit::TruncNormal(0.01);

/// A convolution without a bias, a batch norm with `eps` 1e-3 and ReLU.
#[derive(Module, Debug)]
pub struct BasicConv2d {
    conv: Conv2d,
    bn: BatchNorm2d,
}

impl BasicConv2d {
    pub(crate) fn new(conv: Conv2dConfig, init: &mut Init) -> Self {
        let norm = BatchNorm2dConfig::new(conv.out_channels()).with_eps(1e-3);
        Self {
            conv: conv.with_bias(false).init(init),
            bn: norm.init(init),
        }
    }

    pub(crate) fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        conv_bn_act(("conv", &self.conv), ("bn", &self.bn), Some(RELU), None, x)
    }
}

fn basic(from: usize, to: usize, kernel: usize, init: &mut Init) -> BasicConv2d {
    let conv = Conv2dConfig::new(from, to, kernel).with_padding(kernel / 2);
    BasicConv2d::new(conv.with_init(WEIGHTS), init)
}

/// Four branches side by side (figure 2b): 1x1; 1x1 and 3x3; 1x1 and 3x3; pool and 1x1.
#[derive(Module, Debug)]
pub struct Inception {
    branch1: BasicConv2d,
    branch2: Vec<BasicConv2d>,
    branch3: Vec<BasicConv2d>,
    /// The convolution is the second entry, behind the pool.
    branch4: Named<BasicConv2d>,
}

impl Inception {
    /// Channels of the input and, from table 1: `#1x1`, `#3x3 reduce`, `#3x3`, `#5x5 reduce`,
    /// `#5x5`, `pool proj`.
    pub fn new(from: usize, widths: [usize; 6], init: &mut Init) -> Self {
        let [one, reduce3, three, reduce5, five, pool] = widths;
        Self {
            branch1: basic(from, one, 1, init),
            branch2: vec![
                basic(from, reduce3, 1, init),
                basic(reduce3, three, 3, init),
            ],
            branch3: vec![basic(from, reduce5, 1, init), basic(reduce5, five, 3, init)],
            branch4: [("1", basic(from, pool, 1, init))].into_iter().collect(),
        }
    }

    /// `[N, H, W, from]` to the branches' channels together.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let chain = |convs: &[BasicConv2d], x| {
            convs
                .iter()
                .enumerate()
                .fold(x, |x, (i, conv)| tap(i, || conv.forward(x)))
        };
        let pool = MaxPool2d::new(3, 1).with_padding(1).with_ceil_mode(true);
        concat(vec![
            tap("branch1", || self.branch1.forward(x.clone())),
            tap("branch2", || chain(&self.branch2, x.clone())),
            tap("branch3", || chain(&self.branch3, x.clone())),
            tap("branch4", || {
                let x = tap(0, || pool.forward(x));
                self.branch4
                    .iter()
                    .fold(x, |x, (i, conv)| tap(i, || conv.forward(x)))
            }),
        ])
    }
}

/// The Inception module as the guide writes it: plain sequences, a 5x5 kernel, biases, `eps` 1e-5.
#[derive(Module, Debug)]
pub struct GuideInception {
    branch1: Sequential,
    branch2: Sequential,
    branch3: Sequential,
    branch4: Sequential,
}

impl GuideInception {
    /// Channels of the input and, from table 1: `#1x1`, `#3x3 reduce`, `#3x3`, `#5x5 reduce`,
    /// `#5x5`, `pool proj`.
    pub fn new(from: usize, widths: [usize; 6], init: &mut Init) -> Self {
        let [one, reduce3, three, reduce5, five, pool] = widths;
        let mut unit = |from, to, kernel: usize| -> Sequential {
            let conv = Conv2dConfig::new(from, to, kernel).with_padding(kernel / 2);
            vec![
                conv.init(init).into(),
                BatchNorm2dConfig::new(to).init(init).into(),
                RELU.into(),
            ]
        };
        let join = |mut first: Sequential, second| {
            first.extend(second);
            first
        };
        Self {
            branch1: unit(from, one, 1),
            branch2: join(unit(from, reduce3, 1), unit(reduce3, three, 3)),
            branch3: join(unit(from, reduce5, 1), unit(reduce5, five, 5)),
            branch4: join(
                vec![MaxPool2d::new(3, 1).with_padding(1).into()],
                unit(from, pool, 1),
            ),
        }
    }

    /// `[N, H, W, from]` to the branches' channels together.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let branch = |name: &str, layers| tap(name, || forward_sequential(layers, x.clone()));
        concat(vec![
            branch("branch1", &self.branch1),
            branch("branch2", &self.branch2),
            branch("branch3", &self.branch3),
            branch("branch4", &self.branch4),
        ])
    }
}

/// An auxiliary classifier (section 5).
#[derive(Module, Debug)]
struct Auxiliary {
    conv: BasicConv2d,
    fc1: Linear,
    fc2: Linear,
    dropout: Dropout,
}

impl Auxiliary {
    fn new(from: usize, num_classes: usize, dropout: f64, init: &mut Init) -> Self {
        Self {
            conv: basic(from, 128, 1, init),
            fc1: linear(2048, 1024).init(init),
            fc2: linear(1024, num_classes).init(init),
            dropout: Dropout::new(dropout),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        let x = flatten(self.conv.forward(AdaptiveAvgPool2d::new(4).forward(x)));
        let x = self.dropout.forward(RELU.forward(self.fc1.forward(x)));
        self.fc2.forward(x)
    }
}

fn linear(from: usize, to: usize) -> LinearConfig {
    let config = LinearConfig::new(from, to).with_init(WEIGHTS);
    config.with_bias_init(BiasInit::Default)
}

/// Inputs of the inception modules and their widths (table 1), by name.
const MODULES: [(usize, [usize; 6]); 9] = [
    (192, [64, 96, 128, 16, 32, 32]),
    (256, [128, 128, 192, 32, 96, 64]),
    (480, [192, 96, 208, 16, 48, 64]),
    (512, [160, 112, 224, 24, 64, 64]),
    (512, [128, 128, 256, 24, 64, 64]),
    (512, [112, 144, 288, 32, 64, 64]),
    (528, [256, 160, 320, 32, 128, 128]),
    (832, [256, 160, 320, 32, 128, 128]),
    (832, [384, 192, 384, 48, 128, 128]),
];

/// A stem, nine Inception modules, a mean, dropout and a linear layer.
#[derive(Module, Debug)]
pub struct GoogLeNet {
    conv1: BasicConv2d,
    conv2: BasicConv2d,
    conv3: BasicConv2d,
    inception3a: Inception,
    inception3b: Inception,
    inception4a: Inception,
    inception4b: Inception,
    inception4c: Inception,
    inception4d: Inception,
    inception4e: Inception,
    inception5a: Inception,
    inception5b: Inception,
    aux1: Option<Auxiliary>,
    aux2: Option<Auxiliary>,
    dropout: Dropout,
    fc: Head,
    #[module(skip)]
    transform_input: bool,
}

impl GoogLeNet {
    /// Makes the network: weights normal with a deviation of 0.01.
    pub fn new(options: &BuildOptions, init: &mut Init) -> Self {
        let stem = Conv2dConfig::new(3, 64, 7).with_stride(2).with_padding(3);
        let conv1 = BasicConv2d::new(stem.with_init(WEIGHTS), init);
        let conv2 = basic(64, 64, 1, init);
        let conv3 = basic(64, 192, 3, init);
        let [a3, b3, a4, b4, c4, d4, e4, a5, b5] =
            MODULES.map(|(from, widths)| Inception::new(from, widths, init));
        let (classes, dropout) = (options.num_classes, options.dropout);
        let mut aux = |from| {
            let p = dropout.unwrap_or(0.7);
            options
                .aux_logits
                .then(|| Auxiliary::new(from, classes, p, init))
        };
        let (aux1, aux2) = (aux(512), aux(528));
        Self {
            conv1,
            conv2,
            conv3,
            inception3a: a3,
            inception3b: b3,
            inception4a: a4,
            inception4b: b4,
            inception4c: c4,
            inception4d: d4,
            inception4e: e4,
            inception5a: a5,
            inception5b: b5,
            aux1,
            aux2,
            dropout: Dropout::new(dropout.unwrap_or(0.2)),
            fc: options.head(linear(1024, classes), init),
            transform_input: options.transform_input,
        }
    }

    /// The last feature map; the inputs of the auxiliary classifiers go to `side`.
    fn features(
        &self,
        x: Tensor<4>,
        taken: &mut Taken,
        mut side: impl FnMut(&Tensor<4>),
    ) -> Tensor<4> {
        let pool = |name: &str, kernel, x| {
            let pool = MaxPool2d::new(kernel, 2).with_ceil_mode(true);
            tap(name, || pool.forward(x))
        };
        let x = if self.transform_input {
            transform(x)
        } else {
            x
        };
        let x = tap("conv1", || self.conv1.forward(to_nhwc(x)));
        taken.offer(&x);
        let x = pool("maxpool1", 3, x);
        let x = tap("conv2", || self.conv2.forward(x));
        let x = tap("conv3", || self.conv3.forward(x));
        taken.offer(&x);
        let x = pool("maxpool2", 3, x);
        let x = tap("inception3a", || self.inception3a.forward(x));
        let x = tap("inception3b", || self.inception3b.forward(x));
        taken.offer(&x);
        let x = pool("maxpool3", 3, x);
        let x = tap("inception4a", || self.inception4a.forward(x));
        side(&x);
        let x = tap("inception4b", || self.inception4b.forward(x));
        let x = tap("inception4c", || self.inception4c.forward(x));
        let x = tap("inception4d", || self.inception4d.forward(x));
        side(&x);
        let x = tap("inception4e", || self.inception4e.forward(x));
        taken.offer(&x);
        let x = pool("maxpool4", 2, x);
        let x = tap("inception5a", || self.inception5a.forward(x));
        let x = tap("inception5b", || self.inception5b.forward(x));
        taken.offer(&x);
        x
    }

    fn pooled(&self, x: Tensor<4>) -> Tensor<2> {
        let x = flatten(tap("avgpool", || AdaptiveAvgPool2d::new(1).forward(x)));
        self.dropout.forward(x)
    }
}

/// From ImageNet's mean and deviation to 0.5 and 0.5, which the original weights were trained with.
pub(crate) fn transform(x: Tensor<4>) -> Tensor<4> {
    let channels = [(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)];
    let scaled = channels
        .iter()
        .enumerate()
        .map(|(c, (mean, std))| x.clone().narrow(1, c, 1) * (std / 0.5) + (mean - 0.5) / 0.5);
    Tensor::cat(scaled.collect(), 1)
}

impl ImageModel for GoogLeNet {
    fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        let x = self.embed(x);
        tap("fc", || self.fc.forward(x))
    }

    fn forward_aux(&self, x: Tensor<4>) -> (Tensor<2>, Vec<Tensor<2>>) {
        let mut inputs = Vec::new();
        let x = self.features(x, &mut Taken::none(), |map| inputs.push(map.clone()));
        let heads = [&self.aux1, &self.aux2].into_iter().flatten();
        let aux = heads.zip(inputs).map(|(head, map)| head.forward(map));
        (self.fc.forward(self.pooled(x)), aux.collect())
    }

    fn stages(&self, x: Tensor<4>) -> Vec<Tensor<4>> {
        Taken::from(|taken| self.features(x, taken, |_| ()))
    }

    fn stage_info(&self) -> Vec<Stage> {
        vec![
            Stage::new("conv1", 64, 2),
            Stage::new("conv3", 192, 4),
            Stage::new("inception3b", 480, 8),
            Stage::new("inception4e", 832, 16),
            Stage::new("inception5b", 1024, 32),
        ]
    }

    fn embed(&self, x: Tensor<4>) -> Tensor<2> {
        self.pooled(self.features(x, &mut Taken::none(), |_| ()))
    }

    fn classify(&self, features: Tensor<2>) -> Option<Tensor<2>> {
        Some(tap("fc", || self.fc.forward(features)))
    }
}

pub(crate) static VARIANTS: &[Variant] = &[Variant {
    family: "GoogLeNet",
    year: 2014,
    paper: "Szegedy et al., Going Deeper with Convolutions",
    min_size: 15,
    // torchvision's weights were trained on values from -1 to 1, which its models make of ImageNet's
    // normalisation (`transform_input`); it is the same to normalise that way at once.
    preprocess: Preprocess::imagenet(256, 224, Bilinear).with_normalisation([0.5; 3], [0.5; 3]),
    published: Published::v1(69.778, 89.53),
    first_conv: "conv1.conv",
    auxiliary: &["aux1.fc2", "aux2.fc2"],
    ..Variant::imagenet("googlenet", |o: &BuildOptions, i| {
        GoogLeNet::new(o, i).into()
    })
}];
