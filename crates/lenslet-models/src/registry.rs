//! The variants by name, with all that their weights need as data.

use lenslet_data::{Interpolation, Preprocess};
use lenslet_nn::{Head, HeadKind, Init, LinearConfig};
use serde::{Deserialize, Serialize};

use crate::model::FAMILIES;
use crate::{Model, Naming};

/// One named model.
#[derive(Debug)]
pub struct Variant {
    /// The name users type, torchvision's where it has one.
    pub name: &'static str,
    /// The family it belongs to.
    pub family: &'static str,
    /// What it is for.
    pub task: Task,
    /// Year of the paper.
    pub year: u16,
    /// Where it was published.
    pub paper: &'static str,
    /// Licence of the definition that it follows and of its published weights.
    pub licence: &'static str,
    /// Channels, height and width of the input it was made for.
    pub input: [usize; 3],
    /// The smallest height and width that it takes.
    pub min_size: usize,
    /// Classes of the published weights.
    pub num_classes: usize,
    /// What is done to an image before its published weights see it.
    pub preprocess: Preprocess,
    /// The published weights that torchvision calls its default, and their accuracy.
    pub published: Option<Published>,
    /// The last layer, by name: what a new set of classes replaces.
    pub classifier: &'static str,
    /// The first convolution, by name.
    pub first_conv: &'static str,
    /// The last layers of the auxiliary classifiers, by name.
    pub auxiliary: &'static [&'static str],
    /// The smallest height and width that those take, where they need more than the rest.
    pub min_aux_size: usize,
    /// Other names under which weights for this model are found.
    pub naming: &'static [Naming],
    pub(crate) build: Build,
    /// What it is made over, in the place of `build`.
    pub(crate) over: Option<Over>,
}

/// A head over a backbone of the zoo.
pub(crate) struct Over {
    /// The backbone.
    pub backbone: &'static Variant,
    /// What the backbone's tensors are called in the whole: `PREFIX.name`.
    pub prefix: &'static str,
    /// Makes the whole.
    pub build: fn(&'static Variant, &BuildOptions, &mut Init) -> Model,
}

impl std::fmt::Debug for Over {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Over({})", self.backbone.name)
    }
}

/// Makes a variant's model.
pub(crate) type Build = fn(&BuildOptions, &mut Init) -> Model;

/// What a model is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Task {
    /// One label an image.
    Classification,
    /// Boxes with labels.
    Detection,
    /// A label for every pixel.
    Segmentation,
}

/// Published weights and how good they are on ImageNet's validation images.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Published {
    /// The weights' name.
    pub weights: &'static str,
    /// Per cent of images whose first guess is right.
    pub top1: f32,
    /// Per cent of images whose first five guesses hold the right one.
    pub top5: Option<f32>,
}

impl Published {
    /// The first weights that torchvision published.
    pub(crate) const fn v1(top1: f32, top5: f32) -> Option<Self> {
        Self::named("IMAGENET1K_V1", top1, top5)
    }

    /// Weights of torchvision's newer training recipe.
    pub(crate) const fn v2(top1: f32, top5: f32) -> Option<Self> {
        Self::named("IMAGENET1K_V2", top1, top5)
    }

    pub(crate) const fn named(weights: &'static str, top1: f32, top5: f32) -> Option<Self> {
        Some(Self {
            weights,
            top1,
            top5: Some(top5),
        })
    }
}

/// What users choose when a model is made. A family without such a part ignores its option.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct BuildOptions {
    /// Classes to tell apart.
    pub num_classes: usize,
    /// What turns features into logits. (SqueezeNet, whose last layer works on maps, has its own
    /// only.)
    pub head: HeadKind,
    /// Probability of dropout in front of the classifier; the definition's own if `None`.
    pub dropout: Option<f64>,
    /// Largest probability of leaving a residual branch out; the definition's own if `None`.
    pub stochastic_depth: Option<f64>,
    /// Side of the image that position embeddings are laid out for; the definition's own if
    /// `None`.
    pub image_size: Option<usize>,
    /// Whether GoogLeNet and Inception have their auxiliary classifiers.
    pub aux_logits: bool,
    /// Whether GoogLeNet and Inception turn ImageNet's normalisation into their own.
    pub transform_input: bool,
    /// Whether a ResNet's residual branches start as zeros (Goyal et al., 2017, section 5.1).
    pub zero_init_residual: bool,
    /// Whether an EfficientNet pads as TensorFlow's `SAME` and has its batch norms' `eps`, as weights
    /// converted from TensorFlow want.
    pub tensorflow: bool,
    /// Widths and heights of an anchor detector's boxes in pixels of its input, a list a scale, from
    /// the finest to the coarsest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub anchors: Vec<Vec<[f32; 2]>>,
}

impl BuildOptions {
    /// The definition as it is, for `num_classes` classes.
    pub fn new(num_classes: usize) -> Self {
        Self {
            num_classes,
            head: HeadKind::Own,
            dropout: None,
            stochastic_depth: None,
            image_size: None,
            aux_logits: true,
            transform_input: false,
            zero_init_residual: false,
            tensorflow: false,
            anchors: Vec::new(),
        }
    }

    /// With these anchors.
    pub fn with_anchors(mut self, anchors: Vec<Vec<[f32; 2]>>) -> Self {
        self.anchors = anchors;
        self
    }

    /// With other last layers.
    pub fn with_head(mut self, head: HeadKind) -> Self {
        self.head = head;
        self
    }

    /// The last layers, `own` being the definition's.
    pub(crate) fn head(&self, own: LinearConfig, init: &mut Init) -> Head {
        Head::new(self.head, own, init)
    }

    /// Without dropout and stochastic depth.
    pub fn deterministic(mut self) -> Self {
        self.dropout = Some(0.0);
        self.stochastic_depth = Some(0.0);
        self
    }

    /// Lays position embeddings out for another image size.
    pub fn with_image_size(mut self, size: usize) -> Self {
        self.image_size = Some(size);
        self
    }

    /// With or without auxiliary classifiers.
    pub fn with_aux_logits(mut self, aux_logits: bool) -> Self {
        self.aux_logits = aux_logits;
        self
    }

    /// With or without the change of normalisation.
    pub fn with_transform_input(mut self, transform_input: bool) -> Self {
        self.transform_input = transform_input;
        self
    }

    /// As TensorFlow or as PyTorch pads and normalises.
    pub fn with_tensorflow(mut self, tensorflow: bool) -> Self {
        self.tensorflow = tensorflow;
        self
    }

    /// With or without residual branches that start as zeros.
    pub fn with_zero_init_residual(mut self, zero: bool) -> Self {
        self.zero_init_residual = zero;
        self
    }
}

impl Variant {
    /// A classifier with torchvision's usual data, for a family's table to start from.
    pub(crate) const fn imagenet(name: &'static str, build: Build) -> Variant {
        Variant {
            name,
            family: "",
            task: Task::Classification,
            year: 0,
            paper: "",
            licence: "BSD-3-Clause",
            input: [3, 224, 224],
            min_size: 32,
            num_classes: 1000,
            preprocess: Preprocess::imagenet(256, 224, Interpolation::Bilinear),
            published: None,
            classifier: "fc",
            first_conv: "conv1",
            auxiliary: &[],
            min_aux_size: 0,
            naming: &[],
            build,
            over: None,
        }
    }

    /// Makes the model for `num_classes` classes.
    pub fn build(&self, num_classes: usize, init: &mut Init) -> Model {
        self.build_with(&BuildOptions::new(num_classes), init)
    }

    /// Makes the model as told.
    pub fn build_with(&self, options: &BuildOptions, init: &mut Init) -> Model {
        match &self.over {
            Some(over) => (over.build)(over.backbone, options, init),
            None => (self.build)(options, init),
        }
    }

    /// The classifier whose stages it uses, where it is made over one.
    pub fn backbone(&self) -> Option<&'static Variant> {
        self.over.as_ref().map(|over| over.backbone)
    }
}

/// The guide's definitions that are those of another variant, names included.
const ALIASES: &[(&str, &str)] = &[
    ("guide_lenet5", "lenet5"),
    ("guide_vgg11_bn", "vgg11_bn"),
    ("guide_vgg13_bn", "vgg13_bn"),
    ("guide_vgg16_bn", "vgg16_bn"),
    ("guide_vgg19_bn", "vgg19_bn"),
    ("guide_resnet18", "resnet18"),
    ("guide_resnet34", "resnet34"),
    ("guide_resnet50", "resnet50"),
    ("guide_resnet101", "resnet101"),
    ("guide_resnet152", "resnet152"),
];

/// Every variant there is.
pub fn variants() -> impl Iterator<Item = &'static Variant> {
    FAMILIES.iter().copied().flatten()
}

/// The variant of that name.
pub fn variant(name: &str) -> Option<&'static Variant> {
    let alias = ALIASES.iter().find(|(alias, _)| *alias == name);
    let name = alias.map_or(name, |(_, name)| name);
    let everything = variants().chain(crate::composed());
    everything.into_iter().find(|v| v.name == name)
}

/// Names of variants that a mistyped name may have meant, nearest first.
pub fn near_names(name: &str) -> Vec<&'static str> {
    let mut near: Vec<_> = variants()
        .chain(crate::composed())
        .map(|v| (strsim::jaro_winkler(name, v.name), v.name))
        .filter(|(score, _)| *score > 0.75)
        .collect();
    near.sort_by(|a, b| b.0.total_cmp(&a.0));
    near.into_iter().take(3).map(|(_, name)| name).collect()
}
