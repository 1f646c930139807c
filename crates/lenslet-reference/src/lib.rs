//! Numbers from PyTorch that the tests of every crate compare with (see this crate's README).

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;

use serde::Deserialize;
use serde::de::DeserializeOwned;

/// A tensor of a state dictionary: name, shape, `"f32"` or `"i64"`.
pub type Entry = (String, Vec<usize>, String);

/// `models/NAME.json`: what a model gives in evaluation mode.
#[derive(Debug, Deserialize)]
pub struct Inference {
    /// Scale of the generated weights.
    pub gain: f64,
    /// `[2, C, H, W]`
    pub input_shape: Vec<usize>,
    /// Trained parameters.
    pub num_params: usize,
    /// Parameters and buffers in PyTorch's order.
    pub state_dict: Vec<Entry>,
    /// Shape of the output.
    pub output_shape: Vec<usize>,
    /// All values up to 4096, else the first 256, computed in f64.
    pub output_f64: Vec<f64>,
    /// Over all values.
    pub output_stats_f64: Stats,
    /// How far PyTorch's own f32 is from f64.
    pub rel_err_f32_f64: f64,
    /// Outputs of inner modules by name.
    pub taps: BTreeMap<String, Tap>,
}

/// Statistics of all values of a tensor.
#[derive(Debug, Deserialize)]
#[allow(missing_docs)]
pub struct Stats {
    pub mean: f64,
    pub std: f64,
    pub l2: f64,
}

/// What an inner module returned.
#[derive(Debug, Deserialize)]
#[allow(missing_docs)]
pub struct Tap {
    pub shape: Vec<usize>,
    pub mean: f64,
    pub std: f64,
    pub first: Vec<f64>,
}

impl Inference {
    /// The largest error allowed, relative to the largest output: ten times what PyTorch's own
    /// f32 loses, and at least 1e-5.
    pub fn tolerance(&self) -> f64 {
        (10.0 * self.rel_err_f32_f64).max(1e-5)
    }
}

/// `training/NAME.json`: three steps of forward, backward, clipping and AdamW.
#[derive(Debug, Deserialize)]
pub struct Training {
    /// Scale of the generated weights.
    pub gain: f64,
    /// Name from which the input is generated.
    pub input_name: String,
    /// `[4, C, H, W]`
    pub input_shape: Vec<usize>,
    /// Labels are `i * 7 % num_classes`.
    pub num_classes: usize,
    /// Parameters that train at the head's rate.
    pub head_params: Vec<String>,
    /// Every trained parameter.
    pub param_names: Vec<String>,
    /// Running means and variances.
    pub bn_names: Vec<String>,
    /// Parameters whose gradient is zero but for rounding.
    pub zero_gradient_params: Vec<String>,
    /// The run in f64.
    pub f64: Trace,
    /// How far two f32 implementations were from f64.
    pub f32_vs_f64_rel: BTreeMap<String, Option<f64>>,
}

/// What was measured during three steps. Lists are parallel to the names in [`Training`].
#[derive(Debug, Deserialize)]
#[allow(missing_docs)]
pub struct Trace {
    pub steps: Vec<Step>,
    pub logits_step1_first: Vec<f64>,
    pub logits_step1_l2: f64,
    pub grad_l2_step1: Vec<f64>,
    pub delta_l2_step1: Vec<f64>,
    pub delta_l2_step3: Vec<f64>,
    pub value_l2_step3: Vec<f64>,
    pub bn_l2_step3: Vec<f64>,
    pub eval_logits_after_first: Vec<f64>,
}

/// One training step.
#[derive(Debug, Deserialize)]
#[allow(missing_docs)]
pub struct Step {
    pub loss: f64,
    /// Norm of all gradients, accumulated in f64.
    pub grad_norm_acc64: f64,
    /// Learning rates of the backbone and of the head.
    pub lr: [f64; 2],
}

/// `costs.json`: parameters and multiply-accumulates of a model for one picture.
#[derive(Debug, Deserialize)]
pub struct Costs {
    /// `[1, C, H, W]`
    pub input_shape: Vec<usize>,
    /// Shape of the output.
    pub output_shape: Vec<usize>,
    /// Trained parameters, auxiliary classifiers included.
    pub params: u64,
    /// Multiply-accumulates.
    pub macs: u64,
    /// The same by kind.
    pub macs_by_kind: MacsByKind,
    /// Every call of a module without children, in order: name, class, shape of the output,
    /// parameters, multiply-accumulates. (Attention is one module, its last projection included.)
    #[serde(default)]
    pub layers: Vec<(String, String, Vec<usize>, u64, u64)>,
}

/// Multiply-accumulates by kind.
#[derive(Debug, Deserialize)]
#[allow(missing_docs)]
pub struct MacsByKind {
    pub conv: u64,
    pub linear: u64,
    pub attention: u64,
}

/// Reads `costs.json`: by model, `NAME@SIDE` for another size of picture than the usual one.
pub fn costs() -> BTreeMap<String, Costs> {
    #[derive(Deserialize)]
    struct File {
        models: BTreeMap<String, Costs>,
    }
    read::<File>("", "costs").models
}

/// Names of all fixtures of a kind, sorted.
pub fn names(kind: &str) -> Vec<String> {
    let dir = dir().join(kind);
    let entries = std::fs::read_dir(&dir)
        .unwrap_or_else(|e| panic!("cannot list the fixtures in {}: {e}", dir.display()));
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter_map(|name| Some(name.split_once(".json")?.0.to_string()))
        .collect();
    names.sort();
    names
}

/// Reads `models/NAME`.
pub fn inference(name: &str) -> Inference {
    read("models", name)
}

/// Reads `training/NAME`.
pub fn training(name: &str) -> Training {
    read("training", name)
}

fn dir() -> PathBuf {
    match std::env::var_os("LENSLET_REFERENCE_DIR") {
        Some(dir) => dir.into(),
        None => PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures")),
    }
}

fn read<T: DeserializeOwned>(kind: &str, name: &str) -> T {
    let plain = dir().join(kind).join(format!("{name}.json"));
    let packed = plain.with_extension("json.gz");
    let fail = |e: &dyn std::fmt::Display| -> ! { panic!("fixture {}: {e}", plain.display()) };
    let mut text = Vec::new();
    if plain.exists() {
        text = std::fs::read(&plain).unwrap_or_else(|e| fail(&e));
    } else {
        let file = std::fs::File::open(packed).unwrap_or_else(|e| fail(&e));
        flate2::read::GzDecoder::new(file)
            .read_to_end(&mut text)
            .unwrap_or_else(|e| fail(&e));
    }
    serde_json::from_slice(&text).unwrap_or_else(|e| fail(&e))
}

/// The input of a fixture: values in `[-1, 1)` from its name.
pub fn input(name: &str, len: usize) -> Vec<f32> {
    let seed = fnv1a64(name);
    (0..len as u64)
        .map(|i| (2.0 * unit(seed, i) - 1.0) as f32)
        .collect()
}

/// The weights of a fixture: a pure function of name, shape and gain.
///
/// # Panics
/// When no rule covers the name.
pub fn tensor(name: &str, shape: &[usize], gain: f64) -> Vec<f32> {
    let ends = |suffixes: &[&str]| suffixes.iter().any(|s| name.ends_with(s));
    let fan_in = || shape[1..].iter().product::<usize>() as f64;
    // Value = offset + scale * u with u in [0, 1), or in [-1, 1) where `signed`.
    let (offset, scale, signed) = if ends(&["running_var"]) {
        (1.0, 0.5, false)
    } else if ends(&["running_mean"]) {
        (0.0, 0.1, true)
    } else if name.contains("layer_scale") || ends(&["gamma"]) {
        (0.5, 0.1, true)
    } else if ends(&["class_token", "cls_token", "pos_embedding", "pos_embed"]) {
        (0.0, 0.1, true)
    } else if shape.len() >= 2 {
        (0.0, (gain / fan_in()).sqrt(), true)
    } else if ends(&[".weight"]) {
        (1.0, 0.1, true)
    } else if ends(&["bias"]) {
        (0.0, 0.1, true)
    } else {
        panic!("no rule generates a tensor called {name}")
    };
    let seed = fnv1a64(name);
    (0..shape.iter().product::<usize>() as u64)
        .map(|i| {
            let u = unit(seed, i);
            (offset + scale * if signed { 2.0 * u - 1.0 } else { u }) as f32
        })
        .collect()
}

fn fnv1a64(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
}

/// Number `i` of a stream, in `[0, 1)` (SplitMix64's mixing function).
fn unit(seed: u64, i: u64) -> f64 {
    let mut z = seed.wrapping_add((i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    (z >> 40) as f64 / 16_777_216.0
}

/// Largest `|got - want|` relative to the largest `|want|`. NaN counts as infinitely far.
pub fn relative_error(got: &[f32], want: &[f64]) -> f64 {
    let scale = want.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    let worst = got
        .iter()
        .zip(want)
        .map(|(g, w)| (f64::from(*g) - w).abs())
        .fold(0.0, |m: f64, v| if v <= m { m } else { v });
    if worst.is_nan() {
        f64::INFINITY
    } else {
        worst / scale.max(f64::MIN_POSITIVE)
    }
}

/// The Euclidean norm, accumulated in f64.
pub fn l2(values: &[f32]) -> f64 {
    values
        .iter()
        .map(|v| f64::from(*v) * f64::from(*v))
        .sum::<f64>()
        .sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// First values of the published test vectors, as published (9 significant digits).
    #[test]
    #[allow(clippy::excessive_precision)]
    fn generator_gives_the_published_vectors() {
        let cases: [(&str, &[usize], f64, f32); 6] = [
            ("conv1.weight", &[64, 3, 7, 7], 3.0, 0.0128785539),
            ("conv1.weight", &[64, 3, 7, 7], 4.5, 0.0157729425),
            ("bn1.weight", &[64], 3.0, 0.972040772),
            ("bn1.running_var", &[64], 3.0, 1.32115376),
            ("features.1.0.layer_scale", &[96, 1, 1], 3.0, 0.531823158),
            ("class_token", &[1, 1, 768], 3.0, -0.0422530062),
        ];
        for (name, shape, gain, first) in cases {
            assert_eq!(tensor(name, shape, gain)[0], first, "{name}");
        }
        assert_eq!(input("input", 1)[0], -0.80436337);
    }

    #[test]
    fn relative_error_sees_nan() {
        assert_eq!(relative_error(&[1.0, f32::NAN], &[1.0, 1.0]), f64::INFINITY);
        assert_eq!(relative_error(&[1.0, 2.5], &[1.0, 2.0]), 0.25);
    }
}
