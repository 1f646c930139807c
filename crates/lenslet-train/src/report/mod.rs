//! A run's report: one HTML file with everything in it.

mod html;
mod style;
mod vision;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use lenslet_data::transform::resize;
use lenslet_data::{Dataset, Image, Interpolation, Preprocess, Resize};

use crate::history::curves_svg;
use crate::run::RunDir;
use crate::{Judged, Measured, PartSize, RunConfig, Summary, TrainError};
use html::{Shown, classified, page};

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
    /// Pictures held out.
    pub held_out: usize,
    /// The held-out pictures, where they have a class each.
    pub val: &'a dyn Dataset,
    /// How the model sees them.
    pub preprocess: &'a Preprocess,
    /// Held-out pictures with masks or boxes as they are and as they were found, with captions.
    pub examples: Vec<(String, Image)>,
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
    let findings = match &source.summary.evaluation {
        Measured::Classes(found) => {
            let wrong = source.pictures(&found.most_wrong);
            let uncertain = source.pictures(&found.most_uncertain);
            classified(source, found, &wrong, &uncertain)
        }
        Measured::Masks(found) => vision::masks(source, found)?,
        Measured::Boxes(found) => vision::boxes(source, found)?,
    };
    let text = page(source, &title, &curves, &findings);
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
