//! `lenslet eval`

use std::sync::Arc;

use anyhow::{Result, bail};
use lenslet_data::{Loader, LoaderConfig};
use lenslet_train::{DataSource, Evaluation, ModelInfo, evaluate};
use serde_json::json;

use super::{data_source, device, model, stop_flag};
use crate::Ended;
use crate::cli::{Common, EvalArgs};
use crate::report::{self, confusion_table, grouped, percent};

pub fn run(args: &EvalArgs, common: &Common, threads: usize) -> Result<Ended> {
    let (model, info) = model::open(&args.model, &device(), common)?;
    let source = match &args.data {
        Some(dir) => data_source(Some(dir)),
        None => trained_on(&info)?,
    };
    let val = source.open()?.val;
    if val.class_names() != info.classes {
        bail!(
            "the classes of {source} are not those of the model: it has {}, the data {}",
            info.classes.join(", "),
            val.class_names().join(", ")
        );
    }
    let settings = LoaderConfig {
        workers: threads,
        ..LoaderConfig::default()
    };
    let loader = Loader::new(Arc::clone(&val), info.preprocess, None, settings)?;
    let stop = stop_flag()?;
    match evaluate(&model, &loader, &device(), &stop)? {
        Some(evaluation) => {
            show(&evaluation, &info, &source, common)?;
            Ok(Ended::Done)
        }
        None => Ok(Ended::Interrupted),
    }
}

/// The data that the model file says it was trained on.
fn trained_on(info: &ModelInfo) -> Result<DataSource> {
    match serde_json::from_value(info.training["run"]["data"].clone()) {
        Ok(source) => Ok(source),
        Err(_) => bail!("the model file does not say what data it was trained on; name the data"),
    }
}

fn show(
    evaluation: &Evaluation,
    info: &ModelInfo,
    source: &DataSource,
    common: &Common,
) -> Result<()> {
    let scores = evaluation.confusion.scores();
    if common.json {
        let classes: Vec<_> = info
            .classes
            .iter()
            .zip(&scores)
            .map(|(class, s)| {
                json!({
                    "class": class, "precision": s.precision, "recall": s.recall, "f1": s.f1,
                    "support": s.support,
                })
            })
            .collect();
        return report::print_json(&json!({
            "samples": evaluation.samples,
            "top1": evaluation.top1,
            "top5": evaluation.top5,
            "loss": evaluation.loss,
            "classes": classes,
            "confusion": evaluation.confusion.rows(),
        }));
    }
    report::print(format!(
        "{} on {} held-out pictures of {source}\n",
        info.architecture,
        grouped(evaluation.samples as u64)
    ))?;
    let mut table = report::table(&["measure", ""]);
    table.add_row(["top-1", &percent(evaluation.top1)]);
    if let Some(top5) = evaluation.top5 {
        table.add_row(["top-5", &percent(top5)]);
    }
    table.add_row(["loss", &format!("{:.4}", evaluation.loss)]);
    report::print(format!("{table}\n"))?;

    let mut table = report::table(&["class", "precision", "recall", "F1", "pictures"]);
    for (class, s) in info.classes.iter().zip(&scores) {
        table.add_row([
            class.clone(),
            percent(s.precision),
            percent(s.recall),
            percent(s.f1),
            s.support.to_string(),
        ]);
    }
    report::print(table)?;
    if let Some(table) = confusion_table(&evaluation.confusion, &info.classes) {
        report::print(format!("\n{table}"))?;
    }
    Ok(())
}
