//! `lenslet run`: arrays in, arrays out, against PyTorch's numbers.

mod common;

use std::path::{Path, PathBuf};

use common::{folder, refuse, small_run, succeed};
use lenslet_data::npy;
use lenslet_reference::{Inference, inference, input, relative_error, tensor};
use lenslet_weights::{Precision, Tensor, Values};
use serde_json::Value;

/// A weight file and an input as PyTorch had them.
fn written(dir: &Path, name: &str) -> (Inference, PathBuf, PathBuf) {
    let fixture = inference(name);
    let tensors = fixture.state_dict.iter().map(|(name, shape, kind)| Tensor {
        name: name.clone(),
        shape: shape.clone(),
        values: match kind.as_str() {
            "i64" => Values::I64(vec![0; shape.iter().product()]),
            _ => Values::F32(tensor(name, shape, fixture.gain)),
        },
    });
    let weights = dir.join(format!("{name}.safetensors"));
    let tensors: Vec<Tensor> = tensors.collect();
    lenslet_weights::write(&weights, &tensors, None, Precision::F32).unwrap();
    let x = dir.join("x.npy");
    save(&x, &fixture.input_shape);
    (fixture, weights, x)
}

fn save(path: &Path, shape: &[usize]) {
    let numbers = input("input", shape.iter().product());
    std::fs::write(path, npy::to_bytes(shape, &numbers)).unwrap();
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn both_engines_agree_with_pytorch() {
    let dir = folder();
    let (fixture, weights, x) = written(dir.path(), "resnet18");
    let taps: Vec<&str> = fixture.taps.keys().map(String::as_str).collect();
    let taps = taps.join(",");
    for (engine, more) in [
        ("compiled", vec![]),
        ("compiled", vec!["--exact", "--batch-size", "1"]),
        ("eager", vec!["--batch-size", "1"]),
    ] {
        let mut args = vec!["run", "resnet18", "--weights", text(&weights), "--json"];
        args.extend(["--input", text(&x), "--output", "y.npy"]);
        args.extend(["--engine", engine, "--taps", &taps]);
        args.extend(&more);
        let ran = succeed(dir.path(), &args);
        let told: Value = serde_json::from_str(&ran.stdout).unwrap();
        assert_eq!(told["output"]["path"], "y.npy");
        let y = npy::read(&dir.path().join("y.npy")).unwrap();
        assert_eq!(y.shape, fixture.output_shape);
        let error = relative_error(&y.data, &fixture.output_f64);
        println!("{engine} {more:?} {error:.1e}");
        assert!(error <= fixture.tolerance(), "{engine}: {error:.1e}");
        for (i, (name, expected)) in fixture.taps.iter().enumerate() {
            assert_eq!(told["taps"][i]["name"], name.as_str());
            let tap = npy::read(&dir.path().join(format!("y.{name}.npy"))).unwrap();
            assert_eq!(tap.shape, expected.shape, "{engine}: {name}");
            let n = tap.data.len() as f64;
            let mean = tap.data.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
            let scale = expected.mean.abs() + 3.0 * expected.std;
            assert!(
                (mean - expected.mean).abs() <= 1e-4 * scale,
                "{engine}: {name}"
            );
            for (found, wanted) in tap.data.iter().zip(&expected.first) {
                let off = (f64::from(*found) - wanted).abs();
                assert!(off <= 1e-4 * scale, "{engine}: {name}: {found} {wanted}");
            }
        }
    }
}

#[test]
fn other_sizes_and_kinds_of_numbers_are_taken() {
    let dir = folder();
    let (_, weights, x) = written(dir.path(), "squeezenet1_1");
    let run = |input: &Path, output: &str, engine: &str| {
        let mut args = vec!["run", "squeezenet1_1", "--weights", text(&weights)];
        args.extend([
            "--input",
            text(input),
            "--output",
            output,
            "--engine",
            engine,
        ]);
        let ran = succeed(dir.path(), &args);
        (npy::read(&dir.path().join(output)).unwrap(), ran)
    };
    save(&x, &[3, 3, 70, 95]);
    let (compiled, ran) = run(&x, "a.npy", "compiled");
    assert_eq!(compiled.shape, [3, 1000]);
    assert_eq!(ran.stdout, "a.npy [3, 1000]\n");
    let (eager, _) = run(&x, "b.npy", "eager");
    let eager: Vec<f64> = eager.data.iter().map(|v| f64::from(*v)).collect();
    assert!(relative_error(&compiled.data, &eager) < 1e-5);

    // The same numbers in another order.
    let array = npy::read(&x).unwrap();
    let [n, c, h, w] = [3, 3, 70, 95];
    let mut doubles = Vec::new();
    for column in 0..w {
        for row in 0..h {
            for channel in 0..c {
                for image in 0..n {
                    let at = ((image * c + channel) * h + row) * w + column;
                    doubles.extend(f64::from(array.data[at]).to_le_bytes());
                }
            }
        }
    }
    let header = "{'descr': '<f8', 'fortran_order': True, 'shape': (3, 3, 70, 95), }\n";
    let mut file = b"\x93NUMPY\x01\x00".to_vec();
    file.extend((header.len() as u16).to_le_bytes());
    file.extend(header.as_bytes());
    file.extend(doubles);
    std::fs::write(dir.path().join("f.npy"), &file).unwrap();
    let (turned, _) = run(Path::new("f.npy"), "c.npy", "compiled");
    assert_eq!(turned, compiled);

    let header = header.replace("<f8", "|u1").replace("True", "False");
    let mut file = b"\x93NUMPY\x01\x00".to_vec();
    file.extend((header.len() as u16).to_le_bytes());
    file.extend(header.as_bytes());
    file.resize(file.len() + n * c * h * w, 7);
    std::fs::write(dir.path().join("u.npy"), &file).unwrap();
    let (_, ran) = run(Path::new("u.npy"), "d.npy", "compiled");
    assert!(ran.stderr.contains("numbers 0 to 255"), "{}", ran.stderr);
}

#[test]
fn a_run_takes_arrays_too() {
    let dir = folder();
    let run = small_run(dir.path());
    save(&dir.path().join("x.npy"), &[5, 1, 32, 32]);
    let args = ["run", text(&run), "--input", "x.npy", "--output", "y.npy"];
    succeed(dir.path(), &args);
    assert_eq!(npy::read(&dir.path().join("y.npy")).unwrap().shape, [5, 10]);
}

#[test]
fn what_cannot_work_is_explained() {
    let dir = folder();
    let (_, weights, x) = written(dir.path(), "squeezenet1_1");
    let run = |more: &[&str], code, words: &[&str]| {
        let args = [
            &[
                "run",
                "squeezenet1_1",
                "--weights",
                text(&weights),
                "--output",
                "y.npy",
            ],
            more,
        ];
        refuse(dir.path(), &args.concat(), code, words);
        assert!(!dir.path().join("y.npy").exists());
    };
    let x = text(&x);
    run(&["--input", "none.npy"], 1, &["none.npy", "cannot be read"]);
    std::fs::write(dir.path().join("text.npy"), "1 2 3").unwrap();
    run(
        &["--input", "text.npy"],
        1,
        &["is not a NumPy .npy file", "numpy.save"],
    );
    let shapes: [(&[usize], &[&str]); 5] = [
        (&[3, 224, 224], &["[3, 224, 224]", "x[None]"]),
        (
            &[2, 224, 224, 3],
            &["224 channels", "x.transpose(0, 3, 1, 2)"],
        ),
        (
            &[2, 1, 64, 64],
            &["has 1 channels, but squeezenet1_1 takes 3"],
        ),
        (&[0, 3, 64, 64], &["holds no numbers"]),
        (&[1, 3, 9, 9], &["window", "larger input"]),
    ];
    for (shape, words) in shapes {
        save(&dir.path().join("bad.npy"), shape);
        run(&["--input", "bad.npy"], 1, words);
    }
    let near = ["no module called features.2.squeze", "features.3.squeeze"];
    run(
        &["--input", x, "--taps", "features.3.squeze"],
        1,
        &near[1..],
    );
    run(
        &["--input", x, "--taps", "../x"],
        2,
        &["--taps", "layer1.0.conv1"],
    );
    run(&["--input", x, "--engine", "fast"], 2, &["compiled"]);
    run(&["--input", x, "--batch-size", "0"], 2, &["at least 1"]);
    let same = ["run", "squeezenet1_1", "--weights", text(&weights)];
    let same = [&same[..], &["--input", x, "--output", x]].concat();
    refuse(dir.path(), &same, 2, &["must not be the input"]);
    let bare = ["run", "squeezenet1_1", "--input", x, "--output", "y.npy"];
    refuse(
        dir.path(),
        &bare,
        1,
        &["has no weights of its own", "--weights"],
    );
    let nowhere = [&same[..4], &["--input", x, "--output", "no/such/y.npy"]].concat();
    refuse(
        dir.path(),
        &nowhere,
        1,
        &["no/such/y.npy", "cannot be written"],
    );
}
