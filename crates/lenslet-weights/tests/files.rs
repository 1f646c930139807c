//! Files that PyTorch wrote (`scripts/make_files.py`), and what is left of them after damage.

use std::path::{Path, PathBuf};

use lenslet_weights::{Precision, Tensor, Values, Weights, WeightsError, read, write};

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/files")
        .join(name)
}

/// What the script puts into a tensor.
fn eighths(count: usize) -> Values {
    Values::F32((0..count).map(|i| (i as f32 - 8.0) / 8.0).collect())
}

fn expected() -> Vec<Tensor> {
    let tensor = |name: &str, shape: &[usize]| Tensor {
        name: name.into(),
        shape: shape.to_vec(),
        values: eighths(shape.iter().product()),
    };
    vec![
        tensor("bn.running_var", &[2]),
        tensor("conv.weight", &[2, 3, 1, 2]),
        tensor("fc.weight", &[3, 4]),
    ]
}

#[test]
fn every_format_type_and_wrapping_gives_the_same_tensors() {
    for name in [
        "zip.pth",
        "legacy.pth",
        "f16.pth",
        "bf16.pth",
        "f64.pth",
        "checkpoint.pth",
        "model_entry.pth",
        "model_state_dict.pth",
        "views.pth",
    ] {
        let weights = read(&file(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(weights.tensors, expected(), "{name}");
    }
}

#[test]
fn safetensors_return_what_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("weights.safetensors");
    let mut tensors = expected();
    tensors.push(Tensor {
        name: "table".into(),
        shape: vec![2],
        values: Values::I64(vec![3, -1]),
    });
    for precision in [Precision::F32, Precision::F16] {
        let metadata = [("made by".to_string(), "a test".to_string())];
        write(&path, &tensors, Some(metadata.into()), precision).unwrap();
        let weights = read(&path).unwrap();
        assert_eq!(weights.tensors, tensors);
        assert_eq!(weights.metadata["made by"], "a test");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn halves_round_to_the_nearest() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("weights.safetensors");
    let tensor = Tensor {
        name: "w".into(),
        shape: vec![2],
        values: Values::F32(vec![0.1, 1.0 + 2f32.powi(-11)]),
    };
    write(&path, &[tensor], None, Precision::F16).unwrap();
    let weights = read(&path).unwrap();
    assert_eq!(
        weights.tensors[0].values,
        Values::F32(vec![0.099975586, 1.0])
    );
}

#[test]
fn a_shape_that_does_not_fit_is_refused() {
    let tensor = Tensor {
        name: "w".into(),
        shape: vec![3],
        values: Values::F32(vec![0.0; 2]),
    };
    let error = write(Path::new("never"), &[tensor], None, Precision::F32).unwrap_err();
    assert_eq!(error.to_string(), "tensor w has shape [3], but 2 values");
}

#[test]
fn nothing_in_a_file_is_executed() {
    let weights = read(&file("command.pth"));
    // Whether the harmless part is given or the file refused, no program has run.
    if let Ok(weights) = weights {
        assert_eq!(weights.tensors.len(), 1);
    }
    assert!(!Path::new("executed").exists());
}

#[test]
fn refusals_say_why() {
    let message = |path: &Path| read(path).unwrap_err().to_string();
    assert!(message(Path::new("nowhere.pth")).starts_with("cannot read nowhere.pth: "));
    assert!(message(&file("no_tensors.pth")).contains("it holds no tensors"));
    assert!(message(&file("huge.pth")).contains("limit"));
    let repeated = message(&file("repeated.pth"));
    assert!(
        repeated.contains("claims 4000000 bytes of tensors"),
        "{repeated}"
    );
    assert!(message(&file("complex.pth")).contains("omplex"));
    let dir = tempfile::tempdir().unwrap();
    let text = dir.path().join("notes.pth");
    std::fs::write(
        &text,
        "no weights at all, but long enough to have a ninth byte",
    )
    .unwrap();
    assert!(message(&text).contains("cannot be read as weights"));
    std::fs::write(&text, "").unwrap();
    assert!(matches!(read(&text), Err(WeightsError::Format { .. })));
}

/// Every truncation and thousands of flipped bits give weights or an error, no panic, and never
/// more memory than the file justifies.
#[test]
fn damaged_files_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("damaged");
    let safe = dir.path().join("whole.safetensors");
    write(&safe, &expected(), None, Precision::F32).unwrap();
    let sources = ["zip.pth", "legacy.pth", "checkpoint.pth"].map(file);
    let mut state = 1u64;
    let mut random = move |below: usize| {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 33) as usize % below
    };
    for source in sources.iter().chain([&safe]) {
        let whole = std::fs::read(source).unwrap();
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert!(read(&path).is_err(), "{} cut to {length}", source.display());
        }
        let mut different = 0;
        for _ in 0..1500 {
            let mut bytes = whole.clone();
            for _ in 0..=random(3) {
                let at = random(bytes.len());
                bytes[at] ^= 1 << random(8);
            }
            std::fs::write(&path, &bytes).unwrap();
            let weights = read(&path).unwrap_or_else(|_| Weights::default());
            different += usize::from(weights.tensors != expected());
            let values: usize = weights.tensors.iter().map(|t| t.values.len()).sum();
            assert!(values <= 4 * whole.len());
        }
        assert!(
            different > 100,
            "{}: damage does something",
            source.display()
        );
    }
}
