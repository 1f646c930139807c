//! `lenslet predict`

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use lenslet_train::{Prediction, Predictor};
use serde_json::json;

use super::device;
use crate::Ended;
use crate::cli::{Common, PredictArgs};
use crate::report::{self, percent};

pub fn run(args: &PredictArgs, common: &Common) -> Result<Ended> {
    let predictor = Predictor::load(&args.model, &device())?;
    let images = expand(&args.images)?;
    if args.csv {
        report::print("path,rank,class,probability")?;
    }
    let mut failed = 0;
    for path in &images {
        match predictor.predict(path, args.top.max(1)) {
            Ok(predictions) if common.json => {
                report::print_json(&json!({ "path": path, "predictions": predictions }))?;
            }
            Ok(predictions) if args.csv => print_csv(path, &predictions)?,
            Ok(predictions) => report::print(line(path, &predictions))?,
            Err(error) => {
                eprintln!("error: {error}");
                failed += 1;
            }
        }
    }
    if failed == 0 {
        return Ok(Ended::Done);
    }
    eprintln!("{failed} of {} pictures could not be read", images.len());
    Ok(Ended::WithFailures)
}

/// `3.png  3  99.95 %   5  0.03 %`
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
fn expand(given: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut images = Vec::new();
    for path in given {
        if path.is_dir() {
            let found = in_folder(path)?;
            if found.is_empty() {
                bail!("there are no pictures in {}", path.display());
            }
            images.extend(found);
        } else if path.exists() {
            images.push(path.clone());
        } else {
            images.extend(matching(path));
        }
    }
    Ok(images)
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
