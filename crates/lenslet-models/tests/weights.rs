//! Weights under every naming, and what happens when they do not fit.

use std::io::Read;
use std::path::Path;

use burn::tensor::{Device, Tensor as Array, TensorData};
use lenslet_models::{
    Auxiliary, BuildOptions, Classes, ImageModel, LoadOptions, ModelError, export, variant,
};
use lenslet_nn::Init;
use lenslet_reference::{inference, input, relative_error, tensor};
use lenslet_weights::{Tensor, Values, Weights};
use serde::Deserialize;

/// A file of `scripts/make_naming.py`.
#[derive(Deserialize)]
struct Naming {
    variant: String,
    naming: String,
    gain: f64,
    size: usize,
    tensors: Vec<(String, Vec<usize>)>,
    logits: Vec<f64>,
}

fn naming(file: &str) -> Naming {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/naming");
    let packed = std::fs::File::open(path.join(format!("{file}.json.gz"))).unwrap();
    let mut text = String::new();
    flate2::read::GzDecoder::new(packed)
        .read_to_string(&mut text)
        .unwrap();
    serde_json::from_str(&text).unwrap()
}

fn generated(names: impl IntoIterator<Item = (String, Vec<usize>)>, gain: f64) -> Weights {
    let tensors = names.into_iter().map(|(name, shape)| Tensor {
        values: Values::F32(tensor(&name, &shape, gain)),
        name,
        shape,
    });
    Weights {
        tensors: tensors.collect(),
        ..Weights::default()
    }
}

fn logits(model: &impl ImageModel, size: usize, device: &Device) -> Vec<f32> {
    let values = input("input", 2 * 3 * size * size);
    let x = Array::<4>::from_data(TensorData::new(values, [2, 3, size, size]), device);
    let rows = model.forward(x).into_data();
    rows.iter::<f32>().collect()
}

/// Other libraries' models, filled by their own names, answer what ours answers with these
/// weights: no two tensors of one shape are mixed up.
#[test]
fn every_naming_gives_the_same_answers() {
    let device = Device::flex();
    for file in [
        "timm_resnet18",
        "timm_efficientnet_b0",
        "timm_tf_efficientnetv2_s",
        "timm_convnext_tiny",
        "timm_vit_base",
        "timm_vit_small",
        "pytorch_efficientnet_b0",
    ] {
        let theirs = naming(file);
        let weights = generated(theirs.tensors, theirs.gain);
        let variant = variant(&theirs.variant).unwrap();
        let mut options = LoadOptions::as_stored();
        options.build.tensorflow = file.contains("_tf_");
        let loaded = variant
            .load(weights, &options, &mut Init::empty(&device))
            .unwrap_or_else(|e| panic!("{file}: {e}"));
        assert_eq!(loaded.naming, theirs.naming, "{file}");
        assert!(loaded.left_out.is_empty() && loaded.new.is_empty());
        let rows = logits(&loaded.model, theirs.size, &device);
        let got: Vec<f32> = rows
            .chunks(1000)
            .flat_map(|row| &row[..128])
            .copied()
            .collect();
        let error = relative_error(&got, &theirs.logits);
        // Ten times what PyTorch's own f32 loses on these models, 1.3e-6 at most, and a little.
        assert!(error < 2e-5, "{file}: {error:e}");
    }
}

/// `norm.1` for `norm1`.
fn dotted(name: &str) -> String {
    let units = ["norm1", "norm2", "conv1", "conv2"];
    units.iter().fold(name.to_string(), |name, unit| {
        let (kind, number) = unit.split_at(4);
        name.replace(&format!("{unit}."), &format!("{kind}.{number}."))
    })
}

/// `linear_1` for the first layer of a perceptron.
fn numbered(name: &str) -> String {
    let name = name.replace("mlp.0.", "mlp.linear_1.");
    name.replace("mlp.3.", "mlp.linear_2.")
}

/// What torchvision's models were filled with, under the names in its older published files.
#[test]
fn torchvisions_first_names_are_known() {
    let device = Device::flex();
    for (name, rename, example) in [
        (
            "densenet121",
            dotted as fn(&str) -> String,
            ".norm.1.weight",
        ),
        ("vit_b_16", numbered, ".mlp.linear_1.bias"),
    ] {
        let fixture = inference(name);
        let tolerance = fixture.tolerance();
        let floats = fixture
            .state_dict
            .into_iter()
            .filter(|(_, _, dtype)| dtype == "f32");
        let ours = floats.map(|(name, shape, _)| (name, shape));
        let mut weights = generated(ours, fixture.gain);
        for tensor in &mut weights.tensors {
            tensor.name = rename(&tensor.name);
        }
        assert!(
            weights.tensors.iter().any(|t| t.name.ends_with(example)),
            "{name}"
        );
        let loaded = variant(name)
            .unwrap()
            .load(
                weights,
                &LoadOptions::as_stored(),
                &mut Init::empty(&device),
            )
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(loaded.naming, "torchvision, first version");
        let got = logits(&loaded.model, fixture.input_shape[2], &device);
        let error = relative_error(&got, &fixture.output_f64);
        assert!(error < tolerance, "{name}: {error:e}");
    }
}

/// A model of each family, out and in again.
#[test]
fn what_is_written_is_read() {
    let device = Device::flex();
    let dir = std::env::temp_dir().join(format!("lenslet-models-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    for name in [
        "lenet5",
        "resnet18",
        "swin_t",
        "efficientnet_lite0",
        "shufflenet_v2_x1_0",
    ] {
        let variant = variant(name).unwrap();
        let model = variant.build(7, &mut Init::seeded(&device, 1));
        let path = dir.join(format!("{name}.safetensors"));
        let tensors = export(&model);
        lenslet_weights::write(&path, &tensors, None, lenslet_weights::Precision::F32).unwrap();
        let weights = lenslet_weights::read(&path).unwrap();
        let loaded = variant
            .load(
                weights,
                &LoadOptions::as_stored(),
                &mut Init::empty(&device),
            )
            .unwrap();
        assert_eq!(loaded.build.num_classes, 7);
        assert_eq!(export(&loaded.model), tensors, "{name}");
    }
    std::fs::remove_dir_all(&dir).unwrap();
}

fn weights_of(name: &str, options: &BuildOptions) -> Weights {
    let device = Device::flex();
    let model = variant(name)
        .unwrap()
        .build_with(options, &mut Init::seeded(&device, 3));
    let mut tensors = export(&model);
    tensors.retain(|t| !t.name.ends_with("num_batches_tracked"));
    Weights {
        tensors,
        ..Weights::default()
    }
}

#[test]
fn another_number_of_classes_is_never_silent() {
    let device = Device::flex();
    let variant = variant("squeezenet1_1").unwrap();
    let weights = weights_of("squeezenet1_1", &BuildOptions::new(5));
    let load = |classes| {
        let options = LoadOptions::as_stored().with_classes(classes);
        variant.load(weights.clone(), &options, &mut Init::seeded(&device, 9))
    };
    assert_eq!(load(Classes::AsStored).unwrap().build.num_classes, 5);
    assert_eq!(load(Classes::Exactly(5)).unwrap().build.num_classes, 5);
    let error = load(Classes::Exactly(3)).unwrap_err();
    assert_eq!(
        error,
        ModelError::Classes {
            stored: 5,
            wanted: 3
        }
    );
    assert!(error.to_string().contains("the weights are for 5 classes"));

    let classifier = ["classifier.1.bias", "classifier.1.weight"];
    for classes in [3, 5] {
        let loaded = load(Classes::New(classes)).unwrap();
        assert_eq!(loaded.left_out, classifier);
        assert_eq!(loaded.new, ["classifier.1.weight", "classifier.1.bias"]);
        let tensors = export(&loaded.model);
        let get = |name: &str| tensors.iter().find(|t| t.name == name).unwrap();
        assert_eq!(get("classifier.1.weight").shape, [classes, 512, 1, 1]);
        assert_ne!(
            Some(get("classifier.1.weight")),
            weights.get("classifier.1.weight")
        );
        assert_eq!(
            Some(get("features.0.weight")),
            weights.get("features.0.weight")
        );
    }
}

#[test]
fn auxiliary_classifiers_are_taken_or_left_as_told() {
    let device = Device::flex();
    let variant = variant("googlenet").unwrap();
    let with = weights_of("googlenet", &BuildOptions::new(4));
    let without = weights_of("googlenet", &BuildOptions::new(4).with_aux_logits(false));
    let load = |weights: &Weights, auxiliary, classes| {
        let options = LoadOptions::as_stored()
            .with_auxiliary(auxiliary)
            .with_classes(classes);
        variant.load(weights.clone(), &options, &mut Init::seeded(&device, 9))
    };
    let stored = load(&with, Auxiliary::AsStored, Classes::AsStored).unwrap();
    assert!(stored.build.aux_logits && stored.left_out.is_empty());
    let stored = load(&without, Auxiliary::AsStored, Classes::AsStored).unwrap();
    assert!(!stored.build.aux_logits);
    let left = load(&with, Auxiliary::Without, Classes::AsStored).unwrap();
    assert!(
        left.left_out
            .iter()
            .all(|n| n.starts_with("aux1.") || n.starts_with("aux2."))
    );
    assert_eq!(
        left.left_out.len(),
        with.tensors.len() - without.tensors.len()
    );
    let error = load(&without, Auxiliary::With, Classes::AsStored).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("missing     aux1.conv.conv.weight"),
        "{error}"
    );

    let new = load(&with, Auxiliary::AsStored, Classes::New(6)).unwrap();
    let mut names = new.new.clone();
    names.sort();
    assert_eq!(names, new.left_out);
    assert_eq!(
        names,
        [
            "aux1.fc2.bias",
            "aux1.fc2.weight",
            "aux2.fc2.bias",
            "aux2.fc2.weight",
            "fc.bias",
            "fc.weight"
        ]
    );
}

#[test]
fn what_does_not_fit_is_listed_by_name() {
    let device = Device::flex();
    let mut weights = weights_of("resnet18", &BuildOptions::new(10));
    for tensor in &mut weights.tensors {
        match tensor.name.as_str() {
            "bn1.weight" => tensor.name = "bn_1.weight".into(),
            "layer1.0.conv1.weight" => {
                tensor.shape = vec![64, 64, 9];
            }
            _ => {}
        }
    }
    let load = |weights| {
        let options = LoadOptions::as_stored();
        variant("resnet18")
            .unwrap()
            .load(weights, &options, &mut Init::empty(&device))
    };
    let Err(ModelError::Load { source, naming, .. }) = load(weights.clone()) else {
        panic!("it must not load");
    };
    assert_eq!(naming, "torchvision");
    assert_eq!(source.missing, ["bn1.weight"]);
    assert_eq!(source.unexpected, ["bn_1.weight"]);
    let (name, model, file) = &source.misshapen[0];
    assert_eq!(name, "layer1.0.conv1.weight");
    assert_eq!(
        (model.as_slice(), file.as_slice()),
        (&[64, 64, 3, 3][..], &[64, 64, 9][..])
    );
    assert!(
        source
            .to_string()
            .contains("(the weights have bn_1.weight)")
    );
}

/// A tensor that a file has under our name and theirs is not lost.
#[test]
fn a_tensor_stored_under_two_names_is_reported() {
    let device = Device::flex();
    let theirs = naming("timm_vit_small");
    let mut weights = generated(theirs.tensors, theirs.gain);
    let mut second = weights.get("pos_embed").unwrap().clone();
    second.name = "pos_embedding".into();
    weights.tensors.push(second);
    let options = LoadOptions::as_stored();
    let variant = variant("guide_vit_small").unwrap();
    let error = variant
        .load(weights, &options, &mut Init::empty(&device))
        .unwrap_err();
    assert!(
        error.to_string().contains("pos_embedding (stored twice)"),
        "{error}"
    );
}
