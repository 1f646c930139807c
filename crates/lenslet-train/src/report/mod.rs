//! A run's report: one HTML file with everything in it.

mod html;
mod style;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use lenslet_data::transform::resize;
use lenslet_data::{Dataset, Interpolation, Preprocess, Resize};

use crate::history::curves_svg;
use crate::run::RunDir;
use crate::{Judged, PartSize, RunConfig, Summary, TrainError};
use html::{Shown, page};

/// Side of the pictures in a report.
const SIDE: usize = 144;
/// Pictures of each kind.
const PICTURES: usize = 12;

/// What a report is made from.
pub struct ReportSource<'a> {
    /// The run's configuration.
    pub config: &'a RunConfig,
    /// How it ended.
    pub summary: &'a Summary,
    /// The classes in order.
    pub classes: &'a [String],
    /// How much of each part trained.
    pub parts: &'a [PartSize],
    /// Pictures trained on.
    pub trained_on: usize,
    /// The held-out pictures.
    pub val: &'a dyn Dataset,
    /// How the model sees them.
    pub preprocess: &'a Preprocess,
}

/// Writes `report.html` into the run's folder. It needs nothing else: no server, no network, no
/// other file.
///
/// # Errors
/// When it cannot be drawn or written.
pub fn write_report(run: &RunDir, source: &ReportSource<'_>) -> Result<(), TrainError> {
    let path = run.file("report.html");
    let title = format!("{} on {}", source.config.train.model, source.config.data);
    let curves = curves_svg(&path, "", &source.summary.history)?;
    let evaluation = &source.summary.evaluation;
    let wrong = source.pictures(&evaluation.most_wrong);
    let uncertain = source.pictures(&evaluation.most_uncertain);
    let text = page(source, &title, &curves, &wrong, &uncertain);
    crate::write_atomic(&path, text.as_bytes())
}

impl ReportSource<'_> {
    /// The first of these pictures as the model sees them. One that cannot be read any more is left
    /// out.
    fn pictures<'j>(&self, judged: &'j [Judged]) -> Vec<Shown<'j>> {
        let shown = judged.iter().filter_map(|judged| {
            let png = self.thumbnail(judged.index)?;
            Some(Shown {
                judged,
                name: self.val.id(judged.index),
                source: format!("data:image/png;base64,{}", BASE64_STANDARD.encode(png)),
            })
        });
        shown.take(PICTURES).collect()
    }

    fn thumbnail(&self, index: usize) -> Option<Vec<u8>> {
        let image = self.val.get(index).ok()?.image;
        let seen = self.preprocess.pixels(image, None).ok()?;
        let (width, height) = (seen.width(), seen.height());
        let small = if width.min(height) > SIDE {
            let (width, height) = Resize::ShortSide(SIDE).target(width, height);
            resize(seen, width, height, Interpolation::Bilinear).ok()?
        } else {
            seen
        };
        small.to_png().ok()
    }
}
