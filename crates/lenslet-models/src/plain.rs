//! Networks that are one sequence of layers, a pool and a classifier.

use burn::module::Module;
use burn::tensor::Tensor;
use lenslet_nn::tap::tap;
use lenslet_nn::{AdaptiveAvgPool2d, Sequential, flatten, forward_head, forward_range, to_nhwc};

use crate::model::{ImageModel, Stage, Taken};

/// `features`, an average pool to a fixed size, `classifier`: LeNet, AlexNet, VGG, the MobileNets
/// and EfficientNet.
#[derive(Module, Debug)]
pub struct SequentialNet {
    features: Sequential,
    classifier: Sequential,
    #[module(skip)]
    pool: Option<usize>,
    #[module(skip)]
    stages: Vec<(usize, Stage)>,
}

impl SequentialNet {
    /// A network that pools to `pool` rows and columns, if at all. A stage `(channels, stride)`
    /// ends after the layer at its position in `features`.
    pub(crate) fn new(
        features: Sequential,
        pool: Option<usize>,
        classifier: Sequential,
        stages: impl IntoIterator<Item = (usize, usize, usize)>,
    ) -> Self {
        let stages = stages.into_iter().map(|(last, channels, stride)| {
            let name = format!("features.{last}");
            (last + 1, Stage::new(name, channels, stride))
        });
        Self {
            features,
            classifier,
            pool,
            stages: stages.collect(),
        }
    }

    fn features(&self, x: Tensor<4>, taken: &mut Taken) -> Tensor<4> {
        tap("features", || {
            let mut start = 0;
            let mut x = to_nhwc(x);
            for (end, _) in &self.stages {
                x = forward_range(&self.features, start..*end, x);
                taken.offer(&x);
                start = *end;
            }
            forward_range(&self.features, start..self.features.len(), x)
        })
    }

    fn last(&self) -> usize {
        self.classifier.len() - 1
    }
}

impl ImageModel for SequentialNet {
    fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        let x = self.embed(x);
        let last = self.last();
        tap("classifier", || {
            forward_head(&self.classifier, last..last + 1, x)
        })
    }

    fn stages(&self, x: Tensor<4>) -> Vec<Tensor<4>> {
        Taken::from(|taken| self.features(x, taken))
    }

    fn stage_info(&self) -> Vec<Stage> {
        self.stages.iter().map(|(_, stage)| stage.clone()).collect()
    }

    fn embed(&self, x: Tensor<4>) -> Tensor<2> {
        let x = self.features(x, &mut Taken::none());
        let x = match self.pool {
            Some(size) => tap("avgpool", || AdaptiveAvgPool2d::new(size).forward(x)),
            None => x,
        };
        tap("classifier", || {
            forward_head(&self.classifier, 0..self.last(), flatten(x))
        })
    }

    fn classify(&self, features: Tensor<2>) -> Option<Tensor<2>> {
        Some(tap("classifier", || {
            let last = self.last();
            forward_head(&self.classifier, last..last + 1, features)
        }))
    }
}

/// `channels` as a multiple of `divisor`, at least `divisor` and never more than a tenth lower
/// (MobileNetV2's official code, `_make_divisible`).
pub(crate) fn make_divisible(channels: f64, divisor: usize) -> usize {
    let rounded = ((channels + divisor as f64 / 2.0) as usize / divisor * divisor).max(divisor);
    if (rounded as f64) < 0.9 * channels {
        rounded + divisor
    } else {
        rounded
    }
}
