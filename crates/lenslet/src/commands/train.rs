//! `lenslet train`

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use std::sync::atomic::AtomicBool;

use anyhow::{Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use lenslet_data::boxes::BoxSet;
use lenslet_models::{Task, Variant};
use lenslet_nn::num_params;
use lenslet_train::{
    Data, DataSource, EpochRecord, Freeze, Measured, Observer, Outcome, PartSize, Pretrained,
    RunConfig, RunDir, Summary, Trainer, load_model,
};

use super::{INSIDE, device, model, stop_flag, usual_for};
use crate::Ended;
use crate::cli::{Common, TrainArgs};
use crate::report::{self, duration, grouped, percent, shell};

pub fn run(args: TrainArgs, common: &Common, threads: usize) -> Result<Ended> {
    let lr_find = args.lr_find;
    let trainer = match &args.resume {
        Some(path) => {
            let (run, mut config) = RunDir::open(path)?;
            if let Some(threads) = common.threads {
                config.threads = threads;
            }
            Trainer::resume(run, config, &device())?
        }
        None => start(args, common, threads)?,
    };
    let run = trainer.run_dir().path().to_path_buf();
    let epochs = trainer.config().train.epochs;
    if !common.quiet {
        introduce(&trainer);
    }
    let stop = stop_flag()?;
    let mut progress = Progress::new(common, epochs);
    if lr_find {
        return find_rate(trainer, &mut progress, common, &stop);
    }
    let outcome = trainer.run(&mut progress, &stop);
    progress.finish();
    match outcome? {
        Outcome::Interrupted { epoch, batch } => {
            eprintln!(
                "stopped after epoch {epoch} and {batch} batches of the next; go on with\n\n  {} train --resume {}\n",
                report::program(),
                shell(&run)
            );
            Ok(Ended::Interrupted)
        }
        Outcome::Finished(summary) => {
            conclude(&summary, &run, common)?;
            Ok(Ended::Done)
        }
    }
}

/// A new run as the command line has it.
fn start(args: TrainArgs, common: &Common, threads: usize) -> Result<Trainer> {
    let seed = args.settings.seed.unwrap_or_default();
    let task = args.task.task();
    let classify = task == Task::Classification;
    let data = match &args.data {
        Some(path) => DataSource::for_task(task, path, args.val_split, seed)?,
        None if !classify => bail!(
            "--task needs data: name a folder, such as one that `{} data scenes` makes",
            report::program()
        ),
        None if args.val_split.is_some() => {
            bail!("--val-split divides pictures of yours: name their folder")
        }
        None => DataSource::Embedded,
    };
    let pictures = data.is_files();
    if pictures {
        // Faults in the data are told before weights are read or fetched.
        tell_faults(&data.data()?);
    }
    let usual = usual_for(task, pictures);
    let weights = match (&args.weights, args.model.as_deref()) {
        (Some(given), name) => Some(model::start_from(name, given, usual, common)?),
        (None, _) if args.settings.from_scratch => None,
        (None, None) if classify && pictures => Some(model::start_from_inside()?),
        (None, name) if starts_inside(name.unwrap_or(usual)) => Some(model::start_from_inside()?),
        (None, _) => None,
    };
    // Masks and boxes are found by what stands over the architecture of the weights.
    let named = weights.as_ref().and_then(Pretrained::architecture);
    let named = named.filter(|_| classify);
    let model = args.model.as_deref().or(named).unwrap_or(usual);
    let origin = weights.as_ref().map(|w| w.origin().to_string());
    let config = RunConfig {
        command: std::env::args_os()
            .map(|arg| shell(Path::new(&arg)))
            .collect::<Vec<_>>()
            .join(" "),
        version: env!("CARGO_PKG_VERSION").to_string(),
        train: args.settings.config(task, model, pictures, origin),
        data,
        fingerprint: String::new(),
        build: None,
        preprocess: None,
        threads,
    };
    Ok(Trainer::start(config, &device(), weights, args.output)?)
}

/// Whether the model inside the program is that architecture, or the one below it.
fn starts_inside(name: &str) -> bool {
    let below = |v: &'static Variant| v.backbone().unwrap_or(v).name == INSIDE;
    cfg!(feature = "pretrained") && lenslet_models::variant(name).is_some_and(below)
}

/// Names the boxes that make no sense and are left out.
fn tell_faults(data: &Data) {
    /// Boxes that are named.
    const SHOWN: usize = 20;
    let Data::Boxes(sets) = data else { return };
    let faults: Vec<_> = sets.iter().flat_map(BoxSet::faults).collect();
    for fault in faults.iter().take(SHOWN) {
        eprintln!("left out: {}: {}", fault.place, fault.reason);
    }
    if faults.len() > SHOWN {
        eprintln!("and {} more boxes left out", faults.len() - SHOWN);
    }
}

fn introduce(trainer: &Trainer) {
    let config = trainer.config();
    let [train, val] = trainer.pictures();
    eprintln!(
        "{} ({} parameters) on {}: {} pictures to train on, {} held out, {} classes, {} threads",
        config.train.model,
        grouped(num_params(trainer.model()) as u64),
        config.data,
        grouped(train as u64),
        grouped(val as u64),
        trainer.classes().len(),
        config.threads,
    );
    match &config.train.weights {
        Some(origin) => eprintln!("weights from {origin}, a new classifier"),
        None if config.data.is_files() => eprintln!("from scratch: random first values"),
        None => {}
    }
    let parts = trainer.parts();
    if config.train.freeze != Freeze::None {
        let mut table = report::table(&["stage", "parameters", "trainable"]);
        for part in &parts {
            let [params, trainable] = [part.params, part.trainable].map(|n| grouped(n as u64));
            table.add_row([part.name.clone(), params, trainable]);
        }
        let sum = |size: fn(&PartSize) -> usize| parts.iter().map(size).sum::<usize>() as u64;
        let [params, trainable] = [sum(|p| p.params), sum(|p| p.trainable)].map(grouped);
        table.add_row(["all".into(), params, trainable]);
        eprintln!("{table}");
    }
    match trainer.head_epochs() {
        0 => {}
        n => eprintln!("the classifier trains alone for {n} epochs, then all that is trainable"),
    }
    let variant = config.train.variant();
    if let Ok(variant) = variant
        && config.train.freeze == Freeze::None
        && !variant.auxiliary.is_empty()
        && !config.train.auxiliary()
    {
        eprintln!(
            "its auxiliary classifier is left out: that needs pictures of {0}x{0} at least",
            variant.min_aux_size
        );
    }
    if trainer.caches_features() {
        eprintln!("the frozen backbone runs once for every picture");
    }
}

/// Tries learning rates and says which is good.
fn find_rate(
    trainer: Trainer,
    progress: &mut Progress,
    common: &Common,
    stop: &AtomicBool,
) -> Result<Ended> {
    let run = trainer.run_dir().path().to_path_buf();
    let found = trainer.find_rate(progress, stop);
    progress.finish();
    let Some(found) = found? else {
        return Ok(Ended::Interrupted);
    };
    if common.json {
        report::print_json(&serde_json::json!({
            "run": run, "lr": found.suggestion, "points": found.points,
        }))?;
        return Ok(Ended::Done);
    }
    match found.suggestion {
        Some(lr) => report::print(format!("a good learning rate: --lr {lr:.1e}"))?,
        None => report::print("the loss fell at no learning rate; look at the drawing")?,
    }
    let drawing = run.join("lr-find.svg");
    report::print(format!("losses by learning rate: {}", drawing.display()))?;
    Ok(Ended::Done)
}

/// Progress on standard error: a bar on a terminal, a line an epoch elsewhere.
struct Progress {
    epochs: usize,
    json: bool,
    quiet: bool,
    bar: Option<ProgressBar>,
}

impl Progress {
    fn new(common: &Common, epochs: usize) -> Self {
        let bar = (!common.quiet && std::io::stderr().is_terminal()).then(|| {
            let style = ProgressStyle::with_template(
                "{prefix} {bar:30} {pos}/{len} batches, {msg}, {eta} left",
            );
            let bar = ProgressBar::new(0);
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        });
        Self {
            epochs,
            json: common.json,
            quiet: common.quiet,
            bar,
        }
    }

    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        }
    }
}

impl Observer for Progress {
    fn features_done(&mut self, done: usize, pictures: usize) {
        if let Some(bar) = &self.bar {
            bar.set_length(pictures as u64);
            bar.set_position(done as u64);
            bar.set_prefix("features");
        }
    }

    fn epoch_begins(&mut self, epoch: usize, done: usize, batches: usize) {
        if let Some(bar) = &self.bar {
            bar.reset();
            bar.set_length(batches as u64);
            bar.set_position(done as u64);
            bar.set_prefix(format!("epoch {epoch}/{}", self.epochs));
        }
    }

    fn batch_done(&mut self, done: usize, samples: usize, mean_loss: f64) {
        if let Some(bar) = &self.bar {
            bar.set_position(done as u64);
            let rate = samples as f64 / bar.elapsed().as_secs_f64();
            bar.set_message(format!("{rate:.0} images/s, loss {mean_loss:.4}"));
        }
    }

    fn epoch_done(&mut self, r: &EpochRecord, best: bool) {
        if self.json {
            // A reader that has gone is noticed at the summary; training goes on for the run's
            // own files.
            let _ = report::print_json(r);
        }
        if self.quiet {
            return;
        }
        self.say(&format!(
            "epoch {:>3}/{}  train loss {:.4}{}  val loss {:.4} {} {}  lr {:.2e}  {:.0} images/s  {}{}",
            r.epoch,
            self.epochs,
            r.train_loss,
            match r.chief() {
                "accuracy" => format!(" acc {}", percent(r.train_acc)),
                _ => String::new(),
            },
            r.val_loss,
            match r.chief() {
                "accuracy" => "acc",
                other => other,
            },
            percent(r.val_acc),
            r.lr.head,
            r.images_per_s,
            duration(r.seconds),
            if best { "  best" } else { "" },
        ));
    }
}

/// The last words: what came out, where it is, what to do next.
fn conclude(summary: &Summary, run: &Path, common: &Common) -> Result<()> {
    let evaluation = &summary.evaluation;
    if common.json {
        let mut object = serde_json::json!({
            "run": run,
            "best_epoch": summary.best.epoch,
            "best_val_acc": summary.best.val_acc,
            "val_loss": evaluation.loss(),
            "top5": null,
            "skipped": summary.skipped,
            "seconds": summary.seconds,
        });
        match evaluation {
            Measured::Classes(found) => object["top5"] = found.top5.into(),
            _ => object["measures"] = serde_json::to_value(evaluation.measures())?,
        }
        return report::print_json(&object);
    }
    let mut table = report::table(&["result", ""]);
    let chief = format!("validation {}", summary.best.chief());
    table.add_row([chief.as_str(), &percent(evaluation.chief())]);
    if let Measured::Boxes(found) = evaluation {
        let all = percent(found.precision.over_all());
        table.add_row(["validation mAP@0.5:0.95", &all]);
    }
    if let Measured::Masks(found) = evaluation {
        table.add_row(["validation mean Dice", &percent(found.mean_dice())]);
        table.add_row(["pixels right", &percent(found.pixel_accuracy())]);
    }
    table.add_row(["validation loss", &format!("{:.4}", evaluation.loss())]);
    table.add_row(["best epoch", &summary.best.epoch.to_string()]);
    table.add_row(["time", &duration(summary.seconds)]);
    table.add_row(["run", &run.display().to_string()]);
    report::print(table)?;
    for skipped in &summary.skipped {
        eprintln!("skipped: {}", skipped.reason);
    }
    let sample = sample_picture(run)?;
    report::print(format!(
        "\nNext, let it read a picture:\n\n  {} predict {} --model {}\n",
        report::program(),
        shell(&sample),
        shell(run)
    ))
}

/// A picture of the held-out data in the run's folder, for the next command to work on.
fn sample_picture(run: &Path) -> Result<PathBuf> {
    let (_, info) = load_model(run, &device())?;
    let path = run.join("sample.png");
    if let Some(golden) = info.golden.first() {
        lenslet_train::write_atomic(&path, &golden.picture(run)?)?;
    }
    Ok(path)
}
