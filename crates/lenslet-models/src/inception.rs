//! Inception v3.
//!
//! C. Szegedy, V. Vanhoucke, S. Ioffe, J. Shlens, Z. Wojna, *Rethinking the Inception Architecture
//! for Computer Vision*, CVPR 2016, table 1 and figures 5 to 7, with the auxiliary classifier of
//! section 4. Modules are called as in TensorFlow's original weights.
#![allow(non_snake_case)] // Fields are called as in the published weights.

use burn::module::Module;
use burn::tensor::Tensor;
use lenslet_data::Interpolation::Bilinear;
use lenslet_data::Preprocess;
use lenslet_nn::tap::tap;
use lenslet_nn::{
    AdaptiveAvgPool2d, AvgPool2d, BiasInit, Conv2dConfig, Dropout, Head, Init, Linear,
    LinearConfig, MaxPool2d, Named, WeightInit, concat, flatten, to_nhwc,
};

use crate::googlenet::{BasicConv2d, transform};
use crate::model::{ImageModel, Stage, Taken};
use crate::{BuildOptions, Published, Variant};

/// How the last branch pools.
enum Pool {
    /// Mean of 3x3 neighbours, then a 1x1 convolution.
    Mean,
    /// Largest of 3x3 neighbours, halving the size.
    Max,
}

/// Branches side by side: chains of convolutions, of which some end in a fork whose arms run side
/// by side on the chain's result (figure 7), and a pool.
struct Layout {
    /// Convolutions in the chain and in the fork of every branch.
    branches: &'static [[usize; 2]],
    pool: Pool,
}

/// An Inception module's convolutions, in the order of its [`Layout`].
type Mixed = Named<BasicConv2d>;

/// Outputs, rows and columns of a kernel.
type Step = (usize, usize, usize);

/// Puts a module's convolutions together.
struct Builder<'a> {
    from: usize,
    convs: Vec<(String, BasicConv2d)>,
    init: &'a mut Init,
}

impl<'a> Builder<'a> {
    fn new(from: usize, init: &'a mut Init) -> Self {
        Self {
            from,
            convs: Vec::new(),
            init,
        }
    }

    /// One convolution; with stride 1 it keeps the size, with stride 2 it has no padding.
    fn conv(&mut self, name: &str, from: usize, (to, kh, kw): Step, stride: usize) -> usize {
        let conv = basic(from, to, [kh, kw], stride, self.init);
        self.convs.push((name.to_string(), conv));
        to
    }

    /// A chain from the module's input, its convolutions numbered from 1 if there are several; the
    /// last one has the stride.
    fn chain(&mut self, name: &str, steps: &[Step], stride: usize) {
        let mut channels = self.from;
        for (i, &step) in steps.iter().enumerate() {
            let last = i + 1 == steps.len();
            let name = match steps {
                [_] => name.to_string(),
                _ => format!("{name}_{}", i + 1),
            };
            channels = self.conv(&name, channels, step, if last { stride } else { 1 });
        }
    }

    /// Without a convolution behind the pool.
    fn finish(self) -> Mixed {
        self.convs.into_iter().collect()
    }

    /// With a convolution behind the pool.
    fn pool(mut self, to: usize) -> Mixed {
        self.conv("branch_pool", self.from, (to, 1, 1), 1);
        self.finish()
    }
}

impl Layout {
    /// `[N, H, W, C]` to the branches' channels together.
    fn forward(&self, name: &str, convs: &Mixed, x: Tensor<4>) -> Tensor<4> {
        tap(name, || {
            let mut convs = convs.iter();
            let mut outputs = Vec::new();
            let run = |x, (name, conv): (&String, &BasicConv2d)| tap(name, || conv.forward(x));
            for &[chain, fork] in self.branches {
                let end = convs.by_ref().take(chain).fold(x.clone(), run);
                if fork == 0 {
                    outputs.push(end);
                } else {
                    let arms = convs.by_ref().take(fork);
                    outputs.extend(arms.map(|conv| run(end.clone(), conv)));
                }
            }
            let pooled = match self.pool {
                Pool::Mean => AvgPool2d::new(3, 1).with_padding(1).forward(x),
                Pool::Max => MaxPool2d::new(3, 2).forward(x),
            };
            outputs.push(convs.fold(pooled, run));
            concat(outputs)
        })
    }
}

/// Weights normal with a deviation of 0.1, cut off at 2 (`init_weights=True` of torchvision).
fn basic(
    from: usize,
    to: usize,
    kernel: [usize; 2],
    stride: usize,
    init: &mut Init,
) -> BasicConv2d {
    let padding = kernel.map(|k| if stride == 1 { k / 2 } else { 0 });
    let conv = Conv2dConfig::new(from, to, 0)
        .with_kernel_size(kernel)
        .with_stride(stride)
        .with_paddings(padding);
    BasicConv2d::new(conv.with_init(WeightInit::TruncNormal(0.1)), init)
}

/// 5x5 becomes two 3x3 (figure 5).
const A: Layout = Layout {
    branches: &[[1, 0], [2, 0], [3, 0]],
    pool: Pool::Mean,
};

fn module_a(from: usize, pool: usize, init: &mut Init) -> Mixed {
    let mut module = Builder::new(from, init);
    module.chain("branch1x1", &[(64, 1, 1)], 1);
    module.chain("branch5x5", &[(48, 1, 1), (64, 5, 5)], 1);
    module.chain("branch3x3dbl", &[(64, 1, 1), (96, 3, 3), (96, 3, 3)], 1);
    module.pool(pool)
}

/// Halves the size (figure 10).
const B: Layout = Layout {
    branches: &[[1, 0], [3, 0]],
    pool: Pool::Max,
};

fn module_b(from: usize, init: &mut Init) -> Mixed {
    let mut module = Builder::new(from, init);
    module.chain("branch3x3", &[(384, 3, 3)], 2);
    module.chain("branch3x3dbl", &[(64, 1, 1), (96, 3, 3), (96, 3, 3)], 2);
    module.finish()
}

/// 7x7 becomes 1x7 and 7x1 (figure 6).
const C: Layout = Layout {
    branches: &[[1, 0], [3, 0], [5, 0]],
    pool: Pool::Mean,
};

fn module_c(c: usize, init: &mut Init) -> Mixed {
    let mut module = Builder::new(768, init);
    let long = [(c, 1, 1), (c, 7, 1), (c, 1, 7), (c, 7, 1), (192, 1, 7)];
    module.chain("branch1x1", &[(192, 1, 1)], 1);
    module.chain("branch7x7", &[(c, 1, 1), (c, 1, 7), (192, 7, 1)], 1);
    module.chain("branch7x7dbl", &long, 1);
    module.pool(192)
}

/// Halves the size.
const D: Layout = Layout {
    branches: &[[2, 0], [4, 0]],
    pool: Pool::Max,
};

fn module_d(init: &mut Init) -> Mixed {
    let mut module = Builder::new(768, init);
    let long = [(192, 1, 1), (192, 1, 7), (192, 7, 1), (192, 3, 3)];
    module.chain("branch3x3", &[(192, 1, 1), (320, 3, 3)], 2);
    module.chain("branch7x7x3", &long, 2);
    module.finish()
}

/// 3x3 becomes 1x3 and 3x1 side by side (figure 7).
const E: Layout = Layout {
    branches: &[[1, 0], [1, 2], [2, 2]],
    pool: Pool::Mean,
};

fn module_e(from: usize, init: &mut Init) -> Mixed {
    let mut module = Builder::new(from, init);
    module.chain("branch1x1", &[(320, 1, 1)], 1);
    module.conv("branch3x3_1", from, (384, 1, 1), 1);
    module.conv("branch3x3_2a", 384, (384, 1, 3), 1);
    module.conv("branch3x3_2b", 384, (384, 3, 1), 1);
    module.chain("branch3x3dbl", &[(448, 1, 1), (384, 3, 3)], 1);
    module.conv("branch3x3dbl_3a", 384, (384, 1, 3), 1);
    module.conv("branch3x3dbl_3b", 384, (384, 3, 1), 1);
    module.pool(192)
}

/// The auxiliary classifier.
#[derive(Module, Debug)]
struct Auxiliary {
    conv0: BasicConv2d,
    conv1: BasicConv2d,
    fc: Linear,
}

impl Auxiliary {
    fn new(num_classes: usize, init: &mut Init) -> Self {
        let conv0 = basic(768, 128, [1, 1], 1, init);
        let wide = Conv2dConfig::new(128, 768, 5).with_init(WeightInit::TruncNormal(0.01));
        Self {
            conv0,
            conv1: BasicConv2d::new(wide, init),
            fc: linear(768, num_classes, 0.001).init(init),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        let x = self.conv0.forward(AvgPool2d::new(5, 3).forward(x));
        let x = AdaptiveAvgPool2d::new(1).forward(self.conv1.forward(x));
        self.fc.forward(flatten(x))
    }
}

fn linear(from: usize, to: usize, std: f64) -> LinearConfig {
    let config = LinearConfig::new(from, to).with_init(WeightInit::TruncNormal(std));
    config.with_bias_init(BiasInit::Default)
}

/// A stem, eleven Inception modules, a mean, dropout and a linear layer.
#[derive(Module, Debug)]
pub struct InceptionV3 {
    Conv2d_1a_3x3: BasicConv2d,
    Conv2d_2a_3x3: BasicConv2d,
    Conv2d_2b_3x3: BasicConv2d,
    Conv2d_3b_1x1: BasicConv2d,
    Conv2d_4a_3x3: BasicConv2d,
    Mixed_5b: Mixed,
    Mixed_5c: Mixed,
    Mixed_5d: Mixed,
    Mixed_6a: Mixed,
    Mixed_6b: Mixed,
    Mixed_6c: Mixed,
    Mixed_6d: Mixed,
    Mixed_6e: Mixed,
    AuxLogits: Option<Auxiliary>,
    Mixed_7a: Mixed,
    Mixed_7b: Mixed,
    Mixed_7c: Mixed,
    dropout: Dropout,
    fc: Head,
    #[module(skip)]
    transform_input: bool,
}

impl InceptionV3 {
    /// Makes the network: weights normal with a deviation of 0.1, the auxiliary classifier's
    /// smaller.
    pub fn new(options: &BuildOptions, init: &mut Init) -> Self {
        let unpadded = |from, to, stride| {
            let conv = Conv2dConfig::new(from, to, 3).with_stride(stride);
            conv.with_init(WeightInit::TruncNormal(0.1))
        };
        let classes = options.num_classes;
        Self {
            Conv2d_1a_3x3: BasicConv2d::new(unpadded(3, 32, 2), init),
            Conv2d_2a_3x3: BasicConv2d::new(unpadded(32, 32, 1), init),
            Conv2d_2b_3x3: basic(32, 64, [3, 3], 1, init),
            Conv2d_3b_1x1: basic(64, 80, [1, 1], 1, init),
            Conv2d_4a_3x3: BasicConv2d::new(unpadded(80, 192, 1), init),
            Mixed_5b: module_a(192, 32, init),
            Mixed_5c: module_a(256, 64, init),
            Mixed_5d: module_a(288, 64, init),
            Mixed_6a: module_b(288, init),
            Mixed_6b: module_c(128, init),
            Mixed_6c: module_c(160, init),
            Mixed_6d: module_c(160, init),
            Mixed_6e: module_c(192, init),
            AuxLogits: options.aux_logits.then(|| Auxiliary::new(classes, init)),
            Mixed_7a: module_d(init),
            Mixed_7b: module_e(1280, init),
            Mixed_7c: module_e(2048, init),
            dropout: Dropout::new(options.dropout.unwrap_or(0.5)),
            fc: options.head(linear(2048, classes, 0.1), init),
            transform_input: options.transform_input,
        }
    }

    /// The last feature map; the input of the auxiliary classifier goes to `side`.
    fn features(
        &self,
        x: Tensor<4>,
        taken: &mut Taken,
        side: impl FnOnce(&Tensor<4>),
    ) -> Tensor<4> {
        let pool = MaxPool2d::new(3, 2);
        let x = if self.transform_input {
            transform(x)
        } else {
            x
        };
        let x = tap("Conv2d_1a_3x3", || self.Conv2d_1a_3x3.forward(to_nhwc(x)));
        let x = tap("Conv2d_2a_3x3", || self.Conv2d_2a_3x3.forward(x));
        let x = tap("Conv2d_2b_3x3", || self.Conv2d_2b_3x3.forward(x));
        taken.offer(&x);
        let x = tap("maxpool1", || pool.forward(x));
        let x = tap("Conv2d_3b_1x1", || self.Conv2d_3b_1x1.forward(x));
        let x = tap("Conv2d_4a_3x3", || self.Conv2d_4a_3x3.forward(x));
        taken.offer(&x);
        let x = tap("maxpool2", || pool.forward(x));
        let x = A.forward("Mixed_5b", &self.Mixed_5b, x);
        let x = A.forward("Mixed_5c", &self.Mixed_5c, x);
        let x = A.forward("Mixed_5d", &self.Mixed_5d, x);
        taken.offer(&x);
        let x = B.forward("Mixed_6a", &self.Mixed_6a, x);
        let x = C.forward("Mixed_6b", &self.Mixed_6b, x);
        let x = C.forward("Mixed_6c", &self.Mixed_6c, x);
        let x = C.forward("Mixed_6d", &self.Mixed_6d, x);
        let x = C.forward("Mixed_6e", &self.Mixed_6e, x);
        taken.offer(&x);
        side(&x);
        let x = D.forward("Mixed_7a", &self.Mixed_7a, x);
        let x = E.forward("Mixed_7b", &self.Mixed_7b, x);
        let x = E.forward("Mixed_7c", &self.Mixed_7c, x);
        taken.offer(&x);
        x
    }

    fn pooled(&self, x: Tensor<4>) -> Tensor<2> {
        let x = flatten(tap("avgpool", || AdaptiveAvgPool2d::new(1).forward(x)));
        self.dropout.forward(x)
    }
}

impl ImageModel for InceptionV3 {
    fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        let x = self.embed(x);
        tap("fc", || self.fc.forward(x))
    }

    fn forward_aux(&self, x: Tensor<4>) -> (Tensor<2>, Vec<Tensor<2>>) {
        let mut aux = Vec::new();
        let x = self.features(x, &mut Taken::none(), |map| {
            aux.extend(
                self.AuxLogits
                    .as_ref()
                    .map(|head| head.forward(map.clone())),
            );
        });
        (self.fc.forward(self.pooled(x)), aux)
    }

    fn stages(&self, x: Tensor<4>) -> Vec<Tensor<4>> {
        Taken::from(|taken| self.features(x, taken, |_| ()))
    }

    fn stage_info(&self) -> Vec<Stage> {
        vec![
            Stage::new("Conv2d_2b_3x3", 64, 2),
            Stage::new("Conv2d_4a_3x3", 192, 4),
            Stage::new("Mixed_5d", 288, 8),
            Stage::new("Mixed_6e", 768, 16),
            Stage::new("Mixed_7c", 2048, 32),
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
    family: "Inception",
    year: 2015,
    paper: "Szegedy et al., Rethinking the Inception Architecture for Computer Vision",
    input: [3, 299, 299],
    min_size: 75,
    // torchvision's weights were trained on values from -1 to 1, which its models make of ImageNet's
    // normalisation (`transform_input`); it is the same to normalise that way at once.
    preprocess: Preprocess::imagenet(342, 299, Bilinear).with_normalisation([0.5; 3], [0.5; 3]),
    published: Published::v1(77.294, 93.45),
    first_conv: "Conv2d_1a_3x3.conv",
    auxiliary: &["AuxLogits.fc"],
    // Its 5x5 convolution stands on 5x5 averages, three apart, of a map that 299 pixels leave 17 of.
    min_aux_size: 299,
    ..Variant::imagenet("inception_v3", |o: &BuildOptions, i| {
        InceptionV3::new(o, i).into()
    })
}];
