//! `lenslet predict`

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use indicatif::ProgressBar;
use lenslet_data::{DataError, images_in};
use lenslet_models::Task;
use lenslet_train::{Predicting, Prediction, Predictor, find_variant};
use serde_json::json;

use super::{device, model, picture_bar, stop_flag};
use crate::Ended;
use crate::cli::{Common, PredictArgs};
use crate::report::{self, percent};

pub fn run(args: &PredictArgs, common: &Common, threads: usize) -> Result<Ended> {
    let device = device();
    let (model, info) = model::open(&args.model, &device, common)?;
    if find_variant(&info.architecture)?.task != Task::Classification {
        return super::vision::predict((&model, &info), args, common);
    }
    let predictor = Predictor::new(model, info, &device);
    if args.csv {
        report::print("path,rank,class,probability")?;
    }
    let (mut files, mut failed) = (Vec::new(), 0);
    for image in expand(&args.images) {
        match image {
            Ok(path) => files.push(path),
            Err(error) => {
                eprintln!("error: {error:#}");
                failed += 1;
            }
        }
    }
    let all = files.len() + failed;
    let how = Predicting {
        top: args.top,
        test_time: args.tta,
        batch_size: args.batch_size,
        threads,
        engine: args.engine,
    };
    let stop = stop_flag()?;
    // Results on a terminal are progress enough.
    let bar = if std::io::stdout().is_terminal() {
        ProgressBar::hidden()
    } else {
        picture_bar(common, files.len() as u64)
    };
    let mut each = |path: &Path, found: Result<Vec<Prediction>, DataError>| {
        bar.inc(1);
        match found {
            Ok(predictions) => show(path, &predictions, args, common),
            Err(error) => {
                bar.suspend(|| eprintln!("error: {error}"));
                failed += 1;
                Ok(())
            }
        }
    };
    let whole = files.is_empty() || predictor.predict(files, &how, &mut each, &stop)?;
    bar.finish_and_clear();
    if failed > 0 {
        eprintln!("{failed} of {all} could not be read");
    }
    Ok(match (whole, failed) {
        (false, _) => Ended::Interrupted,
        (true, 0) => Ended::Done,
        (true, _) => Ended::WithFailures,
    })
}

fn show(
    path: &Path,
    predictions: &[Prediction],
    args: &PredictArgs,
    common: &Common,
) -> Result<()> {
    if common.json {
        report::print_json(&json!({ "path": path, "predictions": predictions }))
    } else if args.csv {
        print_csv(path, predictions)
    } else {
        report::print(line(path, predictions))
    }
}

/// `3.png: 3 99.95 %, 5 0.03 %`
fn line(path: &Path, predictions: &[Prediction]) -> String {
    let guesses: Vec<String> = predictions
        .iter()
        .map(|p| format!("{} {}", p.class, percent(p.probability)))
        .collect();
    format!("{}: {}", path.display(), guesses.join(", "))
}

fn print_csv(path: &Path, predictions: &[Prediction]) -> Result<()> {
    let quote = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
    for (rank, p) in predictions.iter().enumerate() {
        report::print(format!(
            "{},{},{},{}",
            quote(&path.display().to_string()),
            rank + 1,
            quote(&p.class),
            p.probability
        ))?;
    }
    Ok(())
}

/// Files as they are, the pictures in folders, and what patterns match; each in order of name.
/// A folder without pictures is a failure of its own, not of what is beside it.
pub(super) fn expand(given: &[PathBuf]) -> Vec<Result<PathBuf>> {
    let mut images = Vec::new();
    for path in given {
        if path.is_dir() {
            match in_folder(path) {
                Ok(found) => images.extend(found.into_iter().map(Ok)),
                Err(error) => images.push(Err(error)),
            }
        } else if path.exists() {
            images.push(Ok(path.clone()));
        } else {
            images.extend(matching(path).into_iter().map(Ok));
        }
    }
    images
}

fn in_folder(folder: &Path) -> Result<Vec<PathBuf>> {
    let found = images_in(folder)?;
    if found.is_empty() {
        bail!("there are no pictures in the folder {}", folder.display());
    }
    Ok(found)
}

/// What the pattern matches; a path that is no pattern, or matches nothing, as it is: reading it
/// will say that it is not there.
fn matching(pattern: &Path) -> Vec<PathBuf> {
    let found: Vec<PathBuf> = pattern
        .to_str()
        .and_then(|pattern| glob::glob(pattern).ok())
        .map(|paths| paths.filter_map(Result::ok).collect())
        .unwrap_or_default();
    if found.is_empty() {
        vec![pattern.to_path_buf()]
    } else {
        found
    }
}
