//! Writes models with generated weights, and what they answer, for `scripts/check_torchvision.py`:
//! `cargo run --release --example write_weights -- DIR NAME...`

use std::path::PathBuf;

use burn::tensor::{Device, Tensor, TensorData};
use lenslet_models::{ImageModel, export, variant};
use lenslet_nn::{Init, load_state_dict, tensor_shapes};
use lenslet_reference::{input, tensor};
use lenslet_weights::{Precision, write};
use serde_json::json;

/// Scale of the weights: large enough for the answers to depend on the input.
const GAIN: f64 = 4.0;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let dir = PathBuf::from(args.next().ok_or("give a folder and names of models")?);
    let device = Device::flex();
    for name in args {
        let variant = variant(&name).ok_or_else(|| format!("no model is called {name}"))?;
        let empty = variant.build(1000, &mut Init::empty(&device));
        let generated = tensor_shapes(&empty).into_iter().map(|(name, shape)| {
            let values = tensor(&name, &shape, GAIN);
            (name, TensorData::new(values, shape))
        });
        let model = load_state_dict(empty, generated.collect())?;
        let tensors = export(&model);
        let file = |ending: &str| dir.join(format!("{name}{ending}"));
        write(&file(".safetensors"), &tensors, None, Precision::F32)?;
        write(&file(".f16.safetensors"), &tensors, None, Precision::F16)?;
        let shape = [1, 3, 224, 224];
        let values = input("input", shape.iter().product());
        let x = Tensor::<4>::from_data(TensorData::new(values.clone(), shape), &device);
        let logits: Vec<f32> = model.forward(x).into_data().iter().collect();
        let record = json!({ "shape": shape, "input": values, "logits": logits });
        std::fs::write(file(".json"), record.to_string())?;
    }
    Ok(())
}
