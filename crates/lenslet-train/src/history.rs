//! The course of a run: records, CSV and curves.

use std::collections::BTreeMap;
use std::path::Path;

use plotters::prelude::*;
use serde::{Deserialize, Serialize};

use crate::TrainError;

/// One epoch. This is also the JSON object that `train --json` prints for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EpochRecord {
    /// From 1.
    pub epoch: usize,
    /// Mean cross entropy of the training batches while they were trained on.
    pub train_loss: f64,
    /// Share of training samples that were right while they were trained on; of their pixels where
    /// masks are learnt, 0 where boxes are.
    pub train_acc: f64,
    /// Mean cross entropy on the held-out data.
    pub val_loss: f64,
    /// What the best epoch is chosen by: the share of held-out samples that were right; where masks are
    /// learnt the mean IoU, where boxes are the mean average precision at an overlap of 0.5.
    pub val_acc: f64,
    /// Other measures of the held-out data by name, where the task has such.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub measures: BTreeMap<String, f64>,
    /// Learning rates used.
    pub lr: GroupRates,
    /// Training samples a second, without the validation.
    pub images_per_s: f64,
    /// Duration, validation included.
    pub seconds: f64,
}

impl EpochRecord {
    /// What people call [`EpochRecord::val_acc`].
    pub fn chief(&self) -> &'static str {
        if self.measures.contains_key("miou") {
            "mean IoU"
        } else if self.measures.contains_key("map50") {
            "mAP@0.5"
        } else {
            "accuracy"
        }
    }

    /// Whether this epoch's model is the one to keep of the two: more held-out pictures right, or as
    /// many with a lower loss.
    pub fn is_better_than(&self, other: &Self) -> bool {
        let equal = self.val_acc == other.val_acc;
        self.val_acc > other.val_acc || (equal && self.val_loss < other.val_loss)
    }
}

/// A rate for each group of parameters.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct GroupRates {
    /// The classifier.
    pub head: f64,
    /// Everything else.
    pub backbone: f64,
}

/// The history as CSV with a header.
pub fn history_csv(history: &[EpochRecord]) -> String {
    let mut text = String::from(
        "epoch,train_loss,train_acc,val_loss,val_acc,lr_head,lr_backbone,images_per_s,seconds",
    );
    let names = history.first().map(|r| r.measures.keys());
    names.into_iter().flatten().for_each(|name| {
        text.push(',');
        text += name;
    });
    text.push('\n');
    for r in history {
        text += &format!(
            "{},{},{},{},{},{},{},{:.1},{:.3}",
            r.epoch,
            r.train_loss,
            r.train_acc,
            r.val_loss,
            r.val_acc,
            r.lr.head,
            r.lr.backbone,
            r.images_per_s,
            r.seconds
        );
        for value in r.measures.values() {
            text += &format!(",{value}");
        }
        text.push('\n');
    }
    text
}

/// Okabe and Ito's blue and orange: told apart with every kind of colour vision.
const TRAIN: RGBColor = RGBColor(0, 114, 178);
const VAL: RGBColor = RGBColor(230, 159, 0);

/// Draws loss and accuracy over the epochs as SVG, under a title if there is one.
///
/// # Errors
/// When the drawing library fails.
pub fn curves_svg(path: &Path, title: &str, history: &[EpochRecord]) -> Result<String, TrainError> {
    let mut svg = String::new();
    draw(&mut svg, title, history).map_err(|e| TrainError::Draw {
        path: path.to_path_buf(),
        reason: e.to_string(),
    })?;
    Ok(svg)
}

fn draw(
    svg: &mut String,
    title: &str,
    history: &[EpochRecord],
) -> Result<(), Box<dyn std::error::Error>> {
    let root = SVGBackend::with_string(svg, (960, 400)).into_drawing_area();
    root.fill(&WHITE)?;
    let root = match title {
        "" => root,
        title => root.titled(title, ("sans-serif", 18))?,
    };
    let panels = root.split_evenly((1, 2));
    let percent = |v: f64| v * 100.0;
    let losses: Vec<_> = history.iter().map(|r| (r.train_loss, r.val_loss)).collect();
    let accuracies: Vec<_> = history
        .iter()
        .map(|r| {
            let val = percent(r.val_acc);
            // While they are trained on, only classes are judged by the measure that is drawn.
            let alike = r.measures.is_empty();
            (if alike { percent(r.train_acc) } else { val }, val)
        })
        .collect();
    panel(&panels[0], "loss", &losses, true)?;
    let chief = history.first().map_or("accuracy", EpochRecord::chief);
    panel(&panels[1], &format!("{chief}, %"), &accuracies, false)?;
    root.present()?;
    Ok(())
}

/// One chart of training and validation values by epoch; `from_zero` keeps 0 in sight.
fn panel(
    area: &DrawingArea<SVGBackend, plotters::coord::Shift>,
    label: &str,
    values: &[(f64, f64)],
    from_zero: bool,
) -> Result<(), Box<dyn std::error::Error>> {
    let all = || values.iter().flat_map(|v| [v.0, v.1]);
    let low = all().fold(f64::INFINITY, f64::min);
    let high = all().fold(f64::NEG_INFINITY, f64::max);
    let low = if from_zero { 0.0 } else { low };
    let margin = ((high - low) * 0.05).max(1e-3);
    let bottom = if from_zero { 0.0 } else { low - margin };
    let last = values.len().max(2);
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(52)
        .build_cartesian_2d(1..last, bottom..high + margin)?;
    chart
        .configure_mesh()
        .x_desc("epoch")
        .y_desc(label)
        .x_labels(10)
        .y_labels(8)
        .light_line_style(WHITE)
        .bold_line_style(BLACK.mix(0.12))
        .label_style(("sans-serif", 13))
        .draw()?;
    for (name, color, pick) in [("training", TRAIN, 0usize), ("validation", VAL, 1)] {
        let points = values
            .iter()
            .enumerate()
            .map(|(i, v)| (i + 1, if pick == 0 { v.0 } else { v.1 }));
        chart
            .draw_series(LineSeries::new(points, color.stroke_width(2)))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(3)));
    }
    let corner = if from_zero {
        SeriesLabelPosition::UpperRight
    } else {
        SeriesLabelPosition::LowerRight
    };
    chart
        .configure_series_labels()
        .position(corner)
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.2))
        .label_font(("sans-serif", 13))
        .draw()?;
    Ok(())
}

/// Learning rates and losses as CSV with a header.
pub(crate) fn rates_csv(points: &[(f64, f64)]) -> String {
    let lines = points.iter().map(|(lr, loss)| format!("{lr},{loss}\n"));
    std::iter::once("lr,loss\n".to_string())
        .chain(lines)
        .collect()
}

/// Draws losses over the logarithm of the learning rate as SVG, with a mark at `suggestion`.
///
/// # Errors
/// When the drawing library fails.
pub(crate) fn losses_by_rate_svg(
    path: &Path,
    points: &[(f64, f64)],
    suggestion: Option<f64>,
) -> Result<String, TrainError> {
    let mut svg = String::new();
    draw_rates(&mut svg, points, suggestion).map_err(|e| TrainError::Draw {
        path: path.to_path_buf(),
        reason: e.to_string(),
    })?;
    Ok(svg)
}

fn draw_rates(
    svg: &mut String,
    points: &[(f64, f64)],
    suggestion: Option<f64>,
) -> Result<(), Box<dyn std::error::Error>> {
    let root = SVGBackend::with_string(svg, (720, 400)).into_drawing_area();
    root.fill(&WHITE)?;
    let low = points.iter().map(|p| p.1).fold(f64::INFINITY, f64::min);
    let high = points.iter().map(|p| p.1).fold(f64::NEG_INFINITY, f64::max);
    let (low, high) = if low < high { (low, high) } else { (0.0, 1.0) };
    let margin = (high - low) * 0.05;
    let first = points.first().map_or(1e-6, |p| p.0);
    let last = points.last().map_or(1.0, |p| p.0).max(first * 10.0);
    let mut chart = ChartBuilder::on(&root)
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(52)
        .build_cartesian_2d((first..last).log_scale(), low - margin..high + margin)?;
    chart
        .configure_mesh()
        .x_desc("learning rate of the classifier")
        .y_desc("loss, smoothed")
        .x_label_formatter(&|v| format!("{v:.0e}"))
        .light_line_style(WHITE)
        .bold_line_style(BLACK.mix(0.12))
        .label_style(("sans-serif", 13))
        .draw()?;
    let line = LineSeries::new(points.iter().copied(), TRAIN.stroke_width(2));
    chart.draw_series(line)?;
    if let Some(lr) = suggestion {
        let mark = [(lr, low - margin), (lr, high + margin)];
        chart.draw_series(LineSeries::new(mark, VAL.stroke_width(2)))?;
    }
    root.present()?;
    Ok(())
}
