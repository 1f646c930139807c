//! What every model of the registry can do, and the type that holds any of them.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use lenslet_nn::to_nchw;

use crate::Variant;

/// An image model and the backbone in it. Tensors are `[N, C, H, W]` at this edge.
pub trait ImageModel: Module {
    /// Images to one vector an image. A classifier's logits `[N, num_classes]`; the mean logits
    /// over all positions of a segmentation model; a detector's grid in one row.
    fn forward(&self, x: Tensor<4>) -> Tensor<2>;

    /// Images to what the model was made for.
    fn output(&self, x: Tensor<4>) -> Output {
        Output::Logits(self.forward(x))
    }

    /// The logits, and those of the auxiliary classifiers that help a model to train, from the
    /// input to the output. (PyTorch's tuple has them the other way round.)
    fn forward_aux(&self, x: Tensor<4>) -> (Tensor<2>, Vec<Tensor<2>>) {
        (self.forward(x), Vec::new())
    }

    /// Feature maps at the end of every stage, from the finest to the coarsest, parallel to
    /// [`stage_info`](Self::stage_info).
    fn stages(&self, x: Tensor<4>) -> Vec<Tensor<4>>;

    /// What the stages give, without running them.
    fn stage_info(&self) -> Vec<Stage>;

    /// What goes into the last layer, pooled: `[N, features]`.
    fn embed(&self, x: Tensor<4>) -> Tensor<2>;

    /// The last layer: what [`embed`](Self::embed) gives, `[N, features]`, to logits
    /// `[N, num_classes]`. `None` where the last layer works on maps.
    fn classify(&self, _features: Tensor<2>) -> Option<Tensor<2>> {
        None
    }
}

/// What a model gives for a batch of images.
#[derive(Debug, Clone)]
pub enum Output {
    /// Class logits: `[N, num_classes]`.
    Logits(Tensor<2>),
    /// Class logits at every pixel: `[N, num_classes, H, W]`.
    Map(Tensor<4>),
    /// Predictions at every cell of a grid: `[N, rows, columns, values]`.
    Grid(Tensor<4>),
    /// Predictions for every anchor at every position of a few maps, the finest first:
    /// `[N, anchors, rows, columns, 5 + num_classes]`.
    Anchors(Vec<Tensor<5>>),
}

impl Output {
    /// Where it lies.
    pub fn device(&self) -> Device {
        match self {
            Self::Logits(y) => y.device(),
            Self::Map(y) | Self::Grid(y) => y.device(),
            Self::Anchors(scales) => scales.first().map(Tensor::device).unwrap_or_default(),
        }
    }
}

/// What a stage of a backbone gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// The module after which the map is taken.
    pub name: String,
    /// Channels of the map.
    pub channels: usize,
    /// Pixels of the image a step in the map.
    pub stride: usize,
}

impl Stage {
    pub(crate) fn new(name: impl Into<String>, channels: usize, stride: usize) -> Self {
        Self {
            name: name.into(),
            channels,
            stride,
        }
    }
}

/// Collects feature maps while a backbone runs, or ignores them.
#[derive(Debug, Default)]
pub(crate) struct Taken(Option<Vec<Tensor<4>>>);

impl Taken {
    /// Nothing is kept.
    pub fn none() -> Self {
        Self(None)
    }

    /// Whether nothing is kept.
    pub fn is_none(&self) -> bool {
        self.0.is_none()
    }

    /// Offers a map `[N, H, W, C]`.
    pub fn offer(&mut self, map: &Tensor<4>) {
        if let Some(maps) = &mut self.0 {
            maps.push(to_nchw(map.clone()));
        }
    }

    /// The maps that a backbone offers, as `[N, C, H, W]`.
    pub fn from<T>(run: impl FnOnce(&mut Taken) -> T) -> Vec<Tensor<4>> {
        let mut taken = Taken(Some(Vec::new()));
        run(&mut taken);
        taken.0.unwrap_or_default()
    }
}

macro_rules! families {
    ($($module:ident { $($kind:ident),* })+) => {
        /// Any model of the registry.
        #[derive(Module, Debug)]
        pub enum Model {
            $($(
                #[doc = concat!("[`", stringify!($kind), "`](crate::", stringify!($module), "::", stringify!($kind), ")")]
                $kind(crate::$module::$kind),
            )*)+
        }

        $($(impl From<crate::$module::$kind> for Model {
            fn from(model: crate::$module::$kind) -> Self {
                Model::$kind(model)
            }
        })*)+

        impl ImageModel for Model {
            fn forward(&self, x: Tensor<4>) -> Tensor<2> {
                match self { $($(Model::$kind(m) => m.forward(x),)*)+ }
            }
            fn output(&self, x: Tensor<4>) -> Output {
                match self { $($(Model::$kind(m) => m.output(x),)*)+ }
            }
            fn forward_aux(&self, x: Tensor<4>) -> (Tensor<2>, Vec<Tensor<2>>) {
                match self { $($(Model::$kind(m) => m.forward_aux(x),)*)+ }
            }
            fn stages(&self, x: Tensor<4>) -> Vec<Tensor<4>> {
                match self { $($(Model::$kind(m) => m.stages(x),)*)+ }
            }
            fn stage_info(&self) -> Vec<Stage> {
                match self { $($(Model::$kind(m) => m.stage_info(),)*)+ }
            }
            fn embed(&self, x: Tensor<4>) -> Tensor<2> {
                match self { $($(Model::$kind(m) => m.embed(x),)*)+ }
            }
            fn classify(&self, features: Tensor<2>) -> Option<Tensor<2>> {
                match self { $($(Model::$kind(m) => m.classify(features),)*)+ }
            }
        }

        /// The variants of every family, in the order of the papers' years.
        pub(crate) static FAMILIES: &[&[Variant]] = &[$(crate::$module::VARIANTS),+];
    };
}

families! {
    lenet { SequentialNet }
    alexnet {}
    vgg {}
    googlenet { GoogLeNet }
    inception { InceptionV3 }
    resnet { ResNet }
    unet { UNet }
    unet_over { UNetOver }
    squeezenet { SqueezeNet }
    yolo { SimpleYolo }
    detector { GridDetector, AnchorDetector }
    densenet { DenseNet }
    mobilenet {}
    mobilenet_v3 {}
    shufflenet { ShuffleNetV2 }
    mnasnet { MnasNet }
    efficientnet {}
    efficientnet_lite { EfficientNetLite }
    regnet { RegNet }
    vit { VisionTransformer }
    guide_vit { GuideVit }
    swin { SwinTransformer }
    convnext { ConvNeXt }
    guide_convnext { GuideConvNeXt }
}
