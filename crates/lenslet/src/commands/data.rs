//! `lenslet data`

use anyhow::Result;
use lenslet_data::check::{self, Duplicates, Group, Report};
use lenslet_data::decode::Limits;
use lenslet_data::rng::{Purpose, Rng};
use lenslet_data::{Image, natural_order};
use lenslet_models::Task;
use lenslet_train::{DataSource, write_atomic};

use super::{picture_bar, usual_model};
use crate::Ended;
use crate::cli::{CheckArgs, Common, Data, DataArgs, PreviewArgs};
use crate::report::{self, grouped};

pub fn run(args: &DataArgs, common: &Common) -> Result<Ended> {
    match &args.what {
        Data::Check(args) => check(args, common),
        Data::Preview(args) => preview(args, common),
        Data::Scenes(args) => super::scenes::run(args, common),
    }
}

fn check(args: &CheckArgs, common: &Common) -> Result<Ended> {
    let bar = picture_bar(common, 0);
    let progress = |done: usize, all: usize| {
        bar.set_length(all as u64);
        bar.set_position(done as u64);
    };
    let found = check::folder(&args.data, Limits::default(), &progress)?;
    bar.finish_and_clear();
    if common.json {
        report::print_json(&found)?;
    } else {
        show(&found)?;
    }
    Ok(if found.errors.is_empty() {
        Ended::Done
    } else {
        Ended::WithFailures
    })
}

fn show(found: &Report) -> Result<()> {
    let mut splits: Vec<&String> = found.splits.keys().collect();
    // Training first, then what it is measured on.
    splits.sort_by(|a, b| {
        (*a != "train")
            .cmp(&(*b != "train"))
            .then(natural_order(b, a))
    });
    let header: Vec<&str> = std::iter::once("class")
        .chain(splits.iter().map(|s| s.as_str()))
        .collect();
    let mut table = report::table(&header);
    for class in &found.classes {
        let counts = splits
            .iter()
            .map(|split| grouped(class.files.get(*split).copied().unwrap_or(0) as u64));
        table.add_row(std::iter::once(class.name.clone()).chain(counts));
    }
    let sums = splits
        .iter()
        .map(|split| grouped(found.splits[*split] as u64));
    table.add_row(std::iter::once("all".to_string()).chain(sums));
    report::print(format!("{table}\n"))?;
    if let Some(sizes) = &found.sizes {
        let side = |[w, h]: [usize; 2]| format!("{w} x {h}");
        report::print(format!(
            "width x height: smallest {}, median {}, largest {}; {} under 32 pixels",
            side(sizes.min),
            side(sizes.median),
            side(sizes.max),
            sizes.tiny
        ))?;
    }
    let formats = found.formats.iter().map(|(f, n)| format!("{n} {f}"));
    report::print(format!(
        "formats: {}",
        formats.collect::<Vec<_>>().join(", ")
    ))?;
    if found.imbalance >= 1.5 {
        report::print(format!(
            "the largest class has {:.1} times the pictures of the smallest: consider --class-weights",
            found.imbalance
        ))?;
    }
    for (what, group) in [
        ("grey", &found.grey),
        ("with alpha, which is dropped", &found.alpha),
        ("CMYK, converted without colour management", &found.cmyk),
        ("of 16 bits, of which 8 are used", &found.sixteen_bit),
        ("turned by EXIF", &found.exif_rotated),
        (
            "no pictures, or outside the class folders: ignored",
            &found.ignored,
        ),
    ] {
        list(what, group)?;
    }
    for (what, faults) in [
        ("truncated", &found.truncated),
        ("unreadable", &found.unreadable),
    ] {
        if !faults.is_empty() {
            report::print(format!("\n{} {what}:", faults.len()))?;
        }
        for fault in faults {
            report::print(format!("  {}", fault.error))?;
        }
    }
    duplicates("the same file more than once", &found.exact_duplicates)?;
    duplicates("pictures that look the same", &found.near_duplicates)?;
    if found.errors.is_empty() {
        return report::print("\nit can be trained on");
    }
    report::print("\nit cannot be trained on:")?;
    for error in &found.errors {
        report::print(format!("  {error}"))?;
    }
    Ok(())
}

fn list(what: &str, group: &Group) -> Result<()> {
    if group.count == 0 {
        return Ok(());
    }
    let mut names = group.examples.join(", ");
    if group.count > group.examples.len() {
        names += &format!(" and {} more", group.count - group.examples.len());
    }
    report::print(format!("{} {what}: {names}", group.count))
}

fn duplicates(what: &str, groups: &[Duplicates]) -> Result<()> {
    /// Groups that are named.
    const SHOWN: usize = 20;
    if groups.is_empty() {
        return Ok(());
    }
    report::print(format!("\n{what}: {} groups", groups.len()))?;
    for group in groups.iter().take(SHOWN) {
        let mut notes = String::new();
        if group.across_splits {
            notes += "  ACROSS SPLITS: the measured accuracy is too good";
        }
        if group.across_classes {
            notes += "  ACROSS CLASSES: a label is wrong";
        }
        report::print(format!("  {}{notes}", group.files.join(" = ")))?;
    }
    if groups.len() > SHOWN {
        report::print(format!(
            "  and {} more; --json lists all",
            groups.len() - SHOWN
        ))?;
    }
    Ok(())
}

/// Rows of one picture each, as training sees it time after time.
fn preview(args: &PreviewArgs, common: &Common) -> Result<Ended> {
    let seed = args.settings.seed.unwrap_or_default();
    let data = DataSource::at(&args.data, None, seed)?;
    let pictures = data.is_files();
    let model = args.model.as_deref().unwrap_or(usual_model(pictures));
    // As training starts unless told: from weights, where there are pictures.
    let weights = (pictures && !args.settings.from_scratch).then(String::new);
    let config = args
        .settings
        .config(Task::Classification, model, pictures, weights);
    config.validate()?;
    let (preprocess, augment) = (config.preprocess()?, config.augmentation()?);
    let repeat = args.repeat.unwrap_or(if augment.is_some() { 6 } else { 1 });
    let train = data.open()?.train;
    let mut order: Vec<usize> = (0..train.len()).collect();
    Rng::keyed(seed, Purpose::Shuffle, 0, 0).shuffle(&mut order);
    let mut cells = Vec::new();
    for index in order.into_iter().take(args.count) {
        let image = match train.get(index) {
            Ok(sample) => sample.image,
            Err(error) => {
                eprintln!("skipped: {error}");
                continue;
            }
        };
        for epoch in 0..repeat as u64 {
            let mut rng = Rng::keyed(seed, Purpose::Augment, epoch, index as u64);
            let augment = augment.as_ref().map(|augment| (augment, &mut rng));
            cells.push(preprocess.pixels(image.clone(), augment)?);
        }
    }
    let sheet = Image::contact_sheet(&cells, repeat).to_png()?;
    write_atomic(&args.output, &sheet)?;
    if common.json {
        report::print_json(&serde_json::json!({
            "output": args.output, "pictures": cells.len() / repeat, "augment": augment,
        }))?;
    } else {
        report::print(args.output.display())?;
        if augment.is_none() && !common.quiet {
            eprintln!("nothing is changed at random here; --augment light or --freeze none would");
        }
    }
    Ok(Ended::Done)
}
