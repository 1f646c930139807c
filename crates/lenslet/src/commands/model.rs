//! Which model a command works with: a trained one, an architecture with weights of its own, or the
//! one inside the program.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use burn::tensor::Device;
use lenslet_models::{
    Auxiliary, BuildOptions, LoadOptions, Model, PublishedFile, Variant, imagenet_classes,
};
use lenslet_nn::Init;
use lenslet_train::{FORMAT, ModelInfo, Pretrained, find_variant, load_model, model_path};
use serde_json::json;

use super::{INSIDE, fetch};
use crate::cli::{Common, ModelArgs, NamedModel};

/// The model that the arguments name, with all that is known of it.
pub fn open(args: &ModelArgs, device: &Device, common: &Common) -> Result<(Model, ModelInfo)> {
    match (&args.model, &args.weights) {
        (None, _) => embedded(device),
        (Some(name), Some(weights)) => {
            with_weights(name, weights, BuildOptions::new(0), device, common)
        }
        (Some(path), None) => trained(path, device),
    }
}

/// The model that a command takes by position, built as told. EfficientNet-Lite0 without weights is
/// the one inside the program.
pub fn open_named(
    named: &NamedModel,
    build: BuildOptions,
    device: &Device,
    common: &Common,
) -> Result<(Model, ModelInfo)> {
    match &named.weights {
        Some(weights) => with_weights(&named.model, weights, build, device, common),
        None if named.model == Path::new(INSIDE) && !named.model.exists() => embedded(device),
        None => trained(&named.model, device),
    }
}

#[cfg(feature = "pretrained")]
fn embedded(device: &Device) -> Result<(Model, ModelInfo)> {
    let bytes = lenslet_pretrained::EFFICIENTNET_LITE0;
    let name = Path::new("the model inside the program");
    Ok(lenslet_train::parse_model(bytes, name, device)?)
}

#[cfg(not(feature = "pretrained"))]
fn embedded(_: &Device) -> Result<(Model, ModelInfo)> {
    bail!("this program was built without a model inside; name one with --model")
}

fn trained(path: &Path, device: &Device) -> Result<(Model, ModelInfo)> {
    let architecture = path.to_str().and_then(lenslet_models::variant);
    match architecture {
        Some(variant) if !path.exists() => bail!(
            "{} is an architecture and has no weights of its own; give them with --weights FILE, or give the folder \
             of a trained model instead",
            variant.name
        ),
        _ => Ok(load_model(path, device)?),
    }
}

fn with_weights(
    name: &Path,
    given: &Path,
    build: BuildOptions,
    device: &Device,
    common: &Common,
) -> Result<(Model, ModelInfo)> {
    let variant = find_variant(&name.display().to_string())?;
    let (file, published) = locate(variant, given, common)?;
    let weights = lenslet_weights::read(&file)?;
    // Auxiliary classifiers have no part in a prediction.
    let options = LoadOptions {
        build,
        ..LoadOptions::as_stored().with_auxiliary(Auxiliary::Without)
    };
    let loaded = variant
        .load(weights, &options, &mut Init::empty(device))
        .with_context(|| format!("{} does not fit", file.display()))?;
    if !common.quiet && !loaded.left_out.is_empty() {
        let count = loaded.left_out.len();
        eprintln!("left out {count} tensors of auxiliary classifiers, which only training needs");
    }
    let info = ModelInfo {
        format: FORMAT,
        architecture: variant.name.into(),
        classes: classes(loaded.build.num_classes),
        preprocess: match published {
            Some(published) => variant.preprocess_for(published),
            None => preprocess(variant, loaded.build.image_size),
        },
        options: Some(loaded.build),
        training: json!({ "weights": file }),
        golden: Vec::new(),
    };
    Ok((loaded.model, info))
}

/// The file that a user means by `--weights`, fetched if need be, and which published weights it
/// holds, if any: its name says so.
fn locate(
    variant: &Variant,
    given: &Path,
    common: &Common,
) -> Result<(PathBuf, Option<&'static PublishedFile>)> {
    let published = given
        .file_name()
        .and_then(|name| variant.published_file(name.to_str()?));
    let file = match published {
        Some(published) if !given.exists() => fetch::published(published, common)?,
        _ if !given.exists() && given.extension().is_none() => {
            bail!(unknown_weights(variant, given))
        }
        _ => model_path(given),
    };
    Ok((file, published))
}

/// What `train --model NAME --weights GIVEN` starts from; `usual` is the architecture where neither
/// the user nor the file names one.
pub fn start_from(
    name: Option<&str>,
    given: &Path,
    usual: &str,
    common: &Common,
) -> Result<Pretrained> {
    let variant = find_variant(name.unwrap_or(usual))?;
    // A model over a backbone starts from that one's weights.
    let variant = variant.backbone().unwrap_or(variant);
    let (file, published) = locate(variant, given, common)?;
    let weights = lenslet_weights::read(&file)?;
    let start = Pretrained::new(given.display().to_string(), weights)?;
    Ok(match published {
        Some(published) => start.with_preprocess(variant.preprocess_for(published)),
        None => start,
    })
}

/// What `train` starts from on pictures unless told: the model inside the program.
#[cfg(feature = "pretrained")]
pub fn start_from_inside() -> Result<Pretrained> {
    let name = "the model inside the program";
    let bytes = lenslet_pretrained::EFFICIENTNET_LITE0;
    let weights = lenslet_weights::from_safetensors(bytes, Path::new(name))?;
    Ok(Pretrained::new(name, weights)?)
}

#[cfg(not(feature = "pretrained"))]
pub fn start_from_inside() -> Result<Pretrained> {
    bail!(
        "this program was built without a model inside to start from; give weights with --model NAME --weights \
         FILE|NAME, or train from random first values with --from-scratch"
    )
}

fn unknown_weights(variant: &Variant, given: &Path) -> String {
    let names: Vec<&str> = variant.published_files().map(|f| f.weights).collect();
    let known = match names.as_slice() {
        [] => "none are published for it".to_string(),
        names => format!("published for it are {}", names.join(", ")),
    };
    let (given, name) = (given.display(), variant.name);
    format!(
        "there is no file {given}, nor are weights of {name} published under that name; {known}"
    )
}

/// Weights for 1000 classes are taken to be ImageNet's; other files do not say what they tell apart.
fn classes(count: usize) -> Vec<String> {
    match count {
        1000 => imagenet_classes(),
        n => (0..n).map(|i| format!("class {i}")).collect(),
    }
}

/// The variant's own preprocessing; where position embeddings are laid out for another size of image,
/// that size without a margin.
fn preprocess(variant: &Variant, image_size: Option<usize>) -> lenslet_data::Preprocess {
    let own = variant.preprocess;
    match image_size {
        Some(size) if own.crop != [size; 2] => lenslet_data::Preprocess {
            resize: lenslet_data::Resize::ShortSide(size),
            crop: [size; 2],
            ..own
        },
        _ => own,
    }
}
