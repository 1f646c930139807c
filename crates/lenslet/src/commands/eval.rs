//! `lenslet eval`

use anyhow::{Result, bail};
use lenslet_data::{Loader, LoaderConfig, OnUnreadable};
use lenslet_models::Task;
use lenslet_train::{
    DataSource, Evaluation, ModelInfo, Runner, evaluate, even_batch, find_variant,
};
use serde_json::json;

use super::{device, model, picture_bar, stop_flag};
use crate::Ended;
use crate::cli::{Common, EvalArgs};
use crate::report::{self, confusion_table, grouped, percent};

pub fn run(args: &EvalArgs, common: &Common, threads: usize) -> Result<Ended> {
    let (model, info) = model::open(&args.model, &device(), common)?;
    let task = find_variant(&info.architecture)?.task;
    let source = match &args.data {
        Some(path) => DataSource::for_task(task, path, None, 0)?,
        None => trained_on(&info)?,
    };
    if task != Task::Classification {
        return super::vision::eval((&model, &info), &source, args, common, threads);
    }
    let data = source.part(args.split, &info.classes)?;
    let batch = even_batch(data.len(), args.batch_size);
    let [c, h, w] = info.preprocess.output_shape();
    let runner = Runner::logits(args.engine, model, [batch, c, h, w], &device())?;
    let settings = LoaderConfig {
        workers: threads,
        batch_size: batch,
        on_unreadable: OnUnreadable::Skip { limit: 1.0 },
        ..LoaderConfig::default()
    };
    let bar = picture_bar(common, data.len() as u64);
    let loader = Loader::new(data, info.preprocess, None, settings)?;
    let stop = stop_flag()?;
    let mut progress = |done: usize| bar.set_position(done as u64);
    let evaluation = evaluate(&runner, &loader, args.tta, &mut progress, &stop)?;
    bar.finish_and_clear();
    let Some(evaluation) = evaluation else {
        return Ok(Ended::Interrupted);
    };
    for skipped in &evaluation.skipped {
        eprintln!("skipped: {}", skipped.reason);
    }
    show(&evaluation, &info, &source, common)?;
    Ok(if evaluation.skipped.is_empty() {
        Ended::Done
    } else {
        Ended::WithFailures
    })
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
            "skipped": evaluation.skipped,
        }));
    }
    report::print(format!(
        "{} on {} pictures of {source}\n",
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
