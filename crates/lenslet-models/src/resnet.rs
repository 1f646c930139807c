//! ResNet, ResNeXt and Wide ResNet.
//!
//! K. He, X. Zhang, S. Ren, J. Sun, *Deep Residual Learning for Image Recognition*, CVPR 2016,
//! table 1; the stride of a bottleneck is in its 3x3 convolution, as in torchvision ("v1.5").
//! S. Xie et al., *Aggregated Residual Transformations for Deep Neural Networks*, CVPR 2017:
//! groups in the 3x3 convolution. S. Zagoruyko, N. Komodakis, *Wide Residual Networks*, BMVC
//! 2016: a wider 3x3 convolution.

use burn::module::Module;
use burn::tensor::Tensor;
use lenslet_data::Interpolation::Bilinear;
use lenslet_data::Preprocess;
use lenslet_nn::tap::tap;
use lenslet_nn::{
    Activation, AdaptiveAvgPool2d, BatchNorm2d, BatchNorm2dConfig, Conv2d, Conv2dConfig, Head,
    Init, LinearConfig, MaxPool2d, Sequential, WeightInit, conv_bn_act, conv_norm_act, flatten,
    forward_branch, to_nhwc,
};

use crate::model::{ImageModel, Stage, Taken};
use crate::registry::Build;
use crate::{BuildOptions, Published, Variant};

const RELU: Option<Activation> = Some(Activation::Relu);

/// Convolutions of every ResNet: no bias, after He et al. by the outputs.
fn conv(from: usize, to: usize, kernel: usize) -> Conv2dConfig {
    Conv2dConfig::new(from, to, kernel)
        .with_padding(kernel / 2)
        .with_bias(false)
        .with_init(WeightInit::KaimingNormalFanOut)
}

/// Two 3x3 convolutions, or 1x1, 3x3 and 1x1 (the paper's figure 5), around a shortcut.
#[derive(Module, Debug)]
pub struct ResidualBlock {
    conv1: Conv2d,
    bn1: BatchNorm2d,
    conv2: Conv2d,
    bn2: BatchNorm2d,
    conv3: Option<Conv2d>,
    bn3: Option<BatchNorm2d>,
    downsample: Option<Sequential>,
}

impl ResidualBlock {
    /// `[N, H, W, in]` to `[N, H / stride, W / stride, out]`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let shortcut = match &self.downsample {
            Some(layers) => forward_branch("downsample", layers, x.clone(), None),
            None => x.clone(),
        };
        let x = conv_bn_act(("conv1", &self.conv1), ("bn1", &self.bn1), RELU, None, x);
        let (conv2, bn2) = (("conv2", &self.conv2), ("bn2", &self.bn2));
        match (&self.conv3, &self.bn3) {
            (Some(conv3), Some(bn3)) => {
                let x = conv_bn_act(conv2, bn2, RELU, None, x);
                conv_bn_act(("conv3", conv3), ("bn3", bn3), RELU, Some(shortcut), x)
            }
            _ => conv_bn_act(conv2, bn2, RELU, Some(shortcut), x),
        }
    }
}

/// What a ResNet is built from.
#[derive(Debug, Clone)]
pub struct ResNetConfig {
    depths: [usize; 4],
    bottleneck: bool,
    groups: usize,
    group_width: usize,
}

impl ResNetConfig {
    /// Blocks of two 3x3 convolutions, so many in each of the four stages.
    pub fn basic(depths: [usize; 4]) -> Self {
        Self {
            depths,
            bottleneck: false,
            groups: 1,
            group_width: 64,
        }
    }

    /// Blocks of 1x1, 3x3 and 1x1 convolutions, so many in each of the four stages.
    pub fn bottleneck(depths: [usize; 4]) -> Self {
        Self {
            bottleneck: true,
            ..Self::basic(depths)
        }
    }

    /// Groups of the 3x3 convolutions and the channels of a group in the first stage.
    pub fn with_groups(mut self, groups: usize, group_width: usize) -> Self {
        self.groups = groups;
        self.group_width = group_width;
        self
    }

    /// Channels of a block's output per nominal channel.
    fn expansion(&self) -> usize {
        if self.bottleneck { 4 } else { 1 }
    }

    fn block(
        &self,
        (from, channels, stride): (usize, usize, usize),
        zero_init: bool,
        init: &mut Init,
    ) -> ResidualBlock {
        let to = channels * self.expansion();
        let norm = BatchNorm2dConfig::new;
        let last_norm = |c| norm(c).with_weight(if zero_init { 0.0 } else { 1.0 });
        let inner = channels * self.group_width * self.groups / 64;
        let downsample = (stride != 1 || from != to).then(|| {
            let shortcut = conv(from, to, 1).with_stride(stride);
            conv_norm_act(shortcut, norm, None, init)
        });
        if self.bottleneck {
            let middle = conv(inner, inner, 3)
                .with_stride(stride)
                .with_groups(self.groups);
            ResidualBlock {
                conv1: conv(from, inner, 1).init(init),
                bn1: norm(inner).init(init),
                conv2: middle.init(init),
                bn2: norm(inner).init(init),
                conv3: Some(conv(inner, to, 1).init(init)),
                bn3: Some(last_norm(to).init(init)),
                downsample,
            }
        } else {
            ResidualBlock {
                conv1: conv(from, to, 3).with_stride(stride).init(init),
                bn1: norm(to).init(init),
                conv2: conv(to, to, 3).init(init),
                bn2: last_norm(to).init(init),
                conv3: None,
                bn3: None,
                downsample,
            }
        }
    }

    /// Makes the network: convolutions after He et al. by the outputs, the classifier with
    /// PyTorch's default values.
    pub fn init(&self, options: &BuildOptions, init: &mut Init) -> ResNet {
        let conv1 = conv(3, 64, 7).with_stride(2).init(init);
        let bn1 = BatchNorm2dConfig::new(64).init(init);
        let mut from = 64;
        let mut layer = |stage: usize| -> Vec<ResidualBlock> {
            let channels = 64 << stage;
            let blocks = (0..self.depths[stage]).map(|i| {
                let stride = if i == 0 && stage > 0 { 2 } else { 1 };
                let block = (from, channels, stride);
                from = channels * self.expansion();
                self.block(block, options.zero_init_residual, init)
            });
            blocks.collect()
        };
        let layers = [layer(0), layer(1), layer(2), layer(3)];
        let [layer1, layer2, layer3, layer4] = layers;
        let expansion = self.expansion();
        let features = 512 * expansion;
        ResNet {
            conv1,
            bn1,
            layer1,
            layer2,
            layer3,
            layer4,
            fc: options.head(LinearConfig::new(features, options.num_classes), init),
            expansion,
        }
    }
}

/// A stem, four stages of residual blocks, a mean and a linear layer.
#[derive(Module, Debug)]
pub struct ResNet {
    conv1: Conv2d,
    bn1: BatchNorm2d,
    layer1: Vec<ResidualBlock>,
    layer2: Vec<ResidualBlock>,
    layer3: Vec<ResidualBlock>,
    layer4: Vec<ResidualBlock>,
    fc: Head,
    #[module(skip)]
    expansion: usize,
}

impl ResNet {
    fn features(&self, x: Tensor<4>, taken: &mut Taken) -> Tensor<4> {
        let (conv1, bn1) = (("conv1", &self.conv1), ("bn1", &self.bn1));
        let x = conv_bn_act(conv1, bn1, RELU, None, to_nhwc(x));
        let pool = MaxPool2d::new(3, 2).with_padding(1);
        let mut x = tap("maxpool", || pool.forward(x));
        let layers = [&self.layer1, &self.layer2, &self.layer3, &self.layer4];
        for (name, blocks) in LAYERS.into_iter().zip(layers) {
            x = tap(name, || {
                blocks
                    .iter()
                    .enumerate()
                    .fold(x, |x, (i, block)| tap(i, || block.forward(x)))
            });
            taken.offer(&x);
        }
        x
    }
}

const LAYERS: [&str; 4] = ["layer1", "layer2", "layer3", "layer4"];

impl ImageModel for ResNet {
    fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        let x = self.embed(x);
        tap("fc", || self.fc.forward(x))
    }

    fn stages(&self, x: Tensor<4>) -> Vec<Tensor<4>> {
        Taken::from(|taken| self.features(x, taken))
    }

    fn stage_info(&self) -> Vec<Stage> {
        let stage = |i: usize| Stage::new(LAYERS[i], (64 << i) * self.expansion, 4 << i);
        (0..4).map(stage).collect()
    }

    fn embed(&self, x: Tensor<4>) -> Tensor<2> {
        let x = self.features(x, &mut Taken::none());
        flatten(tap("avgpool", || AdaptiveAvgPool2d::new(1).forward(x)))
    }

    fn classify(&self, features: Tensor<2>) -> Option<Tensor<2>> {
        Some(tap("fc", || self.fc.forward(features)))
    }
}

const fn base(name: &'static str, build: Build) -> Variant {
    Variant {
        family: "ResNet",
        year: 2015,
        paper: "He et al., Deep Residual Learning for Image Recognition",
        ..Variant::imagenet(name, build)
    }
}

const fn resnext(name: &'static str, build: Build) -> Variant {
    Variant {
        year: 2016,
        paper: "Xie et al., Aggregated Residual Transformations for Deep Neural Networks",
        preprocess: Preprocess::imagenet(232, 224, Bilinear),
        ..base(name, build)
    }
}

const fn wide(name: &'static str, build: Build) -> Variant {
    Variant {
        year: 2016,
        paper: "Zagoruyko and Komodakis, Wide Residual Networks",
        preprocess: Preprocess::imagenet(232, 224, Bilinear),
        ..base(name, build)
    }
}

pub(crate) static VARIANTS: &[Variant] = &[
    Variant {
        published: Published::v1(69.758, 89.078),
        ..base("resnet18", |o, i| {
            ResNetConfig::basic([2, 2, 2, 2]).init(o, i).into()
        })
    },
    Variant {
        published: Published::v1(73.314, 91.42),
        ..base("resnet34", |o, i| {
            ResNetConfig::basic([3, 4, 6, 3]).init(o, i).into()
        })
    },
    Variant {
        published: Published::v2(80.858, 95.434),
        preprocess: Preprocess::imagenet(232, 224, Bilinear),
        ..base("resnet50", |o, i| {
            ResNetConfig::bottleneck([3, 4, 6, 3]).init(o, i).into()
        })
    },
    Variant {
        published: Published::v2(81.886, 95.78),
        preprocess: Preprocess::imagenet(232, 224, Bilinear),
        ..base("resnet101", |o, i| {
            ResNetConfig::bottleneck([3, 4, 23, 3]).init(o, i).into()
        })
    },
    Variant {
        published: Published::v2(82.284, 96.002),
        preprocess: Preprocess::imagenet(232, 224, Bilinear),
        ..base("resnet152", |o, i| {
            ResNetConfig::bottleneck([3, 8, 36, 3]).init(o, i).into()
        })
    },
    Variant {
        published: Published::v2(81.198, 95.34),
        ..resnext("resnext50_32x4d", |o, i| {
            ResNetConfig::bottleneck([3, 4, 6, 3])
                .with_groups(32, 4)
                .init(o, i)
                .into()
        })
    },
    Variant {
        published: Published::v2(82.834, 96.228),
        ..resnext("resnext101_32x8d", |o, i| {
            ResNetConfig::bottleneck([3, 4, 23, 3])
                .with_groups(32, 8)
                .init(o, i)
                .into()
        })
    },
    Variant {
        published: Published::v2(81.602, 95.758),
        ..wide("wide_resnet50_2", |o, i| {
            ResNetConfig::bottleneck([3, 4, 6, 3])
                .with_groups(1, 128)
                .init(o, i)
                .into()
        })
    },
    Variant {
        published: Published::v2(82.51, 96.02),
        ..wide("wide_resnet101_2", |o, i| {
            ResNetConfig::bottleneck([3, 4, 23, 3])
                .with_groups(1, 128)
                .init(o, i)
                .into()
        })
    },
];
