//! Decoding and transforms against Pillow, on real photos: every record of the fixtures.

use lenslet_data::decode::{self, Colour};
use lenslet_data::transform::{self, Affine, resize, warp};
use lenslet_data::{Channels, Image, Interpolation, Preprocess, Resize};
use serde_json::Value;
use std::path::{Path, PathBuf};

fn reference() -> PathBuf {
    let given = std::env::var_os("LENSLET_REFERENCE_DIR").map(PathBuf::from);
    given
        .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures"))
        .join("transforms")
}

fn fixture() -> Value {
    let path = reference().join("transforms.json");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap()
}

fn floats(v: &Value) -> Vec<f64> {
    v.as_array()
        .unwrap()
        .iter()
        .map(|v| v.as_f64().unwrap())
        .collect()
}

/// A result as planes: channels, height, width, values.
struct Planes {
    shape: [usize; 3],
    values: Vec<f64>,
}

impl From<&Image> for Planes {
    fn from(image: &Image) -> Self {
        let (c, n) = (image.channels(), image.width() * image.height());
        let values = (0..c)
            .flat_map(|k| (0..n).map(move |i| f64::from(image.data()[i * c + k])))
            .collect();
        Self {
            shape: [c, image.height(), image.width()],
            values,
        }
    }
}

/// How far a result is from its record: the largest difference on the grid, and of a channel's mean.
fn difference(ours: &Planes, record: &Value) -> (f64, f64) {
    let shape: Vec<usize> = floats(&record["shape"])
        .iter()
        .map(|&v| v as usize)
        .collect();
    assert_eq!(shape, ours.shape);
    let [c, h, w] = ours.shape;
    let (mut worst, mut mean_off) = (0.0f64, 0.0f64);
    let means = floats(&record["mean"]);
    for k in 0..c {
        let plane = &ours.values[k * h * w..(k + 1) * h * w];
        let grid = floats(&record["grid"][k]);
        for (at, expected) in grid.into_iter().enumerate() {
            let y = ((at / 16) as f64 + 0.5) * h as f64 / 16.0;
            let x = ((at % 16) as f64 + 0.5) * w as f64 / 16.0;
            worst = worst.max((plane[y as usize * w + x as usize] - expected).abs());
        }
        mean_off = mean_off.max((plane.iter().sum::<f64>() / plane.len() as f64 - means[k]).abs());
    }
    (worst, mean_off)
}

fn rotate(image: &Image, degrees: f64, interpolation: Interpolation) -> Image {
    let map = Affine::about_centre(image.width(), image.height(), degrees, 1.0, 0.0, 0.0);
    warp(image, map, interpolation, 0)
}

/// The whole path to a model's input, in the units of the record.
fn pipeline(image: &Image, preprocess: &Preprocess) -> Planes {
    let mut out = vec![0.0; preprocess.output_len()];
    preprocess.apply(image.clone(), None, &mut out).unwrap();
    Planes {
        shape: preprocess.output_shape(),
        values: out.into_iter().map(f64::from).collect(),
    }
}

fn number(text: &str) -> f64 {
    text.parse().unwrap()
}

/// The operation that a record's name stands for.
fn run(op: &str, native: &Image, rgb: &Image) -> Planes {
    use Interpolation::{Bicubic, Bilinear, Nearest};
    let short = |n: usize, i: Interpolation| {
        let (w, h) = Resize::ShortSide(n).target(native.width(), native.height());
        resize(native.clone(), w, h, i).unwrap()
    };
    let own = |image: &Image| (image.width(), image.height());
    let (w, h) = own(native);
    let image = match op {
        "imagenet_eval_256_224" => return pipeline(rgb, &Preprocess::imagenet(256, 224, Bilinear)),
        "guide_val_255_224" => return pipeline(rgb, &Preprocess::imagenet(255, 224, Bilinear)),
        "bicubic_eval_256_224" => return pipeline(rgb, &Preprocess::imagenet(256, 224, Bicubic)),
        "totensor_normalize" => {
            let as_is = Preprocess {
                resize: Resize::Keep,
                crop: [h, w],
                ..Preprocess::imagenet(1, 1, Bilinear)
            };
            return pipeline(rgb, &as_is);
        }
        "resize256_bilinear" => short(256, Bilinear),
        "resize256_bicubic" => short(256, Bicubic),
        "resize64_bilinear" => short(64, Bilinear),
        "resize_100x140_bicubic" => resize(native.clone(), 140, 100, Bicubic).unwrap(),
        "resize96_nearest" => short(96, Nearest),
        "center_crop160" => native.center_crop(160, 160),
        "center_crop_pad" => native.center_crop(w - 30, h + 21),
        "hflip" => native.clone().flip_horizontal(),
        "vflip" => native.clone().flip_vertical(),
        "grayscale" => rgb.clone().to_channels(Channels::Grey),
        _ => {
            let (name, argument) = op.split_once('_').unwrap();
            let factor = |image: &Image, f: fn(Image, f32) -> Image| {
                f(image.clone(), number(argument) as f32)
            };
            match name {
                "brightness" => factor(native, transform::brightness),
                "contrast" => factor(native, transform::contrast),
                "saturation" => factor(native, transform::saturation),
                "hue" => factor(native, transform::hue),
                "resized" => {
                    // resized_crop_t64_l51_h256_w307_to224
                    let figures: Vec<usize> = argument
                        .split('_')
                        .filter_map(|p| p.trim_start_matches(char::is_alphabetic).parse().ok())
                        .collect();
                    let &[top, left, height, width, to] = figures.as_slice() else {
                        panic!("{op}")
                    };
                    resize(
                        rgb.crop(left as isize, top as isize, width, height),
                        to,
                        to,
                        Bilinear,
                    )
                    .unwrap()
                }
                rotation if rotation.starts_with("rotate") => {
                    let interpolation = if argument == "nearest" {
                        Nearest
                    } else {
                        Bilinear
                    };
                    rotate(native, number(&rotation["rotate".len()..]), interpolation)
                }
                _ => panic!("no operation {op}"),
            }
        }
    };
    Planes::from(&image)
}

#[test]
fn every_record_within_a_level() {
    let fixture = fixture();
    let mut failures = Vec::new();
    let mut count = 0;
    for (file, entry) in fixture["images"].as_object().unwrap() {
        let native = decode::read(&reference().join("images").join(file))
            .unwrap()
            .image;
        let rgb = native.clone().to_channels(Channels::Rgb);
        let jpeg = file.ends_with(".jpg");
        // Decoders of JPEG may differ; see `decoded_pixels`. Contrast steepens by a fifth what they differ by.
        let levels = if jpeg { 3.0 } else { 1.0 };
        for (op, record) in entry["results"]["pil"].as_object().unwrap() {
            let normalised = op.contains("eval") || op.contains("val") || op.contains("normalize");
            // A level in the units of the normalised result: the smallest deviation is 0.224.
            let limit = if normalised {
                levels / 255.0 / 0.224
            } else {
                levels
            };
            let (worst, mean) = difference(&run(op, &native, &rgb), record);
            count += 1;
            println!(
                "{file:28} {op:42} {:8.4} {:8.5}",
                worst / limit * levels,
                mean / limit * levels
            );
            // The records have six digits; a bilinear rotation rounds where Pillow cuts off, half a level on average.
            let mean_limit = match op.as_str() {
                "rotate15_bilinear" => 0.5,
                _ if jpeg => 0.4 / levels * limit,
                _ => 0.05 * limit,
            };
            if worst > limit + 2e-5 || mean > mean_limit {
                failures.push(format!(
                    "{file} {op}: largest difference {worst}, of means {mean}, limit {limit}"
                ));
            }
        }
    }
    assert!(count >= 100, "only {count} records");
    assert!(
        failures.is_empty(),
        "{} of {count}:\n{}",
        failures.len(),
        failures.join("\n")
    );
}

#[test]
fn decoded_pixels() {
    let fixture = fixture();
    for (file, entry) in fixture["images"].as_object().unwrap() {
        let decoded = decode::read(&reference().join("images").join(file)).unwrap();
        let upright = entry.get("exif_transposed").unwrap_or(&entry["decoded"]);
        let (worst, mean) = difference(&Planes::from(&decoded.image), upright);
        println!("{file}: {worst} {mean}");
        // PNG exactly; for JPEG what two sound decoders differ by (inverse DCT and chroma upsampling).
        let (limit, mean_limit) = if file.ends_with(".jpg") {
            (2.0, 0.3)
        } else {
            (0.0, 1e-3)
        };
        assert!(
            worst <= limit && mean <= mean_limit,
            "{file}: {worst}, mean {mean}"
        );
        let orientation = entry["exif_orientation"].as_u64().unwrap_or(1);
        assert_eq!(u64::from(decoded.info.orientation), orientation);
        let mode = entry["mode"].as_str().unwrap();
        assert_eq!(
            (decoded.info.colour == Colour::Grey, decoded.info.alpha),
            (mode == "L", mode == "RGBA"),
            "{file}"
        );
        if let Some(converted) = entry.get("convert_RGB") {
            let rgb = decoded.image.to_channels(Channels::Rgb);
            assert_eq!(difference(&Planes::from(&rgb), converted).0, 0.0, "{file}");
        }
    }
}

/// Ink to light, without colour management, as Pillow has it.
#[test]
fn cmyk_jpeg() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let decoded = decode::read(&fixtures.join("cmyk.jpg")).unwrap();
    assert_eq!(
        (decoded.info.colour, decoded.image.channels()),
        (Colour::Cmyk, 3)
    );
    let expected: Value =
        serde_json::from_str(&std::fs::read_to_string(fixtures.join("extra.json")).unwrap())
            .unwrap();
    let (w, h) = (decoded.image.width(), decoded.image.height());
    let mut worst = 0.0f64;
    for (at, pixel) in expected["cmyk"].as_array().unwrap().iter().enumerate() {
        let y = (((at / 16) as f64 + 0.5) * h as f64 / 16.0) as usize;
        let x = (((at % 16) as f64 + 0.5) * w as f64 / 16.0) as usize;
        for (k, v) in floats(pixel).into_iter().enumerate() {
            worst = worst.max((v - f64::from(decoded.image.data()[(y * w + x) * 3 + k])).abs());
        }
    }
    assert!(worst <= 3.0, "{worst}");
}
