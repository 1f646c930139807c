//! `lenslet eval` and `lenslet predict` for masks and boxes.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use anyhow::{Context, Result, bail};
use lenslet_data::boxes::BoxSamples;
use lenslet_data::masks::voc_palette;
use lenslet_data::{Image, Loader, LoaderConfig, OnUnreadable};
use lenslet_models::{BuildOptions, Model, Task};
use lenslet_train::detect::{
    DetectEvaluation, Detection, Detector, Thresholds, draw_boxes, evaluate_boxes,
};
use lenslet_train::segment::{Overlay, SegmentEvaluation, Segmenter, evaluate_masks};
use lenslet_train::{DataSource, ModelInfo, SkippedFile, TrainError, find_variant, write_atomic};
use serde_json::json;

use super::{device, picture_bar, predict, stop_flag};
use crate::Ended;
use crate::cli::{Common, EvalArgs, PredictArgs};
use crate::report::{self, confusion_table, grouped, percent};

/// A model and what its file says.
type Opened<'a> = (&'a Model, &'a ModelInfo);

fn build(info: &ModelInfo) -> BuildOptions {
    let usual = || BuildOptions::new(info.classes.len());
    info.options.clone().unwrap_or_else(usual)
}

/// Measures a model of masks or boxes.
pub fn eval(
    (model, info): Opened<'_>,
    source: &DataSource,
    args: &EvalArgs,
    common: &Common,
    threads: usize,
) -> Result<Ended> {
    let (device, stop) = (device(), stop_flag()?);
    let bar = picture_bar(common, 0);
    let mut progress = |done: usize| bar.set_position(done as u64);
    let skipped = if find_variant(&info.architecture)?.task == Task::Segmentation {
        let set = source.masks(args.split, &info.classes)?;
        bar.set_length(set.files().len() as u64);
        let segmenter = Segmenter::new(model, info.preprocess, info.classes.len(), &device);
        let found = evaluate_masks(&segmenter, &set, &mut progress, &stop)?;
        bar.finish_and_clear();
        let Some(found) = found else {
            return Ok(Ended::Interrupted);
        };
        show_masks(&found, info, source, common)?;
        found.skipped
    } else {
        let set = source.boxes(args.split, &info.classes)?;
        bar.set_length(set.files().len() as u64);
        let settings = LoaderConfig {
            workers: threads,
            batch_size: args.batch_size,
            on_unreadable: OnUnreadable::Skip { limit: 1.0 },
            ..LoaderConfig::default()
        };
        let samples = BoxSamples::new(set, info.preprocess, None, 0)?;
        let loader = Loader::of(samples, settings)?;
        let detector = Detector::new(model, info.preprocess, &build(info), &device);
        let found = evaluate_boxes(&detector, &loader, &mut progress, &stop)?;
        bar.finish_and_clear();
        let Some(found) = found else {
            return Ok(Ended::Interrupted);
        };
        show_boxes(&found, info, source, common)?;
        found.skipped
    };
    for SkippedFile { reason, .. } in &skipped {
        eprintln!("skipped: {reason}");
    }
    Ok(if skipped.is_empty() {
        Ended::Done
    } else {
        Ended::WithFailures
    })
}

fn show_masks(
    found: &SegmentEvaluation,
    info: &ModelInfo,
    source: &DataSource,
    common: &Common,
) -> Result<()> {
    let scores = found.scores();
    if common.json {
        let classes = info.classes.iter().zip(&scores);
        let classes: Vec<_> = classes
            .map(|(class, s)| {
                json!({ "class": class, "iou": s.iou, "dice": s.dice, "pixels": s.support })
            })
            .collect();
        return report::print_json(&json!({
            "samples": found.samples,
            "miou": found.mean_iou(),
            "mdice": found.mean_dice(),
            "pixel_accuracy": found.pixel_accuracy(),
            "loss": found.loss,
            "classes": classes,
            "confusion": found.confusion.rows(),
            "skipped": found.skipped,
        }));
    }
    headline(info, found.samples, source)?;
    let mut table = report::table(&["measure", ""]);
    table.add_row(["mean IoU", &percent(found.mean_iou())]);
    table.add_row(["mean Dice", &percent(found.mean_dice())]);
    table.add_row(["pixels right", &percent(found.pixel_accuracy())]);
    table.add_row(["loss", &format!("{:.4}", found.loss)]);
    report::print(format!("{table}\n"))?;
    let mut table = report::table(&["class", "IoU", "Dice", "pixels"]);
    let share = |v: Option<f64>| v.map_or("none".into(), percent);
    for (class, s) in info.classes.iter().zip(&scores) {
        let cells = [share(s.iou), share(s.dice), grouped(s.support)];
        table.add_row(std::iter::once(class.clone()).chain(cells));
    }
    report::print(table)?;
    if let Some(table) = confusion_table(&found.confusion, &info.classes) {
        report::print(format!("\n{table}"))?;
    }
    Ok(())
}

fn show_boxes(
    found: &DetectEvaluation,
    info: &ModelInfo,
    source: &DataSource,
    common: &Common,
) -> Result<()> {
    let precision = &found.precision;
    let mean = |ap: [f64; 10]| ap.iter().sum::<f64>() / 10.0;
    let classes = info.classes.iter().zip(&precision.classes);
    let classes = classes.zip(&precision.support);
    if common.json {
        let classes: Vec<_> = classes
            .map(|((class, ap), support)| {
                json!({
                    "class": class, "ap50": ap.map(|ap| ap[0]), "ap": ap.map(mean), "boxes": support,
                })
            })
            .collect();
        return report::print_json(&json!({
            "samples": found.samples,
            "map50": precision.at_50(),
            "map75": precision.at_75(),
            "map": precision.over_all(),
            "loss": found.loss,
            "classes": classes,
            "skipped": found.skipped,
        }));
    }
    headline(info, found.samples, source)?;
    let mut table = report::table(&["measure", ""]);
    table.add_row(["mAP@0.5", &percent(precision.at_50())]);
    table.add_row(["mAP@0.75", &percent(precision.at_75())]);
    table.add_row(["mAP@0.5:0.95", &percent(precision.over_all())]);
    table.add_row(["loss", &format!("{:.4}", found.loss)]);
    report::print(format!("{table}\n"))?;
    let mut table = report::table(&["class", "AP@0.5", "AP@0.5:0.95", "boxes"]);
    let share = |v: Option<f64>| v.map_or("none".into(), percent);
    for ((class, ap), support) in classes {
        let cells = [
            share(ap.map(|ap| ap[0])),
            share(ap.map(mean)),
            grouped(*support as u64),
        ];
        table.add_row(std::iter::once(class.clone()).chain(cells));
    }
    report::print(table)
}

fn headline(info: &ModelInfo, samples: usize, source: &DataSource) -> Result<()> {
    report::print(format!(
        "{} on {} pictures of {source}\n",
        info.architecture,
        grouped(samples as u64)
    ))
}

/// Files in an output folder, none of which is written twice.
struct Outputs {
    dir: PathBuf,
    taken: HashSet<String>,
}

impl Outputs {
    fn new(dir: PathBuf) -> Result<Self> {
        std::fs::create_dir_all(&dir).with_context(|| {
            format!(
                "cannot create the folder {}; choose another with --output",
                dir.display()
            )
        })?;
        Ok(Self {
            dir,
            taken: HashSet::new(),
        })
    }

    /// Where what is made of `picture` goes; pictures of one name in several folders are numbered.
    fn stem(&mut self, picture: &Path) -> String {
        let own = picture
            .file_stem()
            .map(|s| s.to_string_lossy().into_owned());
        let own = own.unwrap_or_else(|| "picture".into());
        let mut stem = own.clone();
        let mut number = 2;
        while !self.taken.insert(stem.clone()) {
            stem = format!("{own}-{number}");
            number += 1;
        }
        stem
    }

    fn write(&self, stem: &str, what: &str, png: &[u8]) -> Result<PathBuf> {
        let path = self.dir.join(format!("{stem}.{what}.png"));
        write_atomic(&path, png)?;
        Ok(path)
    }
}

/// Finds masks or boxes in pictures.
pub fn predict((model, info): Opened<'_>, args: &PredictArgs, common: &Common) -> Result<Ended> {
    let segment = find_variant(&info.architecture)?.task == Task::Segmentation;
    if segment && args.csv {
        bail!("a mask is no table: leave --csv out; the masks are written as PNG files");
    }
    for (setting, value) in [("--score", args.score), ("--overlap", args.overlap)] {
        if !(0.0..=1.0).contains(&value) {
            return Err(TrainError::Setting {
                setting,
                found: value.to_string(),
                expected: "it must be from 0 to 1",
            }
            .into());
        }
    }
    let device = device();
    let segmenter = Segmenter::new(model, info.preprocess, info.classes.len(), &device);
    let detector = Detector::new(model, info.preprocess, &build(info), &device);
    let how = Thresholds {
        score: args.score,
        overlap: args.overlap,
        ..Thresholds::SHOWN
    };
    let folder = match (&args.output, segment) {
        (Some(dir), _) => Some(dir.clone()),
        (None, true) => Some("predictions".into()),
        (None, false) => None,
    };
    let mut outputs = folder.map(Outputs::new).transpose()?;
    if args.csv {
        report::print("path,class,score,left,top,width,height")?;
    }
    let stop = stop_flag()?;
    let files = predict::expand(&args.images);
    let bar = picture_bar(common, files.len() as u64);
    let (all, mut failed) = (files.len(), 0);
    for file in files {
        if stop.load(Ordering::Relaxed) {
            return Ok(Ended::Interrupted);
        }
        let done = file.and_then(|path| {
            if segment {
                mask(&segmenter, &path, outputs.as_mut(), info, common)
            } else {
                let (image, found) = detector.file(&path, &how)?;
                boxes(
                    &path,
                    (&image, &found),
                    outputs.as_mut(),
                    info,
                    args,
                    common,
                )
            }
        });
        bar.inc(1);
        if let Err(error) = done {
            if report::is_closed_pipe(&error) {
                return Err(error);
            }
            bar.suspend(|| eprintln!("error: {error}"));
            failed += 1;
        }
    }
    bar.finish_and_clear();
    if failed > 0 {
        eprintln!("{failed} of {all} failed");
        return Ok(Ended::WithFailures);
    }
    Ok(Ended::Done)
}

fn mask(
    segmenter: &Segmenter<'_>,
    path: &Path,
    outputs: Option<&mut Outputs>,
    info: &ModelInfo,
    common: &Common,
) -> Result<()> {
    let (image, mask) = segmenter.file(path)?;
    let mut counts = vec![0usize; info.classes.len()];
    mask.classes
        .iter()
        .for_each(|c| counts[usize::from(*c)] += 1);
    let all = mask.classes.len() as f64;
    let mut shares: Vec<(&String, f64)> = info
        .classes
        .iter()
        .zip(&counts)
        .filter(|(_, n)| **n > 0)
        .map(|(class, n)| (class, *n as f64 / all))
        .collect();
    shares.sort_by(|a, b| b.1.total_cmp(&a.1));
    let mut written = [None, None];
    if let Some(outputs) = outputs {
        let stem = outputs.stem(path);
        let png = mask.to_png(Some(&voc_palette()))?;
        let overlay = Overlay::new(&image, &mask)?.0.to_png()?;
        written = [
            Some(outputs.write(&stem, "mask", &png)?),
            Some(outputs.write(&stem, "overlay", &overlay)?),
        ];
    }
    if common.json {
        let classes: Vec<_> = shares
            .iter()
            .map(|(class, share)| json!({ "class": class, "share": share }))
            .collect();
        let [mask_file, overlay] = written;
        return report::print_json(&json!({
            "path": path, "width": mask.width, "height": mask.height, "mask": mask_file,
            "overlay": overlay, "classes": classes,
        }));
    }
    let parts: Vec<String> = shares
        .iter()
        .map(|(class, share)| format!("{class} {}", percent(*share)))
        .collect();
    report::print(format!("{}: {}", path.display(), parts.join(", ")))
}

fn boxes(
    path: &Path,
    (image, found): (&Image, &[Detection]),
    outputs: Option<&mut Outputs>,
    info: &ModelInfo,
    args: &PredictArgs,
    common: &Common,
) -> Result<()> {
    let name = |one: &Detection| info.classes[one.class].as_str();
    let mut drawn = None;
    if let Some(outputs) = outputs {
        let stem = outputs.stem(path);
        let png = draw_boxes(image, found, &info.classes)?.to_png()?;
        drawn = Some(outputs.write(&stem, "boxes", &png)?);
    }
    if common.json {
        let boxes: Vec<_> = found
            .iter()
            .map(|one| json!({ "class": name(one), "score": one.score, "box": one.rect.corner() }))
            .collect();
        return report::print_json(&json!({
            "path": path, "width": image.width(), "height": image.height(), "boxes": boxes,
            "drawn": drawn,
        }));
    }
    if args.csv {
        let quote = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
        for one in found {
            let [left, top, width, height] = one.rect.corner();
            report::print(format!(
                "{},{},{},{left},{top},{width},{height}",
                quote(&path.display().to_string()),
                quote(name(one)),
                one.score
            ))?;
        }
        return Ok(());
    }
    let boxes: Vec<String> = found
        .iter()
        .map(|one| {
            let [left, top, width, height] = one.rect.corner();
            format!(
                "{} {} at {left:.0},{top:.0} of {width:.0} x {height:.0}",
                name(one),
                percent(one.score)
            )
        })
        .collect();
    let text = if boxes.is_empty() {
        "nothing found".into()
    } else {
        boxes.join("; ")
    };
    report::print(format!("{}: {text}", path.display()))
}
