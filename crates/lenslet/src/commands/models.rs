//! `lenslet models`

use anyhow::Result;
use lenslet_models::{Variant, variants};
use lenslet_train::TrainError;
use serde_json::json;

use super::structure::Blueprint;
use crate::Ended;
use crate::cli::{Common, ModelsArgs, SortBy, StructureArgs};
use crate::report::{self, grouped};

/// An architecture with what it costs.
struct Entry {
    variant: &'static Variant,
    params: u64,
    macs: u64,
}

pub fn run(args: &ModelsArgs, common: &Common, threads: usize) -> Result<Ended> {
    let chosen = chosen(args.family.as_deref())?;
    let mut entries = entries(&chosen, threads)?;
    match args.sort {
        SortBy::Params => entries.sort_by_key(|entry| entry.params),
        SortBy::Macs => entries.sort_by_key(|entry| entry.macs),
        SortBy::Top1 => entries.sort_by(|a, b| {
            let top1 = |entry: &Entry| entry.variant.published.map_or(-1.0, |p| p.top1);
            top1(b).total_cmp(&top1(a))
        }),
        SortBy::Year => entries.sort_by_key(|entry| entry.variant.year),
    }
    if common.json {
        let models: Vec<_> = entries.iter().map(object).collect();
        report::print_json(&json!({ "models": models }))?;
        return Ok(Ended::Done);
    }
    let mut table = report::table(&[
        "model",
        "family",
        "year",
        "input",
        "parameters",
        "MACs",
        "top-1",
        "top-5",
        "weights",
    ]);
    for entry in &entries {
        let variant = entry.variant;
        let [c, h, w] = variant.input;
        let per_cent = |share: Option<f32>| share.map_or("–".to_string(), |s| format!("{s:.2}"));
        let published = variant.published;
        table.add_row([
            variant.name.to_string(),
            variant.family.to_string(),
            variant.year.to_string(),
            format!("{c}x{h}x{w}"),
            grouped(entry.params),
            grouped(entry.macs),
            per_cent(published.map(|p| p.top1)),
            per_cent(published.and_then(|p| p.top5)),
            weights(variant),
        ]);
    }
    report::print(table)?;
    report::print(
        "\nParameters and multiply-accumulates (of one picture of that size) are counted from the graphs of the models \
         here; accuracy\non ImageNet's validation pictures is what was published with the weights. \
         `lenslet summary MODEL` shows a model layer by layer.",
    )?;
    Ok(Ended::Done)
}

/// The published weights, and the side of their pictures where that is not the variant's.
fn weights(variant: &Variant) -> String {
    match (variant.published, published_side(variant)) {
        (Some(published), Some(side)) if side != variant.input[1] => {
            format!("{}, at {side}", published.weights)
        }
        (Some(published), _) => published.weights.to_string(),
        (None, _) => "–".to_string(),
    }
}

/// The side of the pictures on which the published accuracy was measured, where that is known.
fn published_side(variant: &Variant) -> Option<usize> {
    let file = variant.published_file(variant.published?.weights)?;
    Some(variant.preprocess_for(file).crop[0])
}

fn chosen(family: Option<&str>) -> Result<Vec<&'static Variant>> {
    let Some(wanted) = family else {
        return Ok(variants().collect());
    };
    let found: Vec<_> = variants()
        .filter(|variant| variant.family.eq_ignore_ascii_case(wanted))
        .collect();
    if found.is_empty() {
        let mut families: Vec<&str> = variants().map(|variant| variant.family).collect();
        families.dedup();
        return Err(TrainError::Setting {
            setting: "--family",
            found: format!("{wanted}, and there are {}", families.join(", ")),
            expected: "it must be one of these",
        }
        .into());
    }
    Ok(found)
}

/// Counts all of them, every thread a share. Neighbours are of one family and one size: so they are dealt out.
fn entries(chosen: &[&'static Variant], threads: usize) -> Result<Vec<Entry>> {
    let share = |first: usize| {
        let own = chosen.iter().enumerate().skip(first).step_by(threads);
        let entries = own.map(|(place, variant)| Ok((place, entry(variant)?)));
        entries.collect::<Vec<Result<_>>>()
    };
    let counted = std::thread::scope(|scope| {
        let helpers: Vec<_> = (0..threads)
            .map(|first| scope.spawn(move || share(first)))
            .collect();
        let shares = helpers.into_iter().flat_map(|helper| match helper.join() {
            Ok(entries) => entries,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        shares.collect::<Result<Vec<_>>>()
    });
    let mut counted = counted?;
    counted.sort_by_key(|(place, _)| *place);
    Ok(counted.into_iter().map(|(_, entry)| entry).collect())
}

fn entry(variant: &'static Variant) -> Result<Entry> {
    let blueprint = Blueprint::of(&StructureArgs {
        model: variant.name.into(),
        input: None,
        classes: None,
    })?;
    let macs = blueprint.graph(1)?.macs();
    Ok(Entry {
        variant,
        params: blueprint.params(),
        macs: macs.iter().map(|macs| macs.total()).sum(),
    })
}

fn object(entry: &Entry) -> serde_json::Value {
    let variant = entry.variant;
    json!({
        "name": variant.name, "family": variant.family, "task": variant.task, "year": variant.year,
        "paper": variant.paper, "licence": variant.licence, "input": variant.input,
        "classes": variant.num_classes, "params": entry.params, "macs": entry.macs,
        "published": variant.published, "published_side": published_side(variant),
    })
}
