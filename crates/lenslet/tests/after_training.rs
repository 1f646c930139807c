//! Evaluation, prediction and verification with the real binary.

mod common;

use std::path::Path;

use common::{folder, refuse, run, small_run, succeed};
use safetensors::SafeTensors;
use serde_json::Value;

fn json(text: &str) -> Value {
    serde_json::from_str(text.trim()).unwrap()
}

/// A model trained well enough to read a digit, and its run's folder.
fn run_in(dir: &Path) -> String {
    small_run(dir).to_str().unwrap().to_string()
}

#[test]
fn eval_measures_the_held_out_part() {
    let dir = folder();
    let run_dir = run_in(dir.path());
    let ran = succeed(dir.path(), &["eval", "--model", &run_dir, "--json"]);
    let found = json(&ran.stdout);
    assert_eq!(found["samples"], 64);
    let confusion = found["confusion"].as_array().unwrap();
    let diagonal: u64 = (0..10).map(|i| confusion[i][i].as_u64().unwrap()).sum();
    assert_eq!(found["top1"].as_f64().unwrap(), diagonal as f64 / 64.0);
    assert_eq!(found["classes"].as_array().unwrap().len(), 10);
    let text = succeed(dir.path(), &["eval", "idx", "--model", &run_dir]).stdout;
    for word in [
        "top-1",
        "top-5",
        "precision",
        "recall",
        "F1",
        "true \\ predicted",
    ] {
        assert!(text.contains(word), "{word}");
    }
}

#[test]
fn verify_replays_the_golden_pictures() {
    let dir = folder();
    let run_dir = run_in(dir.path());
    let ran = succeed(dir.path(), &["verify", &run_dir, "--json"]);
    let found = json(&ran.stdout);
    assert_eq!(found["pictures"].as_array().unwrap().len(), 4);
    assert_eq!(found["holds"], true);
    // A model whose weights are not those that gave the logits must not pass.
    let path = Path::new(&run_dir).join("model.safetensors");
    rewrite(&path, |_, bytes| {
        let last = bytes.len() - 4;
        bytes[last..].copy_from_slice(&16f32.to_le_bytes());
    });
    assert_eq!(run(dir.path(), &["verify", &run_dir]).code, 1);
}

#[test]
fn predict_reads_files_folders_and_patterns() {
    let dir = folder();
    let run_dir = run_in(dir.path());
    let photos = dir.path().join("Fotos für später");
    std::fs::create_dir(&photos).unwrap();
    let sample = std::fs::read(Path::new(&run_dir).join("sample.png")).unwrap();
    for name in ["b.png", "a.png", ".hidden.png"] {
        std::fs::write(photos.join(name), &sample).unwrap();
    }
    std::fs::write(photos.join("notes.txt"), "none").unwrap();
    let paths = |ran: common::Ran| -> Vec<String> {
        ran.stdout
            .lines()
            .map(|line| json(line)["path"].as_str().unwrap().to_string())
            .collect()
    };
    let folder = photos.to_str().unwrap();
    let found = paths(succeed(
        dir.path(),
        &["predict", folder, "--model", &run_dir, "--json"],
    ));
    assert_eq!(found.len(), 2);
    assert!(found[0].ends_with("a.png") && found[1].ends_with("b.png"));
    let pattern = "Fotos*/b.*";
    let found = paths(succeed(
        dir.path(),
        &["predict", pattern, "--model", &run_dir, "--json"],
    ));
    assert_eq!(found.len(), 1);

    let one = photos.join("a.png");
    let one = one.to_str().unwrap();
    let ran = succeed(
        dir.path(),
        &["predict", one, "--model", &run_dir, "--json", "--top", "10"],
    );
    let predictions = json(&ran.stdout)["predictions"].as_array().unwrap().clone();
    let sum: f64 = predictions
        .iter()
        .map(|p| p["probability"].as_f64().unwrap())
        .sum();
    assert!(predictions.len() == 10 && (sum - 1.0).abs() < 1e-9);
    let csv = succeed(
        dir.path(),
        &["predict", one, "--model", &run_dir, "--csv", "--top", "2"],
    );
    let lines: Vec<&str> = csv.stdout.lines().collect();
    assert_eq!((lines.len(), lines[0]), (3, "path,rank,class,probability"));
}

#[test]
fn one_bad_picture_does_not_stop_the_others() {
    let dir = folder();
    let run_dir = run_in(dir.path());
    let good = Path::new(&run_dir).join("sample.png");
    let sample = std::fs::read(&good).unwrap();
    let bad = [
        ("torn.png", sample[..sample.len() / 2].to_vec()),
        ("noise.jpg", vec![0xff, 0xd8, 0xff, 0xe0, 1, 2, 3]),
        ("words.png", b"not a picture".to_vec()),
        ("empty.gif", Vec::new()),
    ];
    for (name, bytes) in &bad {
        std::fs::write(dir.path().join(name), bytes).unwrap();
    }
    std::fs::create_dir(dir.path().join("no pictures")).unwrap();
    let mut args = vec!["predict"];
    args.extend(bad.iter().map(|(name, _)| *name));
    args.extend([
        "missing.png",
        "no pictures",
        good.to_str().unwrap(),
        "--model",
        &run_dir,
    ]);
    let names = [
        "torn.png",
        "noise.jpg",
        "words.png",
        "empty.gif",
        "missing.png",
        "no pictures",
    ];
    let ran = refuse(dir.path(), &args, 1, &names);
    assert!(ran.stderr.contains("6 of 7"), "{}", ran.stderr);
    assert_eq!(ran.stdout.lines().count(), 1);
}

/// Writes a model file anew with its tensors changed.
fn rewrite(path: &Path, change: impl Fn(&str, &mut Vec<u8>)) {
    let bytes = std::fs::read(path).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Vec<_> = file
        .iter()
        .map(|(name, view)| {
            (
                name.to_string(),
                view.dtype(),
                view.shape().to_vec(),
                view.data().to_vec(),
            )
        })
        .collect();
    for (name, _, _, data) in &mut tensors {
        change(name, data);
    }
    let views = tensors.iter().map(|(name, dtype, shape, data)| {
        let view = safetensors::tensor::TensorView::new(*dtype, shape.clone(), data).unwrap();
        (name.as_str(), view)
    });
    let bytes = safetensors::serialize(views, header.metadata().clone()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

/// Replaces a text in the file's header by one of the same length.
fn patch(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let at = bytes
        .windows(from.len())
        .position(|w| w == from.as_bytes())
        .unwrap();
    let mut patched = bytes.to_vec();
    patched[at..at + to.len()].copy_from_slice(to.as_bytes());
    patched
}

#[test]
fn files_that_are_no_model_are_refused() {
    let dir = folder();
    let run_dir = run_in(dir.path());
    let model = std::fs::read(Path::new(&run_dir).join("model.safetensors")).unwrap();
    let shape = "\"classifier.2.bias\":{\"dtype\":\"F32\",\"shape\":[10]";
    let other = "\"classifier.9.bias\":{\"dtype\":\"F32\",\"shape\":[10]";
    let cases: [(&str, Vec<u8>, &[&str]); 5] = [
        ("torn", model[..model.len() / 2].to_vec(), &["truncated"]),
        (
            "words",
            b"this is no model file at all".to_vec(),
            &["not a Lenslet model file"],
        ),
        ("empty", Vec::new(), &["not a Lenslet model file"]),
        (
            "newer",
            patch(&model, "\\\"format\\\":1,", "\\\"format\\\":7,"),
            &["format 7", "update"],
        ),
        (
            "renamed",
            patch(&model, shape, other),
            &[
                "missing     classifier.2.bias",
                "unexpected  classifier.9.bias",
            ],
        ),
    ];
    for (name, bytes, words) in cases {
        let file = format!("{name}.safetensors");
        std::fs::write(dir.path().join(&file), bytes).unwrap();
        let words = [words, &[file.as_str()]].concat();
        for command in ["eval", "predict", "verify"] {
            let args: Vec<&str> = match command {
                "eval" => vec!["eval", "--model", &file],
                "predict" => vec!["predict", "x.png", "--model", &file],
                _ => vec!["verify", &file],
            };
            refuse(dir.path(), &args, 1, &words);
        }
    }
    refuse(dir.path(), &["verify", "nowhere"], 1, &["nowhere"]);
}

/// A model file whose tensor has another shape than its architecture says.
#[test]
fn a_tensor_of_the_wrong_shape_is_named() {
    let dir = folder();
    let run_dir = run_in(dir.path());
    let path = Path::new(&run_dir).join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let file = patch(
        &bytes,
        "\"classifier.2.weight\":{\"dtype\":\"F32\",\"shape\":[10,84]",
        "\"classifier.2.weight\":{\"dtype\":\"F32\",\"shape\":[84,10]",
    );
    std::fs::write(&path, file).unwrap();
    let words = ["classifier.2.weight", "[10, 84]", "[84, 10]"];
    refuse(dir.path(), &["verify", &run_dir], 1, &words);
}

#[test]
fn calc_gives_the_figures_of_the_guide() {
    let dir = folder();
    let conv = [
        "calc",
        "conv",
        "--input",
        "224",
        "--kernel",
        "7",
        "--stride",
        "2",
        "--padding",
        "3",
    ];
    let ran = succeed(dir.path(), &[&conv[..], &["--json"]].concat());
    assert_eq!(json(&ran.stdout)["output"], 112);
    let ran = succeed(dir.path(), &["calc", "separable", "--channels", "512"]);
    for figure in ["2,359,296", "266,752", "88.7 %"] {
        assert!(ran.stdout.contains(figure), "{figure}");
    }
    let vgg = [
        "calc",
        "receptive-field",
        "3,1",
        "3,1",
        "2,2",
        "3,1",
        "3,1",
        "2,2",
        "--json",
    ];
    let layers = json(&succeed(dir.path(), &vgg).stdout)["layers"].clone();
    assert_eq!(
        (&layers[5]["size"], &layers[5]["jump"]),
        (&16.into(), &4.into())
    );
    refuse(
        dir.path(),
        &["calc", "receptive-field", "3;1"],
        1,
        &["3;1", "KERNEL,STRIDE"],
    );
    let small = ["calc", "conv", "--input", "2", "--kernel", "5"];
    refuse(dir.path(), &small, 1, &["5", "2"]);
}
