//! Settings that make no sense.

use super::TrainConfig;
use crate::TrainError;
use lenslet_models::Task;

/// What a setting must be, and whether it is.
struct Rule {
    setting: &'static str,
    found: String,
    holds: bool,
    expected: &'static str,
}

fn rule(setting: &'static str, found: impl ToString, holds: bool, expected: &'static str) -> Rule {
    Rule {
        setting,
        found: found.to_string(),
        holds,
        expected,
    }
}

const COUNT: &str = "it must be at least 1";
const SHARE: &str = "it must be from 0 to 1";
const BELOW_ONE: &str = "it must be at least 0 and below 1";
const ALPHA: &str = "it must be from 0 (none) to 1000";

impl TrainConfig {
    /// Checks every setting.
    ///
    /// # Errors
    /// [`TrainError::Setting`] names the first that makes no sense, [`TrainError::UnknownModel`]
    /// a model that is not there.
    pub fn validate(&self) -> Result<(), TrainError> {
        self.check_input_size()?;
        let positive = |v: f64| v.is_finite() && v > 0.0;
        let share = |v: f64| (0.0..=1.0).contains(&v);
        let below_one = |v: f64| (0.0..1.0).contains(&v);
        let alpha = |v: f32| (0.0..=1e3).contains(&v);
        let text = |v: Option<f64>| v.map_or("none".into(), |v| v.to_string());
        let rules = [
            rule("--epochs", self.epochs, self.epochs >= 1, COUNT),
            rule("--batch-size", self.batch_size, self.batch_size >= 1, COUNT),
            rule("--accumulate", self.accumulate, self.accumulate >= 1, COUNT),
            rule(
                "--lr",
                self.lr,
                positive(self.lr),
                "it must be a number above 0",
            ),
            rule(
                "--backbone-lr-mult",
                self.backbone_lr_mult,
                share(self.backbone_lr_mult),
                SHARE,
            ),
            rule(
                "--layer-decay",
                self.layer_decay,
                share(self.layer_decay) && self.layer_decay > 0.0,
                "it must be above 0 and at most 1",
            ),
            rule(
                "--weight-decay",
                self.weight_decay,
                self.weight_decay.is_finite() && self.weight_decay >= 0.0,
                "it must be a number of at least 0",
            ),
            rule(
                "--clip-grad-norm",
                text(self.clip_grad_norm),
                self.clip_grad_norm.is_none_or(positive),
                "it must be above 0, or 0 for no clipping",
            ),
            rule(
                "--momentum",
                self.momentum,
                below_one(self.momentum),
                BELOW_ONE,
            ),
            rule(
                "--head-epochs",
                self.head_epochs,
                self.head_epochs < self.epochs.max(1),
                "it must be less than --epochs",
            ),
            rule(
                "--warmup-epochs",
                self.warmup_epochs,
                self.warmup_epochs < self.epochs.saturating_sub(self.head_epochs).max(1),
                "it must be less than --epochs, and less than what --head-epochs leaves of them",
            ),
            rule(
                "--label-smoothing",
                self.label_smoothing,
                below_one(self.label_smoothing),
                BELOW_ONE,
            ),
            rule(
                "--ema",
                text(self.ema),
                self.ema.is_none_or(|v| v > 0.0 && below_one(v)),
                "it must be above 0 and below 1, such as 0.99",
            ),
            rule(
                "--early-stopping",
                self.early_stopping.unwrap_or(1),
                self.early_stopping != Some(0),
                COUNT,
            ),
            rule(
                "--random-erasing",
                self.random_erasing,
                share(self.random_erasing.into()),
                SHARE,
            ),
            rule(
                "--scale",
                format!("{},{}", self.scale[0], self.scale[1]),
                self.scale[0] >= 0.1 && self.scale[0] <= self.scale[1] && self.scale[1] <= 10.0,
                "it must be two rising factors from 0.1 to 10, such as 0.75,1.33",
            ),
            rule("--hflip", self.hflip, share(self.hflip.into()), SHARE),
            rule(
                "--scales",
                self.scales,
                (1..=3).contains(&self.scales),
                "it must be from 1 to 3",
            ),
            rule(
                "--anchors",
                self.anchors,
                (1..=9).contains(&self.anchors),
                "it must be from 1 to 9",
            ),
            rule("--mixup", self.mixup, alpha(self.mixup), ALPHA),
            rule("--cutmix", self.cutmix, alpha(self.cutmix), ALPHA),
            rule(
                "--max-unreadable",
                self.max_unreadable,
                share(self.max_unreadable),
                SHARE,
            ),
        ];
        match rules.into_iter().find(|rule| !rule.holds) {
            Some(Rule {
                setting,
                found,
                expected,
                ..
            }) => Err(TrainError::Setting {
                setting,
                found,
                expected,
            }),
            None => Ok(()),
        }
    }

    fn check_input_size(&self) -> Result<(), TrainError> {
        let variant = self.variant()?;
        let Some(size) = self.input_size else {
            return Ok(());
        };
        let refuse = |expected| {
            Err(TrainError::Setting {
                setting: "--input-size",
                found: format!("{size} for {}", variant.name),
                expected,
            })
        };
        if self.task != Task::Classification && !(32..=1024).contains(&size) {
            return refuse(
                "it must be from 32 to 1024: larger pictures are taken in tiles, or reduced",
            );
        }
        if self.task == Task::Classification && variant.input[0] == 1 && size != variant.input[1] {
            return refuse("it must be 32, the only size that this model takes");
        }
        if size < variant.min_size || size > 4096 {
            return refuse("it must be at least the model's smallest input and at most 4096");
        }
        // A Vision Transformer cuts the picture into patches without a rest.
        let backbone = variant.backbone().unwrap_or(variant);
        let patch = match (backbone.family, backbone.name) {
            ("ViT", name) if name.ends_with("32") => 32,
            ("ViT", name) if name.ends_with("14") => 14,
            ("ViT", _) => 16,
            _ => 1,
        };
        if !size.is_multiple_of(patch) {
            return refuse("it must be a multiple of the model's patches");
        }
        Ok(())
    }
}
