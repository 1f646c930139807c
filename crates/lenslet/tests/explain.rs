//! `lenslet explain`: pictures that say how models work.

mod common;

use std::path::{Path, PathBuf};

use common::{folder, refuse, small_run, succeed, write};
use lenslet_data::{Dataset, Image, mnist};
use serde_json::Value;

fn photo(name: &str) -> PathBuf {
    let photos = "../lenslet-data/tests/fixtures/transforms/images";
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join(photos)
        .join(name)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn json(dir: &Path, args: &[&str]) -> Value {
    let args = [args, &["--json"]].concat();
    serde_json::from_str(&succeed(dir, &args).stdout).unwrap()
}

fn size(path: &Path) -> (u32, u32) {
    image::image_dimensions(path).unwrap()
}

#[test]
fn a_convolution_is_traced_and_drawn() {
    let dir = folder();
    let ran = succeed(dir.path(), &["explain", "conv", "--trace"]);
    assert!(
        ran.stdout.ends_with("output\n4 3 4\n2 4 3\n2 3 4\n"),
        "{}",
        ran.stdout
    );
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);

    std::fs::write(dir.path().join("k.csv"), "0.5, 0.5\n-1, 1\n").unwrap();
    std::fs::write(dir.path().join("m.csv"), "1,2,3\n4,5,6\n7,8,9\n").unwrap();
    let args = ["explain", "conv", "m.csv", "--kernel", "k.csv", "--trace"];
    let ran = succeed(dir.path(), &args);
    assert!(
        ran.stdout
            .contains("row 2, column 1: 4·0.5 + 5·0.5 + 7·-1 + 8·1 = 5.5")
    );
    succeed(dir.path(), &["explain", "conv", "-o", "a.png"]);
    let coffee = photo("coffee_300x200.png");
    for kernel in [
        "edge", "sharpen", "blur", "sobel-x", "sobel-y", "emboss", "k.csv",
    ] {
        let args = [
            "explain",
            "conv",
            text(&coffee),
            "--kernel",
            kernel,
            "--padding",
            "1",
        ];
        succeed(dir.path(), &[&args[..], &["-o", "b.png"]].concat());
    }
    assert_eq!(
        size(&dir.path().join("a.png")),
        size(&dir.path().join("b.png"))
    );
    let args = [
        "explain",
        "conv",
        text(&coffee),
        "--stride",
        "3",
        "-o",
        "c.svg",
    ];
    let told = json(dir.path(), &args);
    assert_eq!(told["size"], serde_json::json!([66, 100]));
    let svg = std::fs::read_to_string(dir.path().join("c.svg")).unwrap();
    assert!(svg.contains("kernel: edge, 3×3") && svg.contains("data:image/png;base64"));
}

#[cfg(feature = "pretrained")]
#[test]
fn filters_and_maps_are_drawn() {
    let dir = folder();
    let told = json(dir.path(), &["explain", "filters", "efficientnet_lite0"]);
    assert_eq!(told["layer"], "conv_stem");
    assert_eq!(
        (&told["filters"], &told["size"]),
        (&32.into(), &serde_json::json!([3, 3]))
    );
    let cat = photo("chelsea_390x270.png");
    let args = ["explain", "features", "efficientnet_lite0", text(&cat)];
    let told = json(
        dir.path(),
        &[&args[..], &["--layer", "blocks.3", "-o", "f.svg"]].concat(),
    );
    assert_eq!(told["size"], serde_json::json!([28, 28]));
    let svg = std::fs::read_to_string(dir.path().join("f.svg")).unwrap();
    let maps = told["maps"].as_u64().unwrap() as usize;
    assert_eq!(svg.matches("<image ").count(), maps + 1);
    succeed(dir.path(), &args);
    assert!(size(&dir.path().join("explain.png")).0 > 500);
}

/// Middle of the heat, from 0 to 1 in rows and in columns.
fn middle(told: &Value) -> [f64; 2] {
    let rows = told["heat"].as_array().unwrap();
    let (mut sum, mut at) = (0.0, [0.0; 2]);
    for (y, row) in rows.iter().enumerate() {
        let row = row.as_array().unwrap();
        for (x, value) in row.iter().enumerate() {
            let value = value.as_f64().unwrap();
            sum += value;
            at[0] += value * (y as f64 + 0.5) / rows.len() as f64;
            at[1] += value * (x as f64 + 0.5) / row.len() as f64;
        }
    }
    at.map(|v| v / sum)
}

/// A picture in a corner of a larger, plain one.
fn in_corner(small: &Image, side: [usize; 2], [down, right]: [bool; 2], ground: u8) -> Image {
    let (channels, [height, width]) = (small.channels(), side);
    let mut data = vec![ground; height * width * channels];
    let top = if down { height - small.height() } else { 0 };
    let left = if right { width - small.width() } else { 0 };
    for y in 0..small.height() {
        let row = &small.data()[y * small.width() * channels..][..small.width() * channels];
        let at = ((top + y) * width + left) * channels;
        data[at..at + row.len()].copy_from_slice(row);
    }
    Image::new(width, height, channels, data).unwrap()
}

#[cfg(feature = "pretrained")]
#[test]
fn the_heat_lies_on_the_cat() {
    let dir = folder();
    let cat = lenslet_data::decode::read(&photo("chelsea_390x270.png"))
        .unwrap()
        .image;
    for corner in [[false, false], [true, true]] {
        let canvas = in_corner(&cat, [540, 780], corner, 127);
        std::fs::write(dir.path().join("cat.png"), canvas.to_png().unwrap()).unwrap();
        let args = [
            "explain",
            "gradcam",
            "efficientnet_lite0",
            "cat.png",
            "--class",
            "egyptian CAT",
        ];
        let told = json(dir.path(), &args);
        assert_eq!(told["class"], "Egyptian cat");
        let at = middle(&told);
        println!("{corner:?} {at:?}");
        for (at, far) in at.into_iter().zip(corner) {
            assert_eq!(at > 0.5, far, "{corner:?} {at}");
        }
    }
}

/// A digit at half its size in a corner of LeNet-5's input.
fn digit(dataset: &dyn Dataset, index: usize, corner: [bool; 2]) -> (Image, usize) {
    let sample = dataset.get(index).unwrap();
    let at = |x: usize, y: usize| u32::from(sample.image.data()[y * 28 + x]);
    let half = (0..14 * 14).map(|i| {
        let (x, y) = (i % 14 * 2, i / 14 * 2);
        ((at(x, y) + at(x + 1, y) + at(x, y + 1) + at(x + 1, y + 1)) / 4) as u8
    });
    let small = Image::new(14, 14, 1, half.collect()).unwrap();
    (
        in_corner(&small, [32, 32], corner, 0),
        sample.label as usize,
    )
}

#[test]
fn the_heat_lies_on_the_digit() {
    let dir = folder();
    let digits = mnist::embedded().unwrap();
    let corner = |i: usize| [i & 1 == 1, i & 2 == 2];
    let mut written = 0;
    for index in 0..900 {
        let (image, label) = digit(&digits.train, index, corner(index));
        if label < 3 {
            let path = dir.path().join(format!("digits/{label}/{index}.png"));
            write(&path, &image.to_png().unwrap());
            written += 1;
        }
    }
    assert!(written > 200);
    let args = [
        "train",
        "digits",
        "--model",
        "lenet5",
        "--from-scratch",
        "--quiet",
    ];
    let more = ["--epochs", "25", "--no-augment", "--lr", "0.004"];
    succeed(dir.path(), &[&args[..], &more].concat());
    let mut right = Vec::new();
    for index in 0..40 {
        let (image, label) = digit(&digits.test, index, corner(index));
        if label >= 3 {
            continue;
        }
        let file = format!("{index}.png");
        std::fs::write(dir.path().join(&file), image.to_png().unwrap()).unwrap();
        let class = label.to_string();
        let args = [
            "explain",
            "gradcam",
            "runs/lenet5-1",
            &file,
            "--class",
            &class,
        ];
        let told = json(dir.path(), &args);
        let at = middle(&told);
        let inside = at
            .iter()
            .zip(corner(index))
            .all(|(at, far)| (*at > 0.5) == far);
        println!("{index} {label} {:?} {at:?}", corner(index));
        right.push(inside);
    }
    let share = right.iter().filter(|&&r| r).count() as f64 / right.len() as f64;
    assert!(share >= 0.8, "{share} of {}", right.len());
}

#[test]
fn a_unit_sees_its_window() {
    let dir = folder();
    let args = ["explain", "receptive-field", "resnet50", "--layer"];
    let told = json(
        dir.path(),
        &[&args[..], &["layer4", "-o", "r.svg"]].concat(),
    );
    assert_eq!(told["receptive_field"], serde_json::json!([427, 427]));
    assert_eq!(told["effective_side_95"], Value::Null);
    let args = [
        "explain",
        "receptive-field",
        "lenet5",
        "--layer",
        "features.3",
        "--effective",
    ];
    let told = json(dir.path(), &args);
    assert_eq!(told["receptive_field"], serde_json::json!([14, 14]));
    let side = told["effective_side_95"].as_u64().unwrap();
    assert!((6..=14).contains(&side), "{side}");
    let cat = photo("chelsea_390x270.png");
    let args = [
        "explain",
        "receptive-field",
        "resnet18",
        text(&cat),
        "--layer",
        "layer2",
    ];
    succeed(dir.path(), &[&args[..], &["-o", "cat.png"]].concat());
    assert!(size(&dir.path().join("cat.png")).0 > 500);
}

#[test]
fn what_cannot_work_is_explained() {
    let dir = folder();
    let refused = |args: &[&str], code, words: &[&str]| {
        let args = [&["explain"], args].concat();
        refuse(dir.path(), &args, code, words);
    };
    let run = small_run(dir.path());
    let run = text(&run);
    let cat = photo("chelsea_390x270.png");
    let cat = text(&cat);
    refused(&["conv", "none.png"], 1, &["none.png"]);
    refused(
        &["conv", cat, "--kernel", "sobel"],
        2,
        &["sobel-x, sobel-y"],
    );
    refused(
        &["conv", cat, "--trace"],
        1,
        &["too large to follow", "at most 16"],
    );
    refused(&["conv", "--stride", "0"], 2, &["at least 1"]);
    refused(&["conv", "--dilation", "9"], 1, &["kernel"]);
    refused(&["conv", "-o", "x.jpg"], 2, &[".png or .svg"]);
    refused(&["conv", "-o", "no/such/x.png"], 1, &["no/such/x.png"]);
    for (content, words) in [
        ("1,2\n3\n", "row 2 has 1 numbers, the first 2"),
        ("1,x\n", "'x', which is no number"),
        ("", "holds no numbers"),
    ] {
        std::fs::write(dir.path().join("m.csv"), content).unwrap();
        refused(&["conv", "m.csv"], 1, &["m.csv", words]);
    }
    refused(&["filters", "resnet18"], 1, &["has no weights of its own"]);
    refused(
        &["filters", run, "--layer", "features.9"],
        1,
        &["is no convolution", "features.0"],
    );
    refused(&["features", run, "none.png"], 1, &["none.png"]);
    refused(
        &["features", run, cat, "--layer", "features.8"],
        1,
        &["does not run", "near names are features."],
    );
    refused(
        &["gradcam", run, cat, "--class", "cat"],
        2,
        &["--class", "the model knows"],
    );
    refused(
        &["gradcam", run, cat, "--layer", "layer4"],
        1,
        &["does not run", "features"],
    );
    refused(
        &["receptive-field", "resnet18", "--layer", "fc"],
        1,
        &["whole picture"],
    );
    refused(
        &["receptive-field", "resnet18", "--layer", "layer9"],
        1,
        &["does not run", "layer1"],
    );
    refused(
        &["receptive-field", "resnet19", "--layer", "layer4"],
        2,
        &["resnet18"],
    );
}
