//! Segmentation models and detectors: one of each kind over a small backbone and over every classifier
//! of the zoo (`unet_resnet18`, `yolo_resnet18`, `grid_resnet18`).

use std::sync::OnceLock;

use lenslet_data::{Channels, Interpolation, PerChannel, Preprocess, Resize};
use lenslet_nn::Init;

use crate::darknet::TINY;
use crate::detector::{AnchorDetector, GridDetector};
use crate::registry::{Over, variants};
use crate::unet_over::UNetOver;
use crate::{BuildOptions, Model, Task, Variant};

/// Side of the inputs, where neither the user nor the data say another.
const SIDE: usize = 128;

/// The variants that are made of a backbone and a head for another task.
pub fn composed() -> &'static [Variant] {
    static ALL: OnceLock<Vec<Variant>> = OnceLock::new();
    ALL.get_or_init(|| {
        let mut all = vec![
            over("unet".into(), &TINY, UNET),
            over("yolo".into(), &TINY, ANCHORS),
            over("grid".into(), &TINY, GRID),
        ];
        for backbone in variants().filter(|v| fits(v)) {
            let name = |kind: &str| format!("{kind}_{}", backbone.name);
            all.push(over(name("unet"), backbone, UNET));
            all.push(over(name("yolo"), backbone, ANCHORS));
            all.push(over(name("grid"), backbone, GRID));
        }
        all
    })
}

/// Whether the variant's stages can be used: a classifier of pictures in colour.
fn fits(variant: &Variant) -> bool {
    variant.task == Task::Classification && variant.input[0] == 3
}

/// A kind of head.
struct Kind {
    family: &'static str,
    task: Task,
    year: u16,
    paper: &'static str,
    build: fn(&'static Variant, &BuildOptions, &mut Init) -> Model,
}

const UNET: Kind = Kind {
    family: "U-Net",
    task: Task::Segmentation,
    year: 2015,
    paper: "Ronneberger et al., U-Net: Convolutional Networks for Biomedical Image Segmentation",
    build: |backbone, options, init| UNetOver::new(backbone, options, init).into(),
};

const ANCHORS: Kind = Kind {
    family: "YOLOv3",
    task: Task::Detection,
    year: 2018,
    paper: "Redmon and Farhadi, YOLOv3: An Incremental Improvement",
    build: |backbone, options, init| AnchorDetector::new(backbone, options, init).into(),
};

const GRID: Kind = Kind {
    family: "YOLOv1",
    task: Task::Detection,
    year: 2015,
    paper: "Redmon et al., You Only Look Once: Unified, Real-Time Object Detection",
    build: |backbone, options, init| GridDetector::new(backbone, options, init).into(),
};

fn preprocess(task: Task, usual: Preprocess) -> Preprocess {
    Preprocess {
        resize: match task {
            Task::Detection => Resize::Letterbox([SIDE; 2]),
            _ => Resize::Keep,
        },
        interpolation: Interpolation::Bilinear,
        crop: [SIDE; 2],
        ..usual
    }
}

/// Names live as long as the program; they are made once.
fn named(name: String) -> &'static str {
    Box::leak(name.into_boxed_str())
}

fn over(name: String, backbone: &'static Variant, kind: Kind) -> Variant {
    let prefix = match kind.task {
        Task::Segmentation => "encoder",
        _ => "backbone",
    };
    Variant {
        family: kind.family,
        task: kind.task,
        year: kind.year,
        paper: kind.paper,
        licence: backbone.licence,
        input: [3, SIDE, SIDE],
        min_size: backbone.min_size.max(32),
        num_classes: 1,
        preprocess: preprocess(kind.task, backbone.preprocess),
        classifier: "head",
        first_conv: named(format!("{prefix}.{}", backbone.first_conv)),
        over: Some(Over {
            backbone,
            prefix,
            build: kind.build,
        }),
        // Never called: what stands in `over` builds.
        ..Variant::imagenet(named(name), TINY.build)
    }
}

/// What a picture becomes for a model that takes one channel and has no preprocessing of its own.
pub fn grey(side: usize) -> Preprocess {
    Preprocess {
        channels: Channels::Grey,
        resize: Resize::Keep,
        interpolation: Interpolation::Bilinear,
        crop: [side; 2],
        mean: PerChannel::Grey([0.5]),
        std: PerChannel::Grey([0.25]),
    }
}
