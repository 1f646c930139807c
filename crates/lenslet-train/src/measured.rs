//! What a measurement of any task found.

use std::collections::BTreeMap;

use crate::detect::DetectEvaluation;
use crate::segment::SegmentEvaluation;
use crate::{Evaluation, SkippedFile};

/// A model on labelled data.
#[derive(Debug, Clone, PartialEq)]
pub enum Measured {
    /// Pictures of a class each.
    Classes(Evaluation),
    /// Pictures with masks.
    Masks(SegmentEvaluation),
    /// Pictures with boxes.
    Boxes(DetectEvaluation),
}

impl Measured {
    /// The mean loss.
    pub fn loss(&self) -> f64 {
        match self {
            Self::Classes(e) => e.loss,
            Self::Masks(e) => e.loss,
            Self::Boxes(e) => e.loss,
        }
    }

    /// What says which of two models is the better one: accuracy, mean IoU, or mean average precision
    /// at an overlap of 0.5.
    pub fn chief(&self) -> f64 {
        match self {
            Self::Classes(e) => e.top1,
            Self::Masks(e) => e.mean_iou(),
            Self::Boxes(e) => e.precision.at_50(),
        }
    }

    /// Other measures by name, where the task has such.
    pub fn measures(&self) -> BTreeMap<String, f64> {
        let named: &[(&str, f64)] = match self {
            Self::Classes(_) => &[],
            Self::Masks(e) => &[
                ("miou", e.mean_iou()),
                ("mdice", e.mean_dice()),
                ("pixel_accuracy", e.pixel_accuracy()),
            ],
            Self::Boxes(e) => &[
                ("map50", e.precision.at_50()),
                ("map75", e.precision.at_75()),
                ("map", e.precision.over_all()),
            ],
        };
        named.iter().map(|(n, v)| (n.to_string(), *v)).collect()
    }

    /// Pictures that could not be read.
    pub fn skipped(&self) -> &[SkippedFile] {
        match self {
            Self::Classes(e) => &e.skipped,
            Self::Masks(e) => &e.skipped,
            Self::Boxes(e) => &e.skipped,
        }
    }
}
