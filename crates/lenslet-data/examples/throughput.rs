//! Images a second from files to batches of 224 x 224: `cargo run --release --example throughput -- [DIR] [THREADS]`.
//!
//! DIR is searched for images; without it, the fixtures' photo of 512 x 512 is read again and again. The stages are timed
//! on one thread, the whole through the loader on THREADS (2).

use lenslet_data::decode;
use lenslet_data::rng::Purpose;
use lenslet_data::transform::{self, Affine};
use lenslet_data::{
    Augment, DataError, Dataset, Image, Interpolation, Loader, LoaderConfig, Preprocess, Rng,
    Sample, images_in, mnist,
};
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// The files over and over, all of one class.
struct Repeated {
    files: Vec<PathBuf>,
    len: usize,
    names: Vec<String>,
}

impl Dataset for Repeated {
    fn len(&self) -> usize {
        self.len
    }
    fn class_names(&self) -> &[String] {
        &self.names
    }
    fn label(&self, _: usize) -> Option<u32> {
        Some(0)
    }
    fn id(&self, index: usize) -> String {
        self.files[index % self.files.len()].display().to_string()
    }
    fn get(&self, index: usize) -> Result<Sample, DataError> {
        let decoded = decode::read(&self.files[index % self.files.len()])?;
        Ok(Sample {
            image: decoded.image,
            label: 0,
        })
    }
}

/// Milliseconds a call, the best of three rounds of a quarter of a second.
fn time(mut call: impl FnMut()) -> f64 {
    let round = |call: &mut dyn FnMut()| {
        let (start, mut calls) = (Instant::now(), 0);
        while start.elapsed().as_millis() < 250 {
            call();
            calls += 1;
        }
        start.elapsed().as_secs_f64() * 1e3 / f64::from(calls)
    };
    (0..3)
        .map(|_| round(&mut call))
        .fold(f64::INFINITY, f64::min)
}

fn main() -> Result<(), DataError> {
    let mut args = std::env::args().skip(1);
    let files = match args.next().as_deref() {
        None | Some("-") => vec![
            Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("tests/fixtures/transforms/images/astronaut_512.jpg"),
        ],
        Some(dir) => images_in(Path::new(dir))?,
    };
    let threads = args.next().and_then(|t| t.parse().ok()).unwrap_or(2);
    if files.is_empty() {
        return Err(DataError::Empty {
            what: "the folder".into(),
        });
    }
    let preprocess = Preprocess::imagenet(256, 224, Interpolation::Bilinear);
    stages(&decode::read(&files[0])?.image, &files[0], &preprocess)?;

    let digits: Arc<dyn Dataset> = Arc::new(mnist::embedded()?.train);
    epochs(
        "digits, training",
        digits,
        Preprocess::lenet5(),
        Some(Augment::digits()),
        threads,
    )?;
    let photos: Arc<dyn Dataset> = Arc::new(Repeated {
        files,
        len: 1500,
        names: vec!["all".into()],
    });
    epochs(
        "photos, evaluation",
        photos.clone(),
        preprocess,
        None,
        threads,
    )?;
    epochs(
        "photos, training",
        photos,
        preprocess,
        Some(Augment::photos()),
        threads,
    )
}

/// The best of three epochs through the loader.
fn epochs(
    name: &str,
    dataset: Arc<dyn Dataset>,
    preprocess: Preprocess,
    augment: Option<Augment>,
    workers: usize,
) -> Result<(), DataError> {
    let config = LoaderConfig {
        workers,
        batch_size: 64,
        shuffle: true,
        ..LoaderConfig::default()
    };
    let loader = Loader::new(dataset, preprocess, augment, config)?;
    let mut best = 0.0f64;
    for round in 0..3 {
        let (start, mut images) = (Instant::now(), 0);
        let mut epoch = loader.epoch(round);
        while let Some(batch) = epoch.next() {
            let batch = batch?;
            images += batch.len();
            epoch.recycle(batch);
        }
        best = best.max(images as f64 / start.elapsed().as_secs_f64());
    }
    println!("{name:20} {best:8.0} images/s on {workers} threads");
    Ok(())
}

/// Each stage alone, on one thread.
fn stages(image: &Image, file: &Path, preprocess: &Preprocess) -> Result<(), DataError> {
    println!("{}: {} x {}", file.display(), image.width(), image.height());
    let line = |name: &str, ms: f64| println!("  {name:28} {ms:8.3} ms");
    line(
        "read and decode",
        time(|| drop(black_box(decode::read(file)))),
    );
    let small = preprocess.pixels(image.clone(), None)?;
    line(
        "copy of the picture",
        time(|| drop(black_box(image.clone()))),
    );
    for (name, i) in [
        ("resize to 256, bilinear", Interpolation::Bilinear),
        ("resize to 256, bicubic", Interpolation::Bicubic),
    ] {
        line(
            name,
            time(|| drop(black_box(transform::resize(image.clone(), 256, 256, i)))),
        );
    }
    let map = Affine::about_centre(224, 224, 9.0, 1.0, 0.0, 0.0);
    for (name, i) in [
        ("rotate, nearest", Interpolation::Nearest),
        ("rotate, bilinear", Interpolation::Bilinear),
    ] {
        line(
            name,
            time(|| drop(black_box(transform::warp(&small, map, i, 0)))),
        );
    }
    line(
        "flip",
        time(|| drop(black_box(small.clone().flip_horizontal()))),
    );
    line(
        "brightness",
        time(|| drop(black_box(transform::brightness(small.clone(), 1.1)))),
    );
    line(
        "contrast",
        time(|| drop(black_box(transform::contrast(small.clone(), 1.1)))),
    );
    line(
        "saturation",
        time(|| drop(black_box(transform::saturation(small.clone(), 1.1)))),
    );
    line(
        "hue",
        time(|| drop(black_box(transform::hue(small.clone(), 0.08)))),
    );
    let mut out = vec![0.0; preprocess.output_len()];
    let as_is = Preprocess {
        resize: lenslet_data::Resize::Keep,
        ..*preprocess
    };
    line(
        "normalise",
        time(|| drop(black_box(as_is.apply(small.clone(), None, &mut out)))),
    );
    let augment = Augment::photos();
    let mut epoch = 0;
    line(
        "training, all but decode",
        time(|| {
            epoch += 1;
            let mut rng = Rng::keyed(0, Purpose::Augment, epoch, 0);
            drop(black_box(preprocess.apply(
                image.clone(),
                Some((&augment, &mut rng)),
                &mut out,
            )));
        }),
    );
    Ok(())
}
