//! `lenslet summary`, `models` and `draw`: what models are built of.

mod common;

use common::{folder, refuse, small_run, succeed};
use serde_json::Value;

fn json(args: &[&str]) -> Value {
    let dir = folder();
    let ran = succeed(dir.path(), args);
    serde_json::from_str(&ran.stdout).unwrap()
}

#[test]
fn a_summary_counts_every_layer() {
    let told = json(&["summary", "resnet50", "--json"]);
    assert_eq!(told["params"], 25_557_032);
    assert_eq!(told["macs"]["total"], 4_089_184_256u64);
    let layers = told["layers"].as_array().unwrap();
    let sum = |of: &dyn Fn(&Value) -> &Value| -> u64 {
        layers.iter().map(|layer| of(layer).as_u64().unwrap()).sum()
    };
    assert_eq!(sum(&|layer| &layer["params"]), 25_557_032);
    assert_eq!(sum(&|layer| &layer["macs"]["total"]), 4_089_184_256);
    let first = &layers[0];
    assert_eq!(first["name"], "conv1");
    assert_eq!(first["kind"], "Conv2d");
    assert_eq!(first["output"], serde_json::json!([1, 64, 112, 112]));
    assert_eq!(first["macs"]["conv"], 118_013_952);
    assert_eq!(first["receptive_field"], serde_json::json!([7, 7]));
    assert_eq!(layers.last().unwrap()["receptive_field"], "whole");

    let text = succeed(folder().path(), &["summary", "resnet50", "--depth", "1"]).stdout;
    let line = text.lines().find(|line| line.contains("layer4")).unwrap();
    for cell in ["1x2048x7x7", "14,964,736", "427", "32"] {
        assert!(line.contains(cell), "no {cell} in {line}");
    }
    assert!(text.contains("4,089,184,256"), "{text}");
}

#[test]
fn batches_sizes_and_frozen_parts_are_told() {
    let whole = json(&["summary", "mobilenet_v2", "--json"]);
    let args = [
        "summary",
        "mobilenet_v2",
        "--json",
        "--batch",
        "4",
        "--input",
        "3x96x160",
    ];
    let told = json(&[&args[..], &["--freeze", "backbone", "--classes", "7"]].concat());
    assert_eq!(told["input"], serde_json::json!([4, 3, 96, 160]));
    assert_eq!(told["output"], serde_json::json!([4, 7]));
    assert_eq!(told["trainable"], 1280 * 7 + 7);
    assert_eq!(told["memory"]["gradients"], 4 * (1280 * 7 + 7));
    // Only what the classifier reads is kept for gradients.
    assert_eq!(told["memory"]["training_activations"], 4 * 4 * 1280);
    let kept = whole["memory"]["training_activations"].as_u64().unwrap();
    assert!(kept > 40_000_000, "{kept}");
    let text = succeed(folder().path(), &["summary", "resnet18", "--unfreeze", "1"]).stdout;
    assert!(text.contains("trains"), "{text}");
    let google = json(&["summary", "googlenet", "--json"]);
    assert_eq!(google["params"], 13_004_888);
    assert_eq!(google["training_only_params"], 13_004_888 - 6_624_904);
}

#[test]
fn a_run_has_a_summary() {
    let dir = folder();
    let run = small_run(dir.path());
    let args = ["summary", run.to_str().unwrap(), "--json"];
    let told: Value = serde_json::from_str(&succeed(dir.path(), &args).stdout).unwrap();
    assert_eq!(told["params"], 61_706);
    assert_eq!(told["model"], "lenet5");
}

#[test]
fn compiled_steps_are_listed() {
    let told = json(&["summary", "resnet18", "--compiled", "--json"]);
    let steps = told["steps"].as_array().unwrap();
    assert!(steps.len() < told["nodes"].as_u64().unwrap() as usize / 2);
    let macs: u64 = steps
        .iter()
        .map(|step| step["macs"].as_u64().unwrap())
        .sum();
    assert_eq!(macs, 1_814_073_344);
    let passes = told["passes"].as_array().unwrap();
    let norms = passes.iter().find(|pass| pass["name"] == "fold-norms");
    assert!(norms.unwrap()["changes"].as_u64().unwrap() >= 20);
    let text = succeed(folder().path(), &["summary", "lenet5", "--compiled"]).stdout;
    assert!(
        text.contains("features.0") && text.contains("kernel"),
        "{text}"
    );
}

#[test]
fn any_size_is_measured() {
    let args = [
        "bench",
        "unet",
        "--input",
        "3x48x32",
        "--batch",
        "2",
        "--seconds",
        "0.01",
        "--json",
    ];
    for more in [&[][..], &["--engine", "eager"], &["--train"]] {
        let told = json(&[&args[..], more].concat());
        assert_eq!(told["input"], serde_json::json!([3, 48, 32]));
        assert_eq!(told["batch"], 2);
        assert!(told["median_ms"].as_f64().unwrap() > 0.0, "{told}");
    }
}

#[test]
fn every_step_is_measured() {
    let steps = |more: &[&str]| {
        let bench = ["bench", "lenet5", "--layers", "--seconds", "0.01"];
        let text = succeed(folder().path(), &[&bench[..], more].concat()).stdout;
        let rows = text.lines().map(|line| line.split_whitespace().collect());
        let steps: Vec<Vec<String>> = rows
            .map(|cells: Vec<&str>| cells.into_iter().map(String::from).collect())
            .filter(|cells: &Vec<String>| cells.len() > 10)
            .collect();
        steps
    };
    let run = steps(&[]);
    // The first convolution: 6 filters of 5x5 and their biases, 28x28 outputs, and what one of them sees.
    let first = run.iter().find(|cells| cells[0] == "features.0").unwrap();
    assert_eq!(first[5..8], ["156", "0.1", "5"], "{first:?}");
    let sorted = steps(&["--sort", "share"]);
    let times: Vec<f64> = sorted
        .iter()
        .filter_map(|cells| cells[8].parse().ok())
        .collect();
    assert_eq!(sorted.len(), run.len());
    assert!(times.is_sorted_by(|a, b| a >= b), "{times:?}");
    let plain = steps(&["--without", "fuse-activations,concat-in-place"]);
    assert!(plain.len() > run.len(), "{plain:?}");
}

#[test]
fn the_architectures_are_compared() {
    let told = json(&["models", "--json", "--sort", "top1"]);
    let models = told["models"].as_array().unwrap();
    assert!(models.len() > 70, "{}", models.len());
    let by_year = json(&["models", "--json"]);
    let years: Vec<u64> = (by_year["models"].as_array().unwrap().iter())
        .map(|model| model["year"].as_u64().unwrap())
        .collect();
    assert!(years.is_sorted(), "{years:?}");
    let resnets = (by_year["models"].as_array().unwrap().iter())
        .filter_map(|model| model["name"].as_str())
        .filter(|name| ["resnet18", "resnet34", "resnet50", "resnet101"].contains(name));
    assert!(resnets.eq(["resnet18", "resnet34", "resnet50", "resnet101"]));
    let find = |name: &str| models.iter().find(|model| model["name"] == name).unwrap();
    assert_eq!(find("vgg16")["macs"], 15_470_264_320u64);
    assert_eq!(find("googlenet")["params"], 13_004_888);
    assert_eq!(find("resnet50")["year"], 2015);
    let top1: Vec<f64> = (models.iter())
        .filter_map(|model| model["published"]["top1"].as_f64())
        .collect();
    assert!(top1.is_sorted_by(|a, b| a >= b), "{top1:?}");

    let by_size = json(&["models", "--json", "--family", "resnet", "--sort", "params"]);
    let models = by_size["models"].as_array().unwrap();
    let params: Vec<u64> = models
        .iter()
        .map(|m| m["params"].as_u64().unwrap())
        .collect();
    assert!(params.is_sorted(), "{params:?}");
    assert_eq!(models[0]["name"], "resnet18");
    let text = succeed(folder().path(), &["models", "--family", "ViT"]).stdout;
    assert!(text.contains("86,567,656"), "{text}");
}

#[test]
fn models_are_drawn() {
    let dir = folder();
    for name in [
        "lenet5",
        "googlenet",
        "resnet18",
        "guide_unet",
        "vit_b_16",
        "densenet201",
    ] {
        let file = format!("{name}.svg");
        let ran = succeed(dir.path(), &["draw", name, "-o", &file]);
        assert_eq!(ran.stdout, format!("{file}\n"));
        let svg = std::fs::read_to_string(dir.path().join(&file)).unwrap();
        assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"));
        assert!(svg.contains(name) && !svg.contains("NaN"), "{name}");
        let boxes = svg.matches("<title>").count();
        assert!((5..=120).contains(&boxes), "{name}: {boxes} boxes");
    }
    let svg = std::fs::read_to_string(dir.path().join("resnet18.svg")).unwrap();
    for words in [
        "Conv 7×7, 64, /2",
        "BN, ReLU · 64×112×112",
        "layer1.0",
        "Max pool 3×3, /2",
    ] {
        assert!(svg.contains(words), "no '{words}'");
    }
    succeed(
        dir.path(),
        &["draw", "resnet18", "-o", "r.txt", "--format", "dot"],
    );
    let dot = std::fs::read_to_string(dir.path().join("r.txt")).unwrap();
    assert!(
        dot.starts_with("digraph") && dot.contains("subgraph cluster_"),
        "{dot}"
    );
}

#[test]
fn what_cannot_work_is_explained() {
    let dir = folder();
    let refused = |args: &[&str], code, words: &[&str]| {
        refuse(dir.path(), args, code, words);
    };
    let bench = ["bench", "resnet18", "--input", "1x224x224"];
    refused(&bench, 2, &["--input", "takes 3"]);
    let bench = ["bench", "resnet18", "--without", "winograd"];
    refused(&bench, 2, &["--without", "winograd", "concat-in-place"]);
    let bench = ["bench", "yolo", "--train"];
    refused(&bench, 2, &["--train", "measure its backbone"]);
    refused(
        &["summary", "resnet51"],
        2,
        &["no model is called resnet51", "resnet50"],
    );
    refused(&["summary", "runs/none"], 1, &["runs/none"]);
    refused(
        &["summary", "resnet50", "--input", "224"],
        2,
        &["3x224x224"],
    );
    refused(
        &["summary", "resnet50", "--input", "3x0x4"],
        2,
        &["3x224x224"],
    );
    refused(
        &["summary", "resnet50", "--input", "1x64x64"],
        2,
        &["resnet50 takes 3"],
    );
    refused(
        &["summary", "alexnet", "--input", "3x20x20"],
        1,
        &["alexnet on 3x20x20", "larger input"],
    );
    refused(
        &["summary", "resnet50", "--unfreeze", "9"],
        2,
        &["--unfreeze", "4 stages"],
    );
    refused(&["summary", "resnet50", "--batch", "0"], 2, &["at least 1"]);
    refused(&["models", "--family", "resnot"], 2, &["ResNet", "ViT"]);
    refused(&["models", "--sort", "size"], 2, &["params"]);
    refused(&["draw", "resnet18"], 2, &["--output"]);
    refused(
        &["draw", "resnet18", "-o", "x.jpg"],
        2,
        &[".svg, .png or .dot"],
    );
    refused(
        &["draw", "resnet18", "-o", "no/such/x.svg"],
        1,
        &["no/such/x.svg"],
    );
    let run = small_run(dir.path());
    let run = run.to_str().unwrap();
    refused(&["summary", run, "--classes", "4"], 2, &["leave it out"]);
}
