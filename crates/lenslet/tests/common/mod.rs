//! The real binary in a folder of its own.
#![allow(dead_code)] // Every test file takes a part of it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use lenslet_data::{Dataset, mnist};
use tempfile::TempDir;

pub fn folder() -> TempDir {
    TempDir::new().unwrap()
}

pub fn lenslet(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lenslet"));
    command.current_dir(dir);
    command
}

/// What a finished command printed.
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Ran {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

pub fn run(dir: &Path, args: &[&str]) -> Ran {
    lenslet(dir).args(args).output().unwrap().into()
}

/// Runs a command that must succeed.
pub fn succeed(dir: &Path, args: &[&str]) -> Ran {
    let ran = run(dir, args);
    assert_eq!(ran.code, 0, "{args:?}: {}", ran.stderr);
    ran
}

/// Runs a command that must fail with `code`, say every one of `words`, and show no inner working.
pub fn refuse(dir: &Path, args: &[&str], code: i32, words: &[&str]) -> Ran {
    let ran = run(dir, args);
    check_refusal(&ran, code, words);
    ran
}

pub fn check_refusal(ran: &Ran, code: i32, words: &[&str]) {
    assert_eq!(ran.code, code, "{}", ran.stderr);
    for word in words {
        assert!(ran.stderr.contains(word), "no '{word}' in: {}", ran.stderr);
    }
    for inner in ["panicked", "RUST_BACKTRACE", "called `"] {
        assert!(!ran.stderr.contains(inner), "{}", ran.stderr);
    }
}

/// Writes the four IDX files of a small data set: the first digits of the embedded sample.
pub fn small_idx(dir: &Path, train: usize, test: usize) -> PathBuf {
    let digits = mnist::embedded().unwrap();
    let folder = dir.join("idx");
    std::fs::create_dir_all(&folder).unwrap();
    write_idx(&folder, "train", &digits.train, train);
    write_idx(&folder, "t10k", &digits.test, test);
    folder
}

fn write_idx(folder: &Path, part: &str, dataset: &dyn Dataset, count: usize) {
    let mut images = [0x803u32, count as u32, 28, 28]
        .map(u32::to_be_bytes)
        .concat();
    let mut labels = [0x801u32, count as u32].map(u32::to_be_bytes).concat();
    for index in 0..count {
        let sample = dataset.get(index).unwrap();
        images.extend_from_slice(sample.image.data());
        labels.push(sample.label as u8);
    }
    std::fs::write(folder.join(format!("{part}-images-idx3-ubyte")), images).unwrap();
    std::fs::write(folder.join(format!("{part}-labels-idx1-ubyte")), labels).unwrap();
}

/// A finished run of one epoch on a small data set.
pub fn small_run(dir: &Path) -> PathBuf {
    let data = small_idx(dir, 256, 64);
    succeed(
        dir,
        &["train", data.to_str().unwrap(), "--epochs", "1", "--quiet"],
    );
    dir.join("runs/lenet5-1")
}

/// The columns of a run's history that do not measure time.
pub fn history(run: &Path) -> Vec<String> {
    std::fs::read_to_string(run.join("history.csv"))
        .unwrap()
        .lines()
        .map(|line| line.split(',').take(7).collect::<Vec<_>>().join(","))
        .collect()
}

/// Every tensor of a file, by name.
pub fn tensors(path: &Path) -> Vec<(String, Vec<u8>)> {
    let bytes = std::fs::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Vec<_> = file
        .iter()
        .map(|(name, view)| (name.to_string(), view.data().to_vec()))
        .collect();
    tensors.sort();
    tensors
}

/// Writes a file and the folders above it.
pub fn write(path: &Path, bytes: &[u8]) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

/// Classes of [`photos`], in their natural order.
pub const CLASSES: [&str; 3] = ["grün", "rot 2", "rot 10"];

/// A PNG of 24 x 20: a gradient whose slope is the class, with noise that is the picture's own.
pub fn picture(class: usize, number: usize) -> Vec<u8> {
    let mut noise = (class * 1000 + number) as u32 + 1;
    let mut pixels = Vec::new();
    for y in 0..20usize {
        for x in 0..24usize {
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let value = match class {
                0 => x * 9,
                1 => y * 11,
                _ => 220 - x * 9,
            };
            let value = value as u8 + (noise >> 28) as u8;
            pixels.extend([value, value / 2, 255 - value]);
        }
    }
    let image = lenslet_data::Image::new(24, 20, 3, pixels).unwrap();
    image.to_png().unwrap()
}

/// A folder `photos` of class folders in these parts ("" for none), `count` pictures a class.
pub fn photos(dir: &Path, parts: &[&str], count: usize) -> PathBuf {
    let folder = dir.join("photos");
    for (at, part) in parts.iter().enumerate() {
        for (class, name) in CLASSES.iter().enumerate() {
            for i in 0..count {
                let path = folder.join(part).join(name).join(format!("{i}.png"));
                write(&path, &picture(class, at * count + i));
            }
        }
    }
    folder
}
