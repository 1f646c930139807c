//! The report's text on masks and boxes.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::ReportSource;
use super::html::{confusion, escape, grouped, percent, section};
use crate::TrainError;
use crate::detect::DetectEvaluation;
use crate::segment::SegmentEvaluation;

/// What was found of masks.
pub(super) fn masks(
    source: &ReportSource<'_>,
    found: &SegmentEvaluation,
) -> Result<String, TrainError> {
    let rows = source.classes.iter().zip(found.scores());
    let rows = rows.map(|(class, score)| {
        let cells = [
            share(score.iou),
            share(score.dice),
            grouped(score.support as usize),
        ];
        row(class, &cells, score.iou)
    });
    let about = format!(
        "Mean IoU {}, mean Dice {}, pixels right {}.",
        percent(found.mean_iou()),
        percent(found.mean_dice()),
        percent(found.pixel_accuracy())
    );
    let shown = "Held-out pictures with the lowest share of right pixels: picture, mask as it is, mask as found.";
    Ok([
        table("Classes", &about, &["IoU", "Dice", "pixels"], rows),
        confusion(source, &found.confusion, "pixels"),
        examples(source, "Worst", shown)?,
    ]
    .concat())
}

/// What was found of boxes.
pub(super) fn boxes(
    source: &ReportSource<'_>,
    found: &DetectEvaluation,
) -> Result<String, TrainError> {
    let precision = &found.precision;
    let rows = source.classes.iter().zip(&precision.classes);
    let rows = rows.zip(&precision.support).map(|((class, ap), support)| {
        let mean = ap.map(|ap| ap.iter().sum::<f64>() / ap.len() as f64);
        let first = ap.map(|ap| ap[0]);
        let cells = [share(first), share(mean), grouped(*support)];
        row(class, &cells, first)
    });
    let about = format!(
        "Mean average precision: {} at an overlap of 0.5, {} at 0.75, {} over 0.5 to 0.95.",
        percent(precision.at_50()),
        percent(precision.at_75()),
        percent(precision.over_all())
    );
    let header = ["AP at 0.5", "AP", "boxes"];
    let shown = "Held-out pictures: boxes as they are, boxes as found.";
    Ok([
        table("Classes", &about, &header, rows),
        examples(source, "Examples", shown)?,
    ]
    .concat())
}

fn share(value: Option<f64>) -> String {
    value.map_or("none".into(), percent)
}

fn row(class: &str, cells: &[String], bar: Option<f64>) -> String {
    let cells: String = cells
        .iter()
        .map(|c| format!("<td class=n>{c}</td>"))
        .collect();
    format!(
        "<tr><td>{}</td>{cells}<td class=bar><i style=\"width:{:.1}%\"></i></td></tr>\n",
        escape(class),
        bar.unwrap_or(0.0) * 100.0
    )
}

fn table(title: &str, about: &str, header: &[&str], rows: impl Iterator<Item = String>) -> String {
    let head: String = header
        .iter()
        .map(|h| format!("<th class=n>{h}</th>"))
        .collect();
    let rows: String = rows.collect();
    let table = format!(
        "<div class=scroll><table><tr><th>class</th>{head}<th></th></tr>\n{rows}</table></div>"
    );
    section(title, about, &table)
}

fn examples(source: &ReportSource<'_>, title: &str, about: &str) -> Result<String, TrainError> {
    let mut figures = String::new();
    for (text, image) in &source.examples {
        let data = BASE64_STANDARD.encode(image.to_png()?);
        figures += &format!(
            "<figure><img style=\"aspect-ratio:auto\" src=\"data:image/png;base64,{data}\" alt=\"\">\
             <figcaption>{}</figcaption></figure>\n",
            escape(text)
        );
    }
    let grid = "style=\"grid-template-columns:repeat(auto-fill,minmax(320px,1fr))\"";
    Ok(section(
        title,
        about,
        &format!("<div class=pictures {grid}>\n{figures}</div>"),
    ))
}
