//! `lenslet draw`

use anyhow::{Context, Result};
use lenslet_graph::DrawOptions;
use lenslet_train::TrainError;
use serde_json::json;

use super::structure::Blueprint;
use crate::Ended;
use crate::cli::{Common, DrawArgs, DrawFormat};
use crate::report::{self, grouped};

pub fn run(args: &DrawArgs, common: &Common) -> Result<Ended> {
    let ending = args.output.extension().and_then(|ending| ending.to_str());
    let format = match (args.format, ending) {
        (Some(format), _) => format,
        (None, Some("svg")) => DrawFormat::Svg,
        (None, Some("png")) => DrawFormat::Png,
        (None, Some("dot" | "gv")) => DrawFormat::Dot,
        (None, _) => {
            return Err(TrainError::Setting {
                setting: "--output",
                found: args.output.display().to_string(),
                expected: "it must end in .svg, .png or .dot, or --format must say what is written",
            }
            .into());
        }
    };
    let blueprint = Blueprint::of(&args.structure)?;
    let graph = blueprint.graph(1)?;
    let [c, h, w] = blueprint.input;
    let options = DrawOptions {
        title: format!(
            "{} · {c}×{h}×{w} · {} parameters",
            blueprint.variant.name,
            grouped(blueprint.params())
        ),
        depth: args.depth,
    };
    let bytes = match format {
        DrawFormat::Svg => graph.to_scene(&options).to_svg().into_bytes(),
        DrawFormat::Png => graph.to_scene(&options).to_png(1.5),
        DrawFormat::Dot => graph.to_dot(&options).into_bytes(),
    };
    let path = args.output.display();
    lenslet_weights::write_atomic(&args.output, &bytes)
        .with_context(|| format!("{path}: cannot be written"))?;
    if common.json {
        report::print_json(&json!({ "output": args.output }))?;
    } else {
        report::print(path)?;
    }
    Ok(Ended::Done)
}
