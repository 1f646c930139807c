//! Prediction with weights that were not trained here: the model inside the program, and files.

mod common;

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use common::{folder, photos, refuse, succeed};
use lenslet_models::{export, variant};
use lenslet_nn::Init;
use lenslet_weights::Precision;
use serde_json::Value;

fn photo(name: &str) -> String {
    let photos = "../lenslet-data/tests/fixtures/transforms/images";
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join(photos)
        .join(name);
    path.display().to_string()
}

fn predictions(stdout: &str) -> Vec<(String, f64)> {
    let picture: Value = serde_json::from_str(stdout).unwrap();
    let list = picture["predictions"].as_array().unwrap();
    list.iter()
        .map(|p| {
            let class = p["class"].as_str().unwrap().to_string();
            (class, p["probability"].as_f64().unwrap())
        })
        .collect()
}

#[cfg(feature = "pretrained")]
#[test]
fn the_model_inside_knows_photos() {
    let dir = folder();
    let ran = succeed(
        dir.path(),
        &["predict", &photo("coffee_300x200.png"), "--json"],
    );
    let (class, share) = &predictions(&ran.stdout)[0];
    assert_eq!(class, "espresso");
    assert!(*share > 0.7, "{share}");
    for cat in ["chelsea_390x270.png", "chelsea_exif6_200x300.jpg"] {
        let ran = succeed(dir.path(), &["predict", &photo(cat), "--json"]);
        let mut classes: Vec<_> = predictions(&ran.stdout).into_iter().map(|p| p.0).collect();
        classes.sort();
        assert_eq!(classes, ["Egyptian cat", "tabby", "tiger cat"]);
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// `lenslet train photos/` and nothing else.
#[cfg(feature = "pretrained")]
#[test]
fn photos_alone_train_a_classifier_on_the_model_inside() {
    let dir = folder();
    let data = photos(dir.path(), &["train", "val"], 6);
    let ran = succeed(
        dir.path(),
        &["train", data.to_str().unwrap(), "--epochs", "8"],
    );
    for words in [
        "efficientnet_lite0",
        "model inside the program",
        "runs once",
    ] {
        assert!(ran.stderr.contains(words), "no {words} in {}", ran.stderr);
    }
    let run = "runs/efficientnet_lite0-1";
    let ran = succeed(dir.path(), &["eval", "--model", run, "--json"]);
    let found: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert!(found["top1"].as_f64().unwrap() > 0.8, "{found}");
    let new = data.join("val/grün/1.png");
    let ran = succeed(
        dir.path(),
        &["predict", new.to_str().unwrap(), "--model", run],
    );
    assert!(ran.stdout.contains("1.png: grün"), "{}", ran.stdout);
    succeed(dir.path(), &["verify", run]);
}

#[cfg(not(feature = "pretrained"))]
#[test]
fn without_a_model_inside_photos_need_weights() {
    let dir = folder();
    let data = photos(dir.path(), &["train", "val"], 2);
    let words = ["without a model inside", "--weights", "--from-scratch"];
    refuse(dir.path(), &["train", data.to_str().unwrap()], 1, &words);
    refuse(
        dir.path(),
        &["predict", &photo("coffee_300x200.png")],
        1,
        &["--model"],
    );
    assert!(!dir.path().join("runs").exists());
}

/// A file with random weights.
fn weights(dir: &Path, name: &str, classes: usize) -> PathBuf {
    let init = &mut Init::seeded(&Device::flex(), 0);
    let model = variant(name).unwrap().build(classes, init);
    let path = dir.join(format!("{name}-{classes}.safetensors"));
    lenslet_weights::write(&path, &export(&model), None, Precision::F16).unwrap();
    path
}

#[test]
fn any_architecture_predicts_with_a_file() {
    let dir = folder();
    let picture = photo("coffee_300x200.png");
    for (name, classes, inside) in [
        ("squeezenet1_1", 1000, "tench"),
        ("googlenet", 3, "class 2"),
    ] {
        let file = weights(dir.path(), name, classes);
        let file = file.to_str().unwrap();
        let top = classes.to_string();
        let args = [
            "predict",
            &picture,
            "--json",
            "--top",
            &top,
            "--model",
            name,
            "--weights",
            file,
        ];
        let ran = succeed(dir.path(), &args);
        let list = predictions(&ran.stdout);
        assert_eq!(list.len(), classes);
        assert!(list.iter().any(|(class, _)| class == inside));
        assert_eq!(
            ran.stderr.contains("auxiliary classifiers"),
            name == "googlenet"
        );
    }
}

#[test]
fn what_cannot_work_is_explained() {
    let dir = folder();
    let picture = photo("coffee_300x200.png");
    let file = weights(dir.path(), "squeezenet1_1", 10);
    let file = file.to_str().unwrap();
    let predict = |more: &[&str], code, words: &[&str]| {
        let args = [&["predict", &picture], more].concat();
        refuse(dir.path(), &args, code, words);
    };
    let fit = [
        "does not fit",
        "missing     conv1.weight",
        "unexpected  features.0.weight",
    ];
    predict(&["--model", "resnet18", "--weights", file], 1, &fit);
    predict(
        &["--model", "resnet18"],
        1,
        &["has no weights of its own", "--weights"],
    );
    let near = ["no model is called resnet81", "resnet18"];
    predict(&["--model", "resnet81", "--weights", file], 2, &near);
    predict(&["--weights", file], 2, &["--model"]);
    std::fs::write(dir.path().join("text.pth"), "no weights are in here").unwrap();
    let text = ["--model", "resnet18", "--weights", "text.pth"];
    predict(&text, 1, &["text.pth cannot be read as weights"]);
    predict(
        &["--model", "resnet18", "--weights", "gone.pth"],
        1,
        &["cannot read gone.pth"],
    );
}

/// Runs a prediction of SqueezeNet with a cache in `dir` and nobody to fetch from.
fn squeezenet(dir: &Path, weights: &str) -> common::Ran {
    let photo = photo("coffee_300x200.png");
    let args = [
        "predict",
        &photo,
        "--model",
        "squeezenet1_1",
        "--weights",
        weights,
    ];
    let mut command = common::lenslet(dir);
    command.args(args).env("XDG_CACHE_HOME", dir.join("cache"));
    command.env("LENSLET_WEIGHTS_URL", "http://127.0.0.1:1/models");
    command.output().unwrap().into()
}

#[cfg(feature = "fetch")]
#[test]
fn published_weights_come_from_the_cache_or_not_at_all() {
    let dir = folder();
    let ran = squeezenet(dir.path(), "default");
    let url = "cannot fetch http://127.0.0.1:1/models/squeezenet1_1-b8a52dc0.pth";
    common::check_refusal(&ran, 1, &[url, "network", "--weights"]);

    let ran = squeezenet(dir.path(), "IMAGENET1K_V7");
    common::check_refusal(&ran, 1, &["published for it are IMAGENET1K_V1"]);

    let cache = dir.path().join("cache/lenslet/weights");
    let cached = cache.join("squeezenet1_1-b8a52dc0.pth");
    std::fs::copy(weights(dir.path(), "squeezenet1_1", 1000), &cached).unwrap();
    for name in ["default", "imagenet1k_v1", "squeezenet1_1-b8a52dc0.pth"] {
        let ran = squeezenet(dir.path(), name);
        assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{name}");
    }
}
