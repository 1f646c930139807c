//! `lenslet data scenes`

use anyhow::Result;
use lenslet_data::scenes::{self, BoxFormat, MaskKind, SceneKind, SceneOptions};
use lenslet_train::TrainError;
use serde_json::json;

use crate::Ended;
use crate::cli::{BoxArg, Common, MaskArg, SceneTask, ScenesArgs};
use crate::report::{self, grouped, shell};

pub fn run(args: &ScenesArgs, common: &Common) -> Result<Ended> {
    let kind = match args.task {
        SceneTask::Segment => SceneKind::Segment(match args.masks {
            MaskArg::Palette => MaskKind::Palette,
            MaskArg::Index => MaskKind::Index,
            MaskArg::Colour => MaskKind::Colour,
        }),
        SceneTask::Detect => SceneKind::Detect(match args.boxes {
            BoxArg::Coco => BoxFormat::Coco,
            BoxArg::Voc => BoxFormat::Voc,
            BoxArg::Yolo => BoxFormat::Yolo,
        }),
    };
    let options = SceneOptions {
        kind,
        images: args.images,
        size: args.size,
        seed: args.seed,
    };
    let written = scenes::write(&args.dir, &options).map_err(TrainError::from)?;
    if common.json {
        report::print_json(&json!({
            "dir": args.dir, "train": written.train, "val": written.val, "digits": written.digits,
        }))?;
        return Ok(Ended::Done);
    }
    report::print(format!(
        "{}: {} pictures to train on, {} held out, {} digits",
        args.dir.display(),
        grouped(written.train as u64),
        grouped(written.val as u64),
        grouped(written.digits as u64),
    ))?;
    let task = match args.task {
        SceneTask::Segment => "segment",
        SceneTask::Detect => "detect",
    };
    report::print(format!(
        "\nNext, train on them:\n\n  {} train {} --task {task}\n",
        report::program(),
        shell(&args.dir)
    ))?;
    Ok(Ended::Done)
}
