//! The report on a folder with one of everything.

mod common;

use common::picture;
use image::{DynamicImage, ImageBuffer, ImageFormat, Luma, Rgb, RgbImage, Rgba};
use lenslet_data::check::{self, Report};
use lenslet_data::decode::Limits;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

fn report(dir: &Path) -> Report {
    check::folder(dir, Limits::default(), &|_, _| {}).unwrap()
}

fn photo(w: u32, h: u32) -> RgbImage {
    RgbImage::from_fn(w, h, |x, y| {
        let (x, y) = (x as f32 / w as f32, y as f32 / h as f32);
        let wave = |f: f32, g: f32| ((f * x + g * y).sin() * 90.0 + 128.0) as u8;
        Rgb([wave(9.0, 3.0), wave(2.0, 12.0), wave(5.0, -7.0)])
    })
}

#[test]
fn one_of_everything() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for (i, name) in [
        "train/a/0.png",
        "train/a/1.png",
        "train/a/2.png",
        "train/b/3.png",
        "val/a/4.png",
        "val/b/5.png",
    ]
    .iter()
    .enumerate()
    {
        picture(&at(name), i as u32 + 1);
    }
    let save = |pixels: DynamicImage, name: &str, format| {
        pixels.save_with_format(at(name), format).unwrap()
    };
    save(
        ImageBuffer::from_fn(50, 40, |x, y| Luma([(x * y % 250) as u8])).into(),
        "train/a/grey.png",
        ImageFormat::Png,
    );
    save(
        ImageBuffer::from_fn(50, 40, |x, y| Rgba([x as u8 * 5, y as u8, 0, x as u8])).into(),
        "train/a/alpha.png",
        ImageFormat::Png,
    );
    save(
        ImageBuffer::from_fn(50, 40, |x, y| Rgb([x as u16 * 1000, y as u16 * 900, 7])).into(),
        "train/b/deep.png",
        ImageFormat::Png,
    );
    // The same photo resized and compressed, in another split; and a copy in another class.
    save(
        photo(200, 160).into(),
        "train/b/photo.png",
        ImageFormat::Png,
    );
    save(photo(100, 80).into(), "val/b/small.jpg", ImageFormat::Jpeg);
    std::fs::copy(at("train/a/0.png"), at("train/b/copy.png")).unwrap();
    let whole = std::fs::read(at("val/b/small.jpg")).unwrap();
    std::fs::write(at("val/b/cut.jpg"), &whole[..whole.len() / 2]).unwrap();
    std::fs::write(at("val/b/text.png"), "no image").unwrap();
    std::fs::write(at("train/notes.md"), "notes").unwrap();
    let exif = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/transforms/images/chelsea_exif6_200x300.jpg");
    std::fs::copy(exif, at("val/a/lying.jpg")).unwrap();

    let calls = AtomicUsize::new(0);
    let report = check::folder(dir.path(), Limits::default(), &|done, all| {
        assert!(done <= all && all == 14 + 1);
        calls.fetch_add(1, Ordering::SeqCst);
    })
    .unwrap();
    assert_eq!(calls.load(Ordering::SeqCst), 15);
    assert!(report.errors.is_empty(), "{:?}", report.errors);
    assert_eq!(
        report
            .splits
            .iter()
            .map(|(n, c)| (n.as_str(), *c))
            .collect::<Vec<_>>(),
        [("train", 9), ("val", 6)]
    );
    assert_eq!(
        (
            report.classes[0].name.as_str(),
            report.classes[0].files["train"],
            report.classes[1].files["val"]
        ),
        ("a", 5, 4)
    );
    assert_eq!(report.imbalance, 5.0 / 4.0);
    assert_eq!(
        report
            .truncated
            .iter()
            .map(|f| f.file.as_str())
            .collect::<Vec<_>>(),
        ["val/b/cut.jpg"]
    );
    assert_eq!(
        report
            .unreadable
            .iter()
            .map(|f| f.file.as_str())
            .collect::<Vec<_>>(),
        ["val/b/text.png"]
    );
    assert!(report.unreadable[0].error.contains("is not an image"));
    assert_eq!(
        (report.grey.examples.as_slice(), report.grey.count),
        (["train/a/grey.png".to_string()].as_slice(), 1)
    );
    assert_eq!(report.alpha.examples, ["train/a/alpha.png"]);
    assert_eq!(report.sixteen_bit.examples, ["train/b/deep.png"]);
    assert_eq!(report.exif_rotated.examples, ["val/a/lying.jpg"]);
    assert_eq!(report.cmyk.count, 0);
    assert_eq!(report.ignored.examples, ["train/notes.md"]);
    let sizes = report.sizes.unwrap();
    assert_eq!(
        (sizes.min, sizes.max, sizes.tiny),
        ([12, 10], [300, 200], 7)
    );
    assert_eq!((report.formats["PNG"], report.formats["JPEG"]), (11, 2));
    let exact = &report.exact_duplicates;
    assert_eq!(
        (exact.len(), exact[0].files.as_slice()),
        (
            1,
            ["train/a/0.png", "train/b/copy.png"]
                .map(String::from)
                .as_slice()
        )
    );
    assert!(exact[0].across_classes && !exact[0].across_splits);
    let near = &report.near_duplicates;
    assert_eq!(
        near.iter().map(|d| d.files.join(" ")).collect::<Vec<_>>(),
        ["train/b/photo.png val/b/small.jpg"]
    );
    assert!(near[0].across_splits && !near[0].across_classes);
    // Through JSON and back.
    let json = serde_json::to_string(&report).unwrap();
    assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report);
}

#[test]
fn different_pictures_are_not_duplicates() {
    let dir = tempfile::tempdir().unwrap();
    let digits = lenslet_data::mnist::embedded().unwrap().test;
    use lenslet_data::Dataset;
    for i in 0..400 {
        let sample = digits.get(i).unwrap();
        let path = dir
            .path()
            .join(sample.label.to_string())
            .join(format!("{i}.png"));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, sample.image.to_png().unwrap()).unwrap();
    }
    let report = report(dir.path());
    assert_eq!((report.grey.count, report.classes.len()), (400, 10));
    assert!(report.exact_duplicates.is_empty());
    assert!(
        report.near_duplicates.len() <= 1,
        "{:?}",
        report.near_duplicates
    );
}

#[test]
fn flat_and_extreme_pictures() {
    let dir = tempfile::tempdir().unwrap();
    for (i, (w, h)) in [(1, 1), (4000, 1), (1, 4000), (30, 30), (30, 31)]
        .into_iter()
        .enumerate()
    {
        let path = dir.path().join(format!("{}/{i}.png", i % 2));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        RgbImage::from_pixel(w, h, Rgb([9, 9, 9]))
            .save_with_format(path, ImageFormat::Png)
            .unwrap();
    }
    let report = report(dir.path());
    assert!(report.unreadable.is_empty() && report.near_duplicates.is_empty());
    assert_eq!(report.sizes.unwrap().tiny, 5);
}

#[test]
fn what_cannot_be_trained_on_is_still_reported() {
    let dir = tempfile::tempdir().unwrap();
    assert!(report(dir.path()).errors[0].contains("no class folders"));
    picture(&dir.path().join("train/a/1.png"), 1);
    picture(&dir.path().join("val/b/1.png"), 2);
    let report = report(dir.path());
    assert_eq!((report.errors.len(), report.classes.len()), (2, 2));
    assert!(check::folder(&dir.path().join("gone"), Limits::default(), &|_, _| {}).is_err());
}
