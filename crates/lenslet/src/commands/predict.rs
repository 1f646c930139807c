//! `lenslet predict`

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail};
use lenslet_train::{Prediction, Predictor};
use serde_json::json;

use super::{device, model};
use crate::Ended;
use crate::cli::{Common, PredictArgs};
use crate::report::{self, percent};

pub fn run(args: &PredictArgs, common: &Common) -> Result<Ended> {
    let device = device();
    let (model, info) = model::open(&args.model, &device, common)?;
    let predictor = Predictor::new(model, info, &device);
    if args.csv {
        report::print("path,rank,class,probability")?;
    }
    let images = expand(&args.images);
    let mut failed = 0;
    for image in &images {
        if let Err(error) = show(&predictor, image, args, common) {
            if report::is_closed_pipe(&error) {
                return Err(error);
            }
            eprintln!("error: {error:#}");
            failed += 1;
        }
    }
    if failed == 0 {
        return Ok(Ended::Done);
    }
    eprintln!("{failed} of {} could not be read", images.len());
    Ok(Ended::WithFailures)
}

fn show(
    predictor: &Predictor,
    image: &Result<PathBuf>,
    args: &PredictArgs,
    common: &Common,
) -> Result<()> {
    let path = image.as_ref().map_err(|e| anyhow!("{e:#}"))?;
    let predictions = predictor.predict(path, args.top)?;
    if common.json {
        report::print_json(&json!({ "path": path, "predictions": predictions }))
    } else if args.csv {
        print_csv(path, &predictions)
    } else {
        report::print(line(path, &predictions))
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

/// Endings of the picture files that a folder is searched for.
const ENDINGS: [&str; 6] = ["png", "jpg", "jpeg", "bmp", "webp", "gif"];

/// Files as they are, the pictures in folders, and what patterns match; each in order of name.
/// A folder without pictures is a failure of its own, not of what is beside it.
fn expand(given: &[PathBuf]) -> Vec<Result<PathBuf>> {
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
    let entries = std::fs::read_dir(folder)
        .map_err(|e| anyhow::anyhow!("cannot read the folder {}: {e}", folder.display()))?;
    let mut found: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let ending = path.extension().unwrap_or_default().to_ascii_lowercase();
            !name.starts_with('.') && ENDINGS.iter().any(|e| ending == *e) && path.is_file()
        })
        .collect();
    if found.is_empty() {
        bail!("there are no pictures in the folder {}", folder.display());
    }
    found.sort();
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
