use super::*;
use crate::mnist;
use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use std::io::Write;

fn images(count: u32, rows: u32, cols: u32) -> Vec<u8> {
    let mut bytes = [IMAGES_MAGIC, count, rows, cols]
        .map(u32::to_be_bytes)
        .concat();
    bytes.extend((0..count * rows * cols).map(|i| i as u8));
    bytes
}

fn labels(values: &[u8]) -> Vec<u8> {
    let mut bytes = [LABELS_MAGIC, values.len() as u32]
        .map(u32::to_be_bytes)
        .concat();
    bytes.extend(values);
    bytes
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn read(bytes: &[u8]) -> Result<IdxImages, DataError> {
    IdxImages::from_bytes(bytes, Path::new("data/train-images"))
}

proptest! {
    #[test]
    fn what_is_written_is_read(count in 1u32..6, rows in 1u32..8, cols in 1u32..8, zipped: bool) {
        let plain = images(count, rows, cols);
        let bytes = if zipped { gzip(&plain) } else { plain.clone() };
        let read = read(&bytes).unwrap();
        prop_assert_eq!((read.count, read.rows, read.cols), (count as usize, rows as usize, cols as usize));
        prop_assert_eq!(&read.pixels[..], &plain[16..]);
    }

    /// Every shorter file, zipped before or after the cut, is an error.
    #[test]
    fn every_cut_is_an_error(cut in 0usize..100, zip_first: bool) {
        let plain = images(3, 5, 6);
        let bytes = if zip_first { gzip(&plain) } else { plain };
        let kept = &bytes[..cut.min(bytes.len() - 9)];
        let refused = matches!(read(kept), Err(DataError::IdxTruncated { .. } | DataError::IdxMagic { .. }));
        prop_assert!(refused, "{:?}", read(kept));
    }
}

#[test]
fn errors_name_the_file_and_the_figures() {
    let message = |bytes: &[u8]| read(bytes).unwrap_err().to_string();
    let whole = images(2, 3, 4);
    assert!(
        message(&whole[..30])
            .contains("data/train-images: is truncated: 30 bytes where 40 were expected")
    );
    assert!(message(&[&whole[..], &[1]].concat()).contains("too long: more than the 40 bytes"));
    assert!(message(&labels(&[1, 2])).contains("begins with 0x00000801, expected 0x00000803"));
    assert!(message(&images(0, 3, 4)).contains("0 x 3 x 4"));
    let huge = [IMAGES_MAGIC, u32::MAX, u32::MAX, u32::MAX]
        .map(u32::to_be_bytes)
        .concat();
    assert!(message(&huge).contains("4294967295 x 4294967295 x 4294967295"));
    let mut damaged = gzip(&images(40, 28, 28));
    let middle = damaged.len() / 2;
    damaged.truncate(middle);
    damaged.extend([0xff; 400]);
    assert!(
        message(&damaged).contains("data/train-images"),
        "{}",
        message(&damaged)
    );
    let label = labels_from_bytes(&labels(&[3, 10]), Path::new("l"), 10)
        .unwrap_err()
        .to_string();
    assert!(
        label.contains("l: label 1 is 10, but there are 10 classes (0 to 9)"),
        "{label}"
    );
}

#[test]
fn counts_must_agree() {
    let (images, labels) = (images(3, 2, 2), labels(&[1, 2]));
    let error = IdxDataset::from_bytes(
        (&images, Path::new("i")),
        (&labels, Path::new("l")),
        mnist::class_names(),
    )
    .unwrap_err();
    assert_eq!(
        error.to_string(),
        "i has 3 images but l has 2 labels; use files of the same split"
    );
}

#[test]
fn a_folder_in_any_of_the_usual_names() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).unwrap();
    assert!(!mnist::is_in(dir.path()));
    write("train-images.idx3-ubyte", &images(4, 2, 2));
    write("train-labels-idx1-ubyte.gz", &gzip(&labels(&[0, 1, 2, 3])));
    write("t10k-images-idx3-ubyte.gz", &gzip(&images(2, 2, 2)));
    let error = mnist::open(dir.path()).unwrap_err().to_string();
    assert!(
        error.contains(
            "has no test labels (looked for t10k-labels-idx1-ubyte, t10k-labels.idx1-ubyte"
        ),
        "{error}"
    );
    // The name says gzip, the content does not.
    write("t10k-labels-idx1-ubyte.gz", &labels(&[7, 9]));
    assert!(mnist::is_in(dir.path()));
    let data = mnist::open(dir.path()).unwrap();
    assert_eq!(
        (data.train.len(), data.test.len(), data.test.label(1)),
        (4, 2, Some(9))
    );
    assert_eq!(data.train.get(1).unwrap().image.data(), [4, 5, 6, 7]);
    write("t10k-images-idx3-ubyte.gz", &gzip(&images(2, 3, 2)));
    assert!(matches!(
        mnist::open(dir.path()),
        Err(DataError::IdxSizes { .. })
    ));
    let gone = mnist::open(&dir.path().join("nowhere")).unwrap_err();
    assert!(matches!(gone, DataError::Io { .. }));
}

#[test]
fn the_embedded_sample() {
    let data = mnist::embedded().unwrap();
    assert_eq!(
        (data.train.len(), data.test.len(), data.train.size()),
        (8000, 2000, (28, 28))
    );
    assert_eq!(
        (
            data.train.label(0),
            data.train.label(1),
            data.train.label(2)
        ),
        (Some(9), Some(3), Some(7))
    );
    for counts in [
        crate::class_counts(&data.train),
        crate::class_counts(&data.test),
    ] {
        let total: usize = counts.iter().sum();
        assert!(
            counts.iter().all(|&n| n * 15 > total && n * 7 < total),
            "{counts:?}"
        );
    }
    // The mean that the preprocessing states, to what a subset of an eighth allows.
    let bright: u64 = (0..8000)
        .map(|i| {
            data.train
                .get(i)
                .unwrap()
                .image
                .data()
                .iter()
                .map(|&v| u64::from(v))
                .sum::<u64>()
        })
        .sum();
    let mean = bright as f64 / (8000.0 * 784.0 * 255.0);
    assert!((mean - 0.1307).abs() < 0.003, "{mean}");
    assert!(matches!(
        data.train.get(8000),
        Err(DataError::Index {
            index: 8000,
            len: 8000
        })
    ));
}
