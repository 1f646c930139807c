//! Training with the real binary: what it writes, that it repeats itself, that it resumes.

mod common;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use common::{
    Ran, check_refusal, folder, history, lenslet, photos, refuse, run, small_idx, small_run,
    succeed, tensors, write,
};
use serde_json::Value;

#[test]
fn a_run_leaves_everything_behind() {
    let dir = folder();
    let data = small_idx(dir.path(), 300, 80);
    let data = data.to_str().unwrap();
    let ran = succeed(dir.path(), &["train", data, "--epochs", "2"]);
    assert!(ran.stdout.contains("validation accuracy"), "{}", ran.stdout);
    assert!(!ran.stderr.contains('\u{1b}'), "control characters");
    assert!(!ran.stderr.contains('\r'), "control characters");
    for file in [
        "config.json",
        "model.safetensors",
        "checkpoint.safetensors",
        "history.csv",
        "curves.svg",
        "confusion.csv",
        "sample.png",
        "report.html",
    ] {
        assert!(
            dir.path().join("runs/lenet5-1").join(file).is_file(),
            "{file}"
        );
    }
    let lines = history(&dir.path().join("runs/lenet5-1"));
    assert_eq!(lines.len(), 3);
    assert!(lines[0].starts_with("epoch,train_loss,train_acc,val_loss,val_acc"));
}

#[test]
fn the_printed_command_works_as_printed() {
    let dir = folder();
    let data = small_idx(dir.path(), 200, 60);
    let ran = succeed(
        dir.path(),
        &[
            "train",
            data.to_str().unwrap(),
            "--epochs",
            "1",
            "--output",
            "my runs",
        ],
    );
    let command = ran
        .stdout
        .lines()
        .find(|line| line.contains(" predict "))
        .unwrap();
    let shell = Command::new("sh")
        .args(["-c", command])
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert!(shell.status.success(), "{command}");
}

#[test]
fn json_has_an_object_an_epoch_and_a_summary() {
    let dir = folder();
    let data = small_idx(dir.path(), 128, 64);
    let ran = succeed(
        dir.path(),
        &["train", data.to_str().unwrap(), "--epochs", "2", "--json"],
    );
    let lines: Vec<Value> = ran
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 3);
    for (index, line) in lines[..2].iter().enumerate() {
        assert_eq!(line["epoch"], index + 1);
        for key in [
            "train_loss",
            "train_acc",
            "val_loss",
            "val_acc",
            "images_per_s",
            "seconds",
        ] {
            assert!(line[key].is_f64(), "{key}");
        }
        assert!(line["lr"]["head"].is_f64() && line["lr"]["backbone"].is_f64());
    }
    assert!(lines[2]["best_val_acc"].is_f64());
    assert_eq!(lines[2]["run"], "runs/lenet5-1");
}

#[test]
fn a_run_overwrites_no_other_and_repeats_itself() {
    let dir = folder();
    let data = small_idx(dir.path(), 200, 60);
    let train = |seed: &str| {
        let args = [
            "train",
            data.to_str().unwrap(),
            "--epochs",
            "2",
            "--quiet",
            "--seed",
            seed,
        ];
        succeed(dir.path(), &args);
    };
    train("7");
    train("7");
    train("8");
    let run = |n: usize| dir.path().join(format!("runs/lenet5-{n}"));
    assert_eq!(history(&run(1)), history(&run(2)));
    assert_eq!(
        tensors(&run(1).join("checkpoint.safetensors")),
        tensors(&run(2).join("checkpoint.safetensors"))
    );
    assert_ne!(history(&run(1)), history(&run(3)));
}

/// Runs a training that is stopped by Ctrl-C once an epoch is done and the next is under way.
#[cfg(unix)]
fn interrupt(dir: &Path, args: &[&str]) -> Ran {
    let mut child = lenslet(dir)
        .args(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut errors = BufReader::new(child.stderr.take().unwrap()).lines();
    let line = errors.find(|line| line.as_ref().unwrap().starts_with("epoch"));
    assert!(line.is_some());
    let pid = child.id().to_string();
    let killed = Command::new("kill").args(["-INT", &pid]).status().unwrap();
    assert!(killed.success());
    let rest: Vec<String> = errors.map(Result::unwrap).collect();
    Ran {
        code: child.wait().unwrap().code().unwrap_or(-1),
        stdout: String::new(),
        stderr: rest.join("\n"),
    }
}

/// Ctrl-C in the middle of an epoch, twice, then on to the end: bit for bit the run that nobody
/// disturbed.
#[cfg(unix)]
fn interrupted_equals_undisturbed(dir: &Path, model: &str, start: &[&str]) {
    let name = |n: usize| format!("runs/{model}-{n}");
    succeed(dir, start);
    let going_on = format!("train --resume {}", name(2));
    check_refusal(
        &interrupt(dir, start),
        130,
        &["stopped after epoch 1", &going_on],
    );
    let second = name(2);
    let resume = ["train", "--resume", &second, "--threads", "2"];
    check_refusal(&interrupt(dir, &resume), 130, &["stopped after epoch 2"]);
    succeed(dir, &resume);

    let run = |n: usize| dir.join(name(n));
    assert_eq!(history(&run(1)), history(&run(2)));
    for file in ["checkpoint.safetensors", "model.safetensors"] {
        let [a, b] = [1, 2].map(|n| tensors(&run(n).join(file)));
        assert!(a == b, "{file} differs");
    }
}

#[test]
#[cfg(unix)]
fn an_interrupted_run_ends_like_an_undisturbed_one() {
    let dir = folder();
    let data = small_idx(dir.path(), 4000, 200);
    let data = data.to_str().unwrap();
    let start = ["train", data, "--epochs", "3", "--threads", "2"];
    interrupted_equals_undisturbed(dir.path(), "lenet5", &start);
}

/// The same on pictures, with all that has a state: an average, gradients of several batches,
/// blended pictures, one that cannot be read. Data that have changed are refused.
#[test]
#[cfg(unix)]
fn an_interrupted_run_on_photos_ends_like_an_undisturbed_one() {
    let dir = folder();
    let data = photos(dir.path(), &["train", "val"], 300);
    write(&data.join("train/grün/torn.png"), b"torn");
    let data = data.to_str().unwrap();
    let options = [
        "train",
        data,
        "--model",
        "lenet5",
        "--epochs",
        "3",
        "--threads",
        "2",
        "--batch-size",
        "8",
        "--accumulate",
        "3",
        "--ema",
        "0.99",
        "--mixup",
        "--cutmix",
        "--randaugment",
    ];
    interrupted_equals_undisturbed(dir.path(), "lenet5", &options);
    check_refusal(&interrupt(dir.path(), &options), 130, &["lenet5-3"]);
    write(&dir.path().join("photos/val/rot 2/new.png"), b"new");
    let resume = ["train", "--resume", "runs/lenet5-3"];
    refuse(
        dir.path(),
        &resume,
        1,
        &["have changed", "photos", "new run"],
    );
}

/// The same from weights: with running statistics, stochastic layers and their random state in
/// fine-tuning, and with the frozen backbone in the compiled engine.
#[test]
#[cfg(unix)]
fn an_interrupted_run_from_weights_ends_like_an_undisturbed_one() {
    const MODEL: &str = "shufflenet_v2_x1_0";
    let weights = folder();
    let data = photos(weights.path(), &["train", "val"], 4);
    let tiny = ["--model", MODEL, "--input-size", "32", "--epochs"];
    let first = ["train", data.to_str().unwrap()];
    succeed(weights.path(), &[&first[..], &tiny, &["1"]].concat());
    let weights = weights.path().join(format!("runs/{MODEL}-1"));
    let ways: [&[&str]; 2] = [
        &["--freeze", "none", "--head", "mlp", "--warmup-epochs", "1"],
        &["--augment", "light"],
    ];
    for way in ways {
        let dir = folder();
        let data = photos(dir.path(), &["train", "val"], 250);
        let start = ["train", data.to_str().unwrap(), "--batch-size", "8"];
        let more = ["3", "--threads", "2", "--weights"];
        let all = [&start[..], &tiny, &more, &[weights.to_str().unwrap()], way].concat();
        interrupted_equals_undisturbed(dir.path(), MODEL, &all);
    }
}

#[test]
fn every_option_has_an_effect() {
    let dir = folder();
    let data = small_idx(dir.path(), 128, 32);
    let base = ["train", data.to_str().unwrap(), "--epochs", "2", "--quiet"];
    let options: [&[&str]; 11] = [
        &[],
        &["--batch-size", "32"],
        &["--lr", "0.01"],
        &["--backbone-lr-mult", "0.1"],
        &["--weight-decay", "0.5"],
        &["--clip-grad-norm", "0.01"],
        &["--optimizer", "sgd"],
        &["--scheduler", "constant"],
        &["--warmup-epochs", "1"],
        &["--label-smoothing", "0.1"],
        &["--no-augment"],
    ];
    let mut seen = Vec::new();
    for (index, option) in options.iter().enumerate() {
        let args = [&base[..], option].concat();
        succeed(dir.path(), &args);
        let run = dir.path().join(format!("runs/lenet5-{}", index + 1));
        let result = tensors(&run.join("checkpoint.safetensors"));
        assert!(!seen.contains(&result), "{option:?} changes nothing");
        seen.push(result);
    }
}

#[test]
fn settings_that_make_no_sense_are_wrong_usage() {
    let dir = folder();
    for (option, value) in [
        ("--epochs", "0"),
        ("--batch-size", "0"),
        ("--lr", "-1"),
        ("--lr", "inf"),
        ("--weight-decay", "-0.1"),
        ("--clip-grad-norm", "-1"),
        ("--momentum", "1"),
        ("--warmup-epochs", "30"),
        ("--label-smoothing", "1"),
        ("--threads", "0"),
        ("--model", "lenet"),
    ] {
        refuse(dir.path(), &["train", option, value], 2, &[value]);
    }
    refuse(
        dir.path(),
        &["train", "--model", "lenet"],
        2,
        &["did you mean lenet5"],
    );
    assert!(
        !dir.path().join("runs").exists(),
        "a refused run leaves nothing"
    );
}

#[test]
fn bad_data_name_the_file_and_the_figures() {
    let dir = folder();
    refuse(dir.path(), &["train", "nowhere"], 1, &["nowhere"]);
    std::fs::create_dir(dir.path().join("empty")).unwrap();
    refuse(
        dir.path(),
        &["train", "empty"],
        1,
        &["empty", "no class folders"],
    );

    let images = "idx/train-images-idx3-ubyte";
    let labels = "idx/train-labels-idx1-ubyte";
    let damage = |file: &str, change: &dyn Fn(&mut Vec<u8>), words: &[&str]| {
        small_idx(dir.path(), 20, 10);
        let path = dir.path().join(file);
        let mut bytes = std::fs::read(&path).unwrap();
        change(&mut bytes);
        std::fs::write(&path, bytes).unwrap();
        refuse(dir.path(), &["train", "idx"], 1, words);
    };
    let cut = |bytes: &mut Vec<u8>| bytes.truncate(1000);
    damage(images, &cut, &[images, "1000", "15696"]);
    damage(images, &|b| b[3] = 9, &[images]);
    damage(labels, &|b| b.truncate(4), &[labels]);
    let fewer = |bytes: &mut Vec<u8>| {
        bytes.truncate(8 + 19);
        bytes[7] = 19;
    };
    damage(labels, &fewer, &["20", "19"]);
    assert!(
        !dir.path().join("runs").exists(),
        "a refused run leaves nothing"
    );
}

#[test]
fn a_place_where_no_run_can_be_is_said() {
    let dir = folder();
    std::fs::write(dir.path().join("file"), "").unwrap();
    let data = small_idx(dir.path(), 20, 10);
    let args = ["train", data.to_str().unwrap(), "--epochs", "1", "--output"];
    let to = |output| [&args[..], &[output]].concat();
    refuse(dir.path(), &to("file/runs"), 1, &["file/runs", "--output"]);
    #[cfg(target_os = "linux")]
    refuse(dir.path(), &to("/sys/lenslet"), 1, &["/sys/lenslet"]);
}

/// A limit on the size of files stands for a full disk: the write fails in the middle.
#[test]
#[cfg(target_os = "linux")]
fn a_write_that_fails_leaves_nothing_half_written() {
    let dir = folder();
    let data = small_idx(dir.path(), 64, 32);
    let script = format!(
        "trap '' XFSZ; ulimit -f 100; '{}' train '{}' --epochs 1",
        env!("CARGO_BIN_EXE_lenslet"),
        data.display()
    );
    let output = Command::new("bash")
        .args(["-c", &script])
        .current_dir(dir.path())
        .output()
        .unwrap();
    check_refusal(&output.into(), 1, &["cannot write", "model.safetensors"]);
    let run = dir.path().join("runs/lenet5-1");
    let mut left: Vec<_> = std::fs::read_dir(run)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    assert_eq!(left, ["config.json"]);
}

#[test]
fn a_diverging_run_stops_and_keeps_its_last_checkpoint() {
    let dir = folder();
    let data = small_idx(dir.path(), 128, 32);
    let args = [
        "train",
        data.to_str().unwrap(),
        "--lr",
        "1e38",
        "--scheduler",
        "constant",
    ];
    let ran = refuse(dir.path(), &args, 1, &["diverged", "--lr", "runs/lenet5-1"]);
    assert!(ran.stderr.contains("NaN") || ran.stderr.contains("inf"));
}

#[test]
fn what_cannot_be_resumed_is_said() {
    let dir = folder();
    refuse(
        dir.path(),
        &["train", "--resume", "nowhere"],
        1,
        &["nowhere", "no such folder"],
    );
    std::fs::create_dir(dir.path().join("empty")).unwrap();
    refuse(
        dir.path(),
        &["train", "--resume", "empty"],
        1,
        &["not the folder of a run"],
    );
    let run_dir = small_run(dir.path());
    let path = run_dir.to_str().unwrap();
    refuse(
        dir.path(),
        &["train", "--resume", path],
        1,
        &["finished (1 of 1 epochs)"],
    );
    refuse(
        dir.path(),
        &["train", "--resume", path, "--epochs", "9"],
        2,
        &["--epochs"],
    );
    let checkpoint = run_dir.join("checkpoint.safetensors");
    let bytes = std::fs::read(&checkpoint).unwrap();
    std::fs::write(&checkpoint, &bytes[..bytes.len() / 2]).unwrap();
    refuse(
        dir.path(),
        &["train", "--resume", path],
        1,
        &["checkpoint.safetensors", "truncated"],
    );
    std::fs::remove_file(&checkpoint).unwrap();
    refuse(
        dir.path(),
        &["train", "--resume", path],
        1,
        &["no checkpoint"],
    );
    assert_eq!(run(dir.path(), &["train", "--resume"]).code, 2);
}
