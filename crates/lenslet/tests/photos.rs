//! Training on folders and tables of pictures with the real binary.

mod common;

use std::path::{Path, PathBuf};

use common::{folder, history, photos, picture, refuse, run, succeed, tensors, write};
use serde_json::Value;

const TINY: &str = "shufflenet_v2_x1_0";

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Trains on `data` and gives the run's folder.
fn train(dir: &Path, data: &Path, options: &[&str]) -> PathBuf {
    let ran = succeed(
        dir,
        &[&["train", text(data), "--json", "--quiet"], options].concat(),
    );
    let last: Value = serde_json::from_str(ran.stdout.lines().last().unwrap()).unwrap();
    dir.join(last["run"].as_str().unwrap())
}

/// A run of a small network with batch norms, at 32 x 32.
fn train_tiny(dir: &Path, data: &Path, options: &[&str]) -> PathBuf {
    let model = ["--model", TINY, "--input-size", "32", "--epochs", "2"];
    train(dir, data, &[&model, options].concat())
}

#[test]
fn a_folder_is_trained_on_measured_and_used() {
    let dir = folder();
    let data = photos(dir.path(), &["train", "val"], 12);
    for name in [".DS_Store", "train/Thumbs.db", "train/rot 2/.hidden.png"] {
        write(&data.join(name), b"not a picture");
    }
    let run_dir = train(
        dir.path(),
        &data,
        &["--model", "lenet5", "--epochs", "12", "--no-augment"],
    );
    let page = std::fs::read_to_string(run_dir.join("report.html")).unwrap();
    for part in [
        "Confusion",
        "Most uncertain",
        "grün",
        "data:image/png;base64,",
        "<svg",
    ] {
        assert!(page.contains(part), "no {part} in the report");
    }
    for outside in ["http://", "https://", "<script", "<link"] {
        let page = page.replace("http://www.w3.org/2000/svg", "");
        assert!(!page.contains(outside), "{outside} in the report");
    }
    let run_dir = text(&run_dir);
    let ran = succeed(dir.path(), &["eval", "--model", run_dir, "--json"]);
    let found: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(found["samples"], 36);
    let classes: Vec<&str> = found["classes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|class| class["class"].as_str().unwrap())
        .collect();
    assert_eq!(classes, ["grün", "rot 2", "rot 10"], "natural order");
    assert_eq!(found["top1"], 1.0);
    // The folder of another place, the other part, and a mirrored look.
    let whole = data.join("train");
    let ran = succeed(
        dir.path(),
        &["eval", text(&whole), "--model", run_dir, "--json"],
    );
    let found: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(found["samples"], 36);
    refuse(
        dir.path(),
        &["eval", "--model", run_dir, "--split", "test"],
        1,
        &["no test part"],
    );
    let one = data.join("val/grün/0.png");
    let predict = ["predict", text(&one), "--model", run_dir];
    let ran = succeed(dir.path(), &predict);
    assert!(ran.stdout.contains("0.png: grün"), "{}", ran.stdout);
    let flipped = succeed(dir.path(), &[&predict[..], &["--tta", "flip"]].concat());
    assert_ne!(ran.stdout, flipped.stdout);
    succeed(dir.path(), &["verify", run_dir]);
}

#[test]
fn pictures_are_held_out_by_share() {
    let dir = folder();
    let data = photos(dir.path(), &[""], 10);
    let lenet = ["--model", "lenet5", "--epochs", "1"];
    let options = [&lenet[..], &["--val-split", "0.3"]].concat();
    let run_dir = train(dir.path(), &data, &options);
    let ran = succeed(dir.path(), &["eval", "--model", text(&run_dir), "--json"]);
    let found: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(found["samples"], 9);
    refuse(
        dir.path(),
        &["train", text(&data), "--val-split", "1.5"],
        2,
        &["1.5", "fraction"],
    );
    let divided = photos(&dir.path().join("divided"), &["train", "test"], 4);
    let words = ["--val-split", "divided already"];
    let args = ["train", text(&divided), "--val-split", "0.2"];
    refuse(dir.path(), &args, 2, &words);
}

#[test]
fn a_table_is_trained_on_and_its_missing_files_are_named() {
    let dir = folder();
    photos(dir.path(), &[""], 6);
    let mut table = String::from("path,label\n");
    for class in ["grün", "rot 2"] {
        for i in 0..6 {
            table += &format!("photos/{class}/{i}.png,{class}\n");
        }
    }
    let file = dir.path().join("table.csv");
    std::fs::write(&file, &table).unwrap();
    train(dir.path(), &file, &["--model", "lenet5", "--epochs", "1"]);
    std::fs::write(&file, table + "photos/grün/gone.png,grün\n").unwrap();
    let words = ["table.csv", "photos/grün/gone.png", "1 of 13"];
    refuse(dir.path(), &["train", text(&file)], 1, &words);
}

#[test]
fn unreadable_pictures_are_skipped_up_to_a_limit() {
    let dir = folder();
    let data = photos(dir.path(), &["train", "val"], 16);
    write(&data.join("train/grün/torn.jpg"), &picture(0, 0)[..40]);
    let lenet = ["train", text(&data), "--model", "lenet5", "--epochs", "2"];
    let ran = succeed(dir.path(), &lenet);
    assert_eq!(ran.stderr.matches("torn.jpg").count(), 1, "{}", ran.stderr);
    let page = std::fs::read_to_string(dir.path().join("runs/lenet5-1/report.html")).unwrap();
    assert!(page.contains("Skipped") && page.contains("torn.jpg"));
    for i in 0..3 {
        write(&data.join(format!("train/grün/noise{i}.png")), b"noise");
    }
    let words = ["4 of 52", "5 %", "torn.jpg", "noise0.png", "noise2.png"];
    refuse(dir.path(), &lenet, 1, &words);
    let more = [&lenet[..], &["--max-unreadable", "0.2"]].concat();
    succeed(dir.path(), &more);
}

#[test]
fn odd_pictures_are_taken() {
    let dir = folder();
    let data = photos(dir.path(), &["train", "val"], 4);
    let class = data.join("train/grün");
    write(&class.join("png.jpg"), &picture(0, 1));
    let dot = lenslet_data::Image::new(1, 1, 3, vec![9; 3]).unwrap();
    write(&class.join("dot.png"), &dot.to_png().unwrap());
    let mut gif = Vec::new();
    let frame = || {
        image::Frame::new(image::RgbaImage::from_pixel(
            5,
            4,
            image::Rgba([0, 200, 0, 255]),
        ))
    };
    let mut encoder = image::codecs::gif::GifEncoder::new(&mut gif);
    encoder.encode_frames([frame(), frame()]).unwrap();
    drop(encoder);
    write(&class.join("moves.gif"), &gif);
    #[cfg(unix)]
    std::os::unix::fs::symlink(&class, class.join("loop")).unwrap();
    let args = ["train", text(&data), "--model", "lenet5", "--epochs", "1"];
    let ran = succeed(dir.path(), &args);
    assert!(
        ran.stderr.contains("15 pictures to train on"),
        "{}",
        ran.stderr
    );
    assert!(!ran.stderr.contains("skipped"), "{}", ran.stderr);
}

/// 20,000 x 20,000 is a matter of the header: no memory is taken for it.
#[test]
fn a_huge_picture_is_refused_by_its_header() {
    let dir = folder();
    let data = photos(dir.path(), &["train", "val"], 16);
    let mut bmp = vec![0; 54];
    bmp[..2].copy_from_slice(b"BM");
    for (at, value) in [
        (10, 54u32),
        (14, 40),
        (18, 20_000),
        (22, 20_000),
        (26, 24 << 16 | 1),
    ] {
        bmp[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
    write(&data.join("train/grün/huge.bmp"), &bmp);
    let args = ["train", text(&data), "--model", "lenet5", "--epochs", "1"];
    let ran = succeed(dir.path(), &args);
    for word in ["huge.bmp", "400000000", "limit"] {
        assert!(ran.stderr.contains(word), "{}", ran.stderr);
    }
}

#[test]
fn folders_that_cannot_be_trained_on_say_why() {
    let dir = folder();
    let data = photos(dir.path(), &[""], 4);
    write(&data.join("einsam/1.png"), &picture(0, 0));
    let train = ["train", text(&data)];
    refuse(dir.path(), &train, 1, &["einsam", "fewer than two"]);
    std::fs::rename(data.join("einsam"), data.join("GRÜN")).unwrap();
    refuse(dir.path(), &train, 1, &["GRÜN", "grün", "case"]);
    std::fs::remove_dir_all(data.join("GRÜN")).unwrap();
    std::fs::create_dir(data.join("leer")).unwrap();
    refuse(dir.path(), &train, 1, &["leer", "no images"]);
    let divided = photos(&dir.path().join("divided"), &["train", "val"], 2);
    std::fs::remove_dir_all(divided.join("val/grün")).unwrap();
    refuse(dir.path(), &["train", text(&divided)], 1, &["val", "grün"]);
    assert!(
        !dir.path().join("runs").exists(),
        "a refused run leaves nothing"
    );
}

#[test]
fn weights_of_another_architecture_are_refused() {
    let dir = folder();
    let data = photos(dir.path(), &["train", "val"], 4);
    let run_dir = train(dir.path(), &data, &["--model", "lenet5", "--epochs", "1"]);
    let args = [
        "train",
        text(&data),
        "--model",
        TINY,
        "--weights",
        text(&run_dir),
    ];
    refuse(dir.path(), &args, 1, &["lenet5-1", "missing", "unexpected"]);
    write(&dir.path().join("no.safetensors"), b"no weights");
    let args = ["train", text(&data), "--weights", "no.safetensors"];
    refuse(dir.path(), &args, 1, &["no.safetensors"]);
}

/// Names of the tensors in which two runs differ.
fn moved(a: &Path, b: &Path) -> Vec<String> {
    let [a, b] = [a, b].map(|run| tensors(&run.join("model.safetensors")));
    let changed = a.into_iter().zip(b).filter(|(a, b)| a.1 != b.1);
    changed.map(|(a, _)| a.0).collect()
}

#[test]
fn frozen_parts_stay_as_they_are() {
    let dir = folder();
    let data = photos(dir.path(), &["train", "val"], 6);
    let first = train_tiny(dir.path(), &data, &[]);
    let weights = ["--weights", text(&first)];
    let again = |options: &[&str]| train_tiny(dir.path(), &data, &[&weights, options].concat());
    let frozen = again(&["--augment", "light"]);
    assert_eq!(moved(&first, &frozen), ["fc.bias", "fc.weight"]);
    let last = moved(
        &first,
        &again(&["--unfreeze", "1", "--freeze-norm-stats", "false"]),
    );
    let behind = |name: &String| {
        ["stage4.", "conv5.", "fc."]
            .iter()
            .any(|m| name.starts_with(m))
    };
    assert!(last.iter().all(behind), "{last:?}");
    assert!(
        last.iter()
            .any(|name| name == "stage4.0.branch1.1.running_mean")
    );
    let all = moved(&first, &again(&["--freeze", "none"]));
    assert!(all.iter().any(|name| name.starts_with("conv1.")));
    let mlp = again(&["--head", "mlp"]);
    let names: Vec<String> = tensors(&mlp.join("model.safetensors"))
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    assert!(names.contains(&"fc.1.weight".into()) && names.contains(&"fc.3.weight".into()));
    succeed(dir.path(), &["verify", text(&mlp)]);
    let args = ["train", text(&data), "--model", TINY, "--unfreeze", "9"];
    refuse(dir.path(), &args, 2, &["9", "stages"]);
}

/// The numbers of a run's history that do not measure time.
fn history_numbers(run: &Path) -> Vec<f64> {
    let lines = history(run);
    let fields = lines[1..].iter().flat_map(|line| line.split(','));
    fields.map(|field| field.parse().unwrap()).collect()
}

#[test]
fn cached_features_give_the_plain_results() {
    let dir = folder();
    let data = photos(dir.path(), &["train", "val"], 10);
    write(&data.join("train/grün/torn.jpg"), &picture(0, 0)[..40]);
    let first = train_tiny(dir.path(), &data, &[]);
    let options = ["--weights", text(&first), "--batch-size", "7"];
    let cached = train_tiny(dir.path(), &data, &options);
    let plain = [&options[..], &["--no-feature-cache"]].concat();
    let plain = train_tiny(dir.path(), &data, &plain);
    assert!(cached.join("features.safetensors").is_file());
    assert!(!plain.join("features.safetensors").exists());
    for (a, b) in history_numbers(&cached)
        .into_iter()
        .zip(history_numbers(&plain))
    {
        assert!((a - b).abs() <= 1e-5 * b.abs().max(1.0), "{a} is not {b}");
    }
}

/// Numbers of a result that may differ in the last digits, and the rest of it.
fn numbers(json: &str) -> (Vec<f64>, Vec<String>) {
    fn walk(value: &Value, numbers: &mut Vec<f64>, rest: &mut Vec<String>) {
        match value {
            Value::Number(n) => numbers.push(n.as_f64().unwrap()),
            Value::Array(list) => list.iter().for_each(|v| walk(v, numbers, rest)),
            Value::Object(map) => map.values().for_each(|v| walk(v, numbers, rest)),
            other => rest.push(other.to_string()),
        }
    }
    let (mut found, mut rest) = (Vec::new(), Vec::new());
    for line in json.lines() {
        walk(&serde_json::from_str(line).unwrap(), &mut found, &mut rest);
    }
    (found, rest)
}

/// Compiled inference gives the answers of the layers one by one, whatever the size of a batch, in
/// prediction, evaluation, and the frozen part of training.
#[test]
fn engines_agree() {
    let dir = folder();
    let data = photos(dir.path(), &["train", "val"], 30);
    let first = train_tiny(dir.path(), &data, &[]);
    let model = ["--model", text(&first), "--json"];
    let folder = data.join("val/rot 2");
    let commands: [&[&str]; 3] = [
        &["predict", text(&folder), "--batch-size", "7"],
        &["predict", text(&folder), "--tta", "flip"],
        &["eval"],
    ];
    for command in commands {
        let results = ["compiled", "eager"].map(|engine| {
            let engine = ["--engine", engine];
            let ran = succeed(dir.path(), &[command, &model, &engine].concat());
            assert!(!ran.stdout.is_empty());
            numbers(&ran.stdout)
        });
        let [(a, names), (b, other)] = results;
        assert_eq!(names, other, "{command:?}");
        for (a, b) in a.into_iter().zip(b) {
            let bound = 1e-4 * b.abs().max(1.0);
            assert!((a - b).abs() <= bound, "{command:?}: {a} is not {b}");
        }
    }
    let ways: [&[&str]; 3] = [&[], &["--augment", "light"], &["--freeze", "none"]];
    for way in ways {
        let runs = ["compiled", "eager"].map(|engine| {
            let options = ["--weights", text(&first), "--engine", engine];
            history_numbers(&train_tiny(dir.path(), &data, &[&options, way].concat()))
        });
        for (a, b) in runs[0].iter().zip(&runs[1]) {
            let bound = 1e-3 * b.abs().max(1.0);
            assert!((a - b).abs() <= bound, "{way:?}: {a} is not {b}");
        }
    }
}

/// In fine-tuning the classifier trains alone at first, on the features of the pictures as they are.
#[test]
fn the_classifier_trains_first() {
    let dir = folder();
    let data = photos(dir.path(), &["train", "val"], 6);
    let first = train_tiny(dir.path(), &data, &[]);
    let options = ["--weights", text(&first), "--freeze", "none", "--epochs"];
    let tiny = ["--model", TINY, "--input-size", "32"];
    let run_dir = train(dir.path(), &data, &[&tiny[..], &options, &["6"]].concat());
    let rate = |line: &String| line.split(',').nth(6).unwrap() == "0";
    let alone: Vec<bool> = history(&run_dir)[1..].iter().map(rate).collect();
    assert_eq!(alone, [true, true, false, false, false, false]);
    assert!(run_dir.join("features.safetensors").is_file());
    let state = tensors(&run_dir.join("checkpoint.safetensors"));
    let moment = |(name, _): &(String, _)| name.ends_with("exp_avg.conv1.0.weight");
    assert!(state.iter().any(moment), "the backbone has not trained");
    let args = ["train", text(&data), "--head-epochs", "30"];
    refuse(dir.path(), &args, 2, &["--head-epochs", "--epochs"]);
}

#[test]
fn statistics_of_norms_stay_when_told() {
    let dir = folder();
    let data = photos(dir.path(), &["train", "val"], 6);
    let first = train_tiny(dir.path(), &data, &[]);
    let options = ["--weights", text(&first), "--freeze", "none"];
    for (told, stay) in [("true", true), ("false", false)] {
        let options = [&options[..], &["--freeze-norm-stats", told]].concat();
        let names = moved(&first, &train_tiny(dir.path(), &data, &options));
        assert!(names.iter().any(|name| name == "conv1.1.weight"));
        let stayed = !names.iter().any(|name| name.contains("running"));
        assert_eq!(stayed, stay, "{names:?}");
    }
}

#[test]
fn every_way_to_train_has_an_effect() {
    let dir = folder();
    let data = photos(dir.path(), &["train", "val"], 6);
    write(&data.join("train/grün/more.png"), &picture(0, 7));
    let first = train_tiny(dir.path(), &data, &[]);
    let weights = [
        "--weights",
        text(&first),
        "--freeze",
        "none",
        "--batch-size",
        "4",
    ];
    let options: [&[&str]; 12] = [
        &[],
        &["--accumulate", "2"],
        &["--layer-decay", "0.5"],
        &["--no-decay-norm-bias", "--weight-decay", "0.5"],
        &["--weight-decay", "0.5"],
        &["--class-weights"],
        &["--ema", "0.9"],
        &["--randaugment"],
        &["--random-erasing"],
        &["--mixup"],
        &["--cutmix"],
        &["--input-size", "48"],
    ];
    let mut seen = Vec::new();
    for option in options {
        let size: &[&str] = if option.contains(&"--input-size") {
            &[]
        } else {
            &["--input-size", "32"]
        };
        let all = [
            &["--model", TINY, "--epochs", "1"],
            &weights[..],
            size,
            option,
        ]
        .concat();
        let run_dir = train(dir.path(), &data, &all);
        let result = tensors(&run_dir.join("model.safetensors"));
        assert!(!seen.contains(&result), "{option:?} changes nothing");
        seen.push(result);
    }
}

#[test]
fn training_stops_when_nothing_gets_better() {
    let dir = folder();
    let data = photos(dir.path(), &["train", "val"], 4);
    let options = [
        "--model",
        "lenet5",
        "--epochs",
        "40",
        "--early-stopping",
        "3",
        "--lr",
        "1e-9",
    ];
    let run_dir = train(dir.path(), &data, &options);
    assert_eq!(
        history(&run_dir).len(),
        1 + 4,
        "the first epoch and three more"
    );
}

#[test]
fn auxiliary_classifiers_help_in_training_only() {
    let dir = folder();
    let data = photos(dir.path(), &["train", "val"], 2);
    let options = [
        "--model",
        "googlenet",
        "--input-size",
        "64",
        "--epochs",
        "1",
    ];
    let run_dir = train(dir.path(), &data, &options);
    let names = tensors(&run_dir.join("model.safetensors"));
    assert!(names.iter().any(|(name, _)| name == "aux1.fc2.weight"));
    succeed(dir.path(), &["verify", text(&run_dir)]);
    let frozen = [&options[..], &["--weights", text(&run_dir)]].concat();
    let frozen = train(dir.path(), &data, &frozen);
    let names = tensors(&frozen.join("model.safetensors"));
    assert!(!names.iter().any(|(name, _)| name.starts_with("aux")));
    succeed(dir.path(), &["verify", text(&frozen)]);

    // Inception's needs more than the rest of the network.
    let small = [
        "--model",
        "inception_v3",
        "--input-size",
        "75",
        "--epochs",
        "1",
    ];
    let args = [&["train", text(&data), "--output", "small"], &small[..]].concat();
    let ran = succeed(dir.path(), &args);
    assert!(ran.stderr.contains("299x299 at least"), "{}", ran.stderr);
    let names = tensors(&dir.path().join("small/inception_v3-1/model.safetensors"));
    assert!(!names.iter().any(|(name, _)| name.starts_with("Aux")));
}

#[test]
fn a_good_learning_rate_is_looked_for() {
    let dir = folder();
    let data = photos(dir.path(), &["train", "val"], 10);
    let args = [
        "train",
        text(&data),
        "--model",
        "lenet5",
        "--lr-find",
        "--json",
        "--batch-size",
        "8",
    ];
    let ran = succeed(dir.path(), &args);
    let found: Value = serde_json::from_str(&ran.stdout).unwrap();
    let lr = found["lr"].as_f64().unwrap();
    assert!((1e-5..0.5).contains(&lr), "{lr}");
    let drawing = dir
        .path()
        .join(found["run"].as_str().unwrap())
        .join("lr-find.svg");
    assert!(std::fs::read_to_string(drawing).unwrap().contains("<svg"));
}

#[test]
fn data_are_checked_and_drawn() {
    let dir = folder();
    let data = photos(dir.path(), &["train", "val"], 3);
    let copy = std::fs::read(data.join("train/grün/0.png")).unwrap();
    write(&data.join("val/rot 2/copy.png"), &copy);
    let ran = succeed(dir.path(), &["data", "check", text(&data)]);
    for words in [
        "grün",
        "ACROSS SPLITS",
        "ACROSS CLASSES",
        "it can be trained on",
    ] {
        assert!(ran.stdout.contains(words), "no {words} in {}", ran.stdout);
    }
    let ran = succeed(dir.path(), &["data", "check", text(&data), "--json"]);
    let found: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(found["splits"]["train"], 9);
    std::fs::create_dir(data.join("train/leer")).unwrap();
    assert_eq!(run(dir.path(), &["data", "check", text(&data)]).code, 1);
    std::fs::remove_dir(data.join("train/leer")).unwrap();
    let args = [
        "data",
        "preview",
        text(&data),
        "-o",
        "grid.png",
        "--input-size",
        "40",
    ];
    succeed(
        dir.path(),
        &[&args[..], &["--count", "2", "--repeat", "3"]].concat(),
    );
    let grid = image::open(dir.path().join("grid.png")).unwrap();
    assert_eq!((grid.width(), grid.height()), (3 * 44 + 4, 2 * 44 + 4));
}
