use super::*;
use crate::{Image, PerChannel, Sample};
use proptest::prelude::*;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Pictures of 2 x 2 whose grey value is their index; some cannot be read, some are not prepared at once.
struct Fake {
    len: usize,
    names: Vec<String>,
    broken: fn(usize) -> bool,
    panics: fn(usize) -> bool,
    reads: Arc<AtomicUsize>,
}

impl Fake {
    fn new(len: usize) -> Self {
        Self {
            len,
            names: vec!["even".into(), "odd".into()],
            broken: |_| false,
            panics: |_| false,
            reads: Arc::default(),
        }
    }
}

impl Dataset for Fake {
    fn len(&self) -> usize {
        self.len
    }
    fn class_names(&self) -> &[String] {
        &self.names
    }
    fn label(&self, index: usize) -> Option<u32> {
        Some(index as u32 % 2)
    }
    fn id(&self, index: usize) -> String {
        format!("picture {index}")
    }
    fn get(&self, index: usize) -> Result<Sample, DataError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        if index.is_multiple_of(5) {
            std::thread::yield_now();
        }
        assert!(!(self.panics)(index), "a defect");
        if (self.broken)(index) {
            return Err(DataError::Truncated {
                path: self.id(index).into(),
                format: "PNG",
                bytes: 1,
            });
        }
        Ok(Sample {
            image: Image::filled(2, 2, 1, index as u8),
            label: index as u32 % 2,
        })
    }
}

fn tiny() -> Preprocess {
    Preprocess {
        resize: crate::Resize::Keep,
        crop: [2, 2],
        mean: PerChannel::Grey([0.0]),
        std: PerChannel::Grey([1.0 / 255.0]),
        ..Preprocess::lenet5()
    }
}

fn loader(dataset: Fake, config: LoaderConfig) -> Loader {
    Loader::new(Arc::new(dataset), tiny(), Some(Augment::digits()), config).unwrap()
}

fn all(epoch: Epoch) -> Vec<Batch> {
    epoch.map(Result::unwrap).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn the_same_batches_whatever_the_workers(len in 1usize..60, batch_size in 1usize..20, workers in 2usize..6, prefetch in 1usize..4, seed: u64) {
        let config = LoaderConfig { batch_size, shuffle: true, seed, workers: 1, prefetch: 1, ..LoaderConfig::default() };
        let one = all(loader(Fake::new(len), config.clone()).epoch(3));
        let many = all(loader(Fake::new(len), LoaderConfig { workers, prefetch, ..config }).epoch(3));
        prop_assert_eq!(&one, &many);
        let mut seen: Vec<usize> = one.iter().flat_map(|b| b.indices.clone()).collect();
        seen.sort_unstable();
        prop_assert_eq!(seen, (0..len).collect::<Vec<_>>());
        for (i, b) in one.iter().enumerate() {
            prop_assert_eq!(b.number, i);
            prop_assert_eq!(b.shape, [b.indices.len(), 1, 2, 2]);
            prop_assert_eq!(b.images.len(), b.len() * 4);
            prop_assert!(b.labels.iter().zip(&b.indices).all(|(&l, &i)| l == i as u32 % 2));
        }
    }

    #[test]
    fn an_epoch_can_be_entered_anywhere(len in 1usize..60, batch_size in 1usize..20, first in 0usize..8) {
        let loader = loader(Fake::new(len), LoaderConfig { batch_size, shuffle: true, seed: 5, workers: 2, ..LoaderConfig::default() });
        let (whole, rest) = (all(loader.epoch(1)), all(loader.epoch_from(1, first)));
        prop_assert_eq!(&whole[first.min(whole.len())..], &rest[..]);
    }
}

#[test]
fn without_shuffling_the_order_is_the_datasets() {
    let config = LoaderConfig {
        batch_size: 4,
        workers: 3,
        ..LoaderConfig::default()
    };
    let loader = Loader::new(Arc::new(Fake::new(10)), tiny(), None, config.clone()).unwrap();
    let batches = all(loader.epoch(0));
    assert_eq!(
        batches.iter().map(Batch::len).collect::<Vec<_>>(),
        [4, 4, 2]
    );
    assert_eq!(
        batches[1].images,
        [4.0f32, 5.0, 6.0, 7.0]
            .map(|v| [v / 255.0 / (1.0 / 255.0); 4])
            .concat()
    );
    let dropping = Loader::new(
        Arc::new(Fake::new(10)),
        tiny(),
        None,
        LoaderConfig {
            drop_last: true,
            ..config
        },
    )
    .unwrap();
    assert_eq!((dropping.batches(), all(dropping.epoch(0)).len()), (2, 2));
}

#[test]
fn epochs_and_seeds_have_orders_of_their_own() {
    let of = |seed, epoch| {
        loader(
            Fake::new(50),
            LoaderConfig {
                shuffle: true,
                seed,
                ..LoaderConfig::default()
            },
        )
        .order(epoch)
    };
    assert_ne!(of(1, 0), of(1, 1));
    assert_ne!(of(1, 0), of(2, 0));
    assert_eq!(of(1, 1), of(1, 1));
}

#[test]
fn an_unreadable_sample_is_an_error_of_its_batch_only() {
    let fake = Fake {
        broken: |i| i == 5,
        panics: |i| i == 9,
        ..Fake::new(16)
    };
    let config = LoaderConfig {
        batch_size: 4,
        workers: 2,
        ..LoaderConfig::default()
    };
    let results: Vec<_> = loader(fake, config).epoch(0).collect();
    assert!(results[0].is_ok() && results[3].is_ok());
    assert!(
        results[1]
            .as_ref()
            .unwrap_err()
            .to_string()
            .contains("picture 5")
    );
    assert!(matches!(&results[2], Err(DataError::Internal { reason, .. }) if reason == "a defect"));
}

#[test]
fn skipping_names_counts_and_stops() {
    let config = LoaderConfig {
        batch_size: 4,
        workers: 2,
        on_unreadable: OnUnreadable::Skip { limit: 0.5 },
        ..LoaderConfig::default()
    };
    let fake = Fake {
        broken: |i| (4..8).contains(&i) || i == 9,
        ..Fake::new(16)
    };
    let mut epoch = loader(fake, config.clone()).epoch(0);
    let batches: Vec<Batch> = epoch.by_ref().map(Result::unwrap).collect();
    assert_eq!(
        batches.iter().map(|b| b.number).collect::<Vec<_>>(),
        [0, 2, 3]
    );
    assert_eq!(
        (batches[1].indices.as_slice(), batches[1].labels.as_slice()),
        ([8, 10, 11].as_slice(), [0, 0, 1].as_slice())
    );
    assert_eq!(
        (batches[1].shape, batches[1].images.len()),
        ([3, 1, 2, 2], 12)
    );
    assert_eq!(
        epoch.skipped().iter().map(|s| s.index).collect::<Vec<_>>(),
        [4, 5, 6, 7, 9]
    );
    assert_eq!(epoch.skipped()[0].id, "picture 4");

    let fake = Fake {
        broken: |i| (4..8).contains(&i),
        ..Fake::new(16)
    };
    let strict = LoaderConfig {
        on_unreadable: OnUnreadable::Skip { limit: 0.2 },
        ..config
    };
    let results: Vec<_> = loader(fake, strict).epoch(0).collect();
    assert_eq!(results.len(), 2);
    let message = results[1].as_ref().unwrap_err().to_string();
    assert!(
        message.contains("4 of 16") && message.contains("20 %") && message.contains("picture 7"),
        "{message}"
    );
}

#[test]
fn preparation_stays_within_the_window_and_dropping_ends_it() {
    let fake = Fake::new(1000);
    let (reads, alive) = (fake.reads.clone(), Arc::new(fake));
    let config = LoaderConfig {
        batch_size: 10,
        workers: 3,
        prefetch: 2,
        ..LoaderConfig::default()
    };
    let loader = Loader::new(alive.clone(), tiny(), None, config).unwrap();
    let mut epoch = loader.epoch(0);
    let first = epoch.next().unwrap().unwrap();
    epoch.recycle(first);
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert!(
        reads.load(Ordering::SeqCst) <= 30,
        "{}",
        reads.load(Ordering::SeqCst)
    );
    drop(epoch);
    drop(loader);
    // Joined workers hold nothing.
    assert_eq!(Arc::strong_count(&alive), 1);
}

#[test]
fn senseless_settings_are_refused() {
    let make = |len, config| {
        Loader::new(Arc::new(Fake::new(len)), tiny(), None, config)
            .err()
            .map(|e| e.to_string())
    };
    assert!(
        make(0, LoaderConfig::default())
            .unwrap()
            .contains("no samples")
    );
    assert!(
        make(
            1,
            LoaderConfig {
                batch_size: 0,
                ..LoaderConfig::default()
            }
        )
        .unwrap()
        .contains("batch_size is 0")
    );
    let skip = LoaderConfig {
        on_unreadable: OnUnreadable::Skip { limit: 5.0 },
        ..LoaderConfig::default()
    };
    assert!(make(1, skip).unwrap().contains("fraction"));
}
