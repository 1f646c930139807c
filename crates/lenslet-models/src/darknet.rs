//! A small backbone for detectors and U-Nets, after Tiny YOLO.
//!
//! J. Redmon, A. Farhadi, *YOLO9000: Better, Faster, Stronger*, CVPR 2017, section 3 (batch
//! normalisation, 3x3 convolutions that double their channels after every pool), as the Darknet
//! framework's tiny configuration has it (public domain); here it ends at a stride of 16.

use lenslet_nn::{
    Activation, BatchNorm2dConfig, Conv2dConfig, Init, LinearConfig, MaxPool2d, Sequential,
    WeightInit,
};

use crate::plain::SequentialNet;
use crate::{BuildOptions, Variant};

/// Darknet's activation.
pub(crate) const LEAKY: Activation = Activation::LeakyRelu { slope: 0.1 };

/// Convolutions of each stage: channels.
const STAGES: [&[usize]; 4] = [&[16], &[32], &[64], &[128, 128]];
/// Convolutions behind the last pool.
const LAST: [usize; 2] = [256, 256];

/// Makes the network.
fn init(options: &BuildOptions, init: &mut Init) -> SequentialNet {
    let mut features = Sequential::new();
    let mut from = 3;
    let mut conv = |features: &mut Sequential, to: usize| {
        let conv = Conv2dConfig::new(from, to, 3)
            .with_padding(1)
            .with_bias(false)
            .with_init(WeightInit::KaimingNormalFanOut);
        features.push(conv.init(init).into());
        features.push(BatchNorm2dConfig::new(to).init(init).into());
        features.push(LEAKY.into());
        from = to;
    };
    let mut stages = Vec::new();
    let mut stride = 1;
    for widths in STAGES {
        widths.iter().for_each(|&to| conv(&mut features, to));
        // The map in front of the pool: the finest of its width.
        if stride > 1 {
            stages.push((features.len() - 1, widths[widths.len() - 1], stride));
        }
        features.push(MaxPool2d::new(2, 2).into());
        stride *= 2;
    }
    LAST.iter().for_each(|&to| conv(&mut features, to));
    stages.push((features.len() - 1, LAST[1], stride));
    let linear = LinearConfig::new(LAST[1], options.num_classes);
    let classifier = vec![options.head(linear, init).into()];
    SequentialNet::new(features, Some(1), classifier, stages)
}

/// The backbone that `unet`, `yolo` and `grid` have.
pub(crate) static TINY: Variant = Variant {
    family: "Darknet",
    year: 2016,
    paper: "Redmon and Farhadi, YOLO9000: Better, Faster, Stronger",
    licence: "MIT OR Apache-2.0",
    classifier: "classifier.0",
    first_conv: "features.0",
    ..Variant::imagenet("darknet_tiny", |o: &BuildOptions, i| init(o, i).into())
};
