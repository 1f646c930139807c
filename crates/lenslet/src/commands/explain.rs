//! `lenslet explain`

use std::path::Path;

use anyhow::{Context, Result};
use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use lenslet_data::{Image, decode};
use lenslet_draw::Scene;
use lenslet_explain::convolution::{self, Matrix, Slide};
use lenslet_explain::{
    FieldPicture, effective_field, feature_maps, field_scene, filters, gradcam, gradcam_scene,
    maps_scene,
};
use lenslet_models::{BuildOptions, Model, Variant};
use lenslet_nn::Init;
use lenslet_train::{ModelInfo, TrainError, find_variant};
use serde_json::{Value, json};

use super::structure::{Blueprint, is_a_name};
use super::{device, model};
use crate::Ended;
use crate::cli::{
    Common, ConvArgs, Explain, ExplainArgs, FeaturesArgs, FieldArgs, FiltersArgs, GradcamArgs,
    NamedModel, PictureArgs, StructureArgs,
};
use crate::report;

pub fn run(args: &ExplainArgs, common: &Common) -> Result<Ended> {
    match &args.what {
        Explain::Conv(args) => conv(args, common),
        Explain::Filters(args) => first_filters(args, common),
        Explain::Features(args) => features(args, common),
        Explain::Gradcam(args) => heat(args, common),
        Explain::ReceptiveField(args) => field(args, common),
    }?;
    Ok(Ended::Done)
}

fn setting(
    setting: &'static str,
    found: impl Into<String>,
    expected: &'static str,
) -> anyhow::Error {
    TrainError::Setting {
        setting,
        found: found.into(),
        expected,
    }
    .into()
}

/// Writes a picture and says where, or prints what is known about it.
fn write(scene: &Scene, args: &PictureArgs, common: &Common, mut about: Value) -> Result<()> {
    let path = &args.output;
    let bytes = match path.extension().and_then(|ending| ending.to_str()) {
        Some("svg") => scene.to_svg().into_bytes(),
        _ => scene.to_png(2.0),
    };
    lenslet_weights::write_atomic(path, &bytes)
        .with_context(|| format!("{}: cannot be written", path.display()))?;
    if common.json {
        about["output"] = json!(path);
        report::print_json(&about)
    } else {
        report::print(path.display())
    }
}

/// Refuses what is written neither as PNG nor as SVG before anything is computed.
fn check(args: &PictureArgs) -> Result<()> {
    match args.output.extension().and_then(|ending| ending.to_str()) {
        Some("png" | "svg") => Ok(()),
        _ => {
            let found = args.output.display().to_string();
            Err(setting("--output", found, "it must end in .png or .svg"))
        }
    }
}

fn is_csv(path: &Path) -> bool {
    path.extension()
        .is_some_and(|ending| ending.eq_ignore_ascii_case("csv"))
}

fn picture(path: &Path) -> Result<Image> {
    Ok(decode::read(path)?.image)
}

fn conv(args: &ConvArgs, common: &Common) -> Result<()> {
    let (example, example_kernel) = Matrix::example();
    let (input, usual) = match &args.image {
        None => (example, example_kernel),
        Some(path) => {
            let input = match is_csv(path) {
                true => Matrix::read(path)?,
                false => Matrix::of_image(picture(path)?),
            };
            (input, Matrix::kernel("edge").unwrap_or(example_kernel))
        }
    };
    let (name, kernel) = match &args.kernel {
        None if args.image.is_none() => ("diagonals".to_string(), usual),
        None => ("edge".to_string(), usual),
        Some(given) => match Matrix::kernel(given) {
            Some(kernel) => (given.clone(), kernel),
            None if is_csv(Path::new(given)) => (given.clone(), Matrix::read(Path::new(given))?),
            None => {
                let names: Vec<&str> = Matrix::kernel_names().collect();
                let found = format!("{given}, and there are {}", names.join(", "));
                return Err(setting(
                    "--kernel",
                    found,
                    "it must be one of these or a .csv of numbers",
                ));
            }
        },
    };
    let slide = Slide {
        stride: args.stride,
        padding: args.padding,
        dilation: args.dilation,
    };
    if args.trace {
        let text = convolution::trace(&input, &kernel, slide)?;
        if common.json {
            let output = convolution::convolve(&input, &kernel, slide)?;
            return report::print_json(
                &json!({ "size": output.size(), "values": output.values() }),
            );
        }
        return report::print(text.trim_end());
    }
    check(&args.picture)?;
    let scene = convolution::scene(&input, &kernel, slide, &name)?;
    let output = convolution::convolve(&input, &kernel, slide)?;
    write(
        &scene,
        &args.picture,
        common,
        json!({ "size": output.size() }),
    )
}

fn open(named: &NamedModel, device: &Device, common: &Common) -> Result<(Model, ModelInfo)> {
    model::open_named(named, BuildOptions::new(0), device, common)
}

fn variant(info: &ModelInfo) -> Result<&'static Variant> {
    Ok(find_variant(&info.architecture)?)
}

fn first_filters(args: &FiltersArgs, common: &Common) -> Result<()> {
    check(&args.picture)?;
    let (model, info) = open(&args.named, &device(), common)?;
    let layer = args.layer.as_deref().unwrap_or(variant(&info)?.first_conv);
    let maps = filters(&model, &info.architecture, layer)?;
    let about = json!({ "layer": layer, "filters": maps.count, "size": maps.size });
    write(&maps_scene(&maps), &args.picture, common, about)
}

fn features(args: &FeaturesArgs, common: &Common) -> Result<()> {
    check(&args.picture)?;
    let image = picture(&args.image)?;
    let device = device();
    let (model, info) = open(&args.named, &device, common)?;
    let layer = args.layer.as_deref().unwrap_or(variant(&info)?.first_conv);
    let model = model.valid();
    let name = &info.architecture;
    let maps = feature_maps(&model, name, &info.preprocess, image, layer, &device)?;
    let about = json!({ "layer": layer, "maps": maps.count, "size": maps.size });
    write(&maps_scene(&maps), &args.picture, common, about)
}

fn heat(args: &GradcamArgs, common: &Common) -> Result<()> {
    check(&args.picture)?;
    let image = picture(&args.image)?;
    let device = device().autodiff();
    let (model, info) = open(&args.named, &device, common)?;
    let class = match &args.class {
        None => None,
        Some(wanted) => Some(class(wanted, &info.classes)?),
    };
    let heat = gradcam(
        model,
        &info.preprocess,
        image,
        class,
        args.layer.as_deref(),
        &device,
    )?;
    let name = &info.classes[heat.class];
    if heat.heat.iter().all(|&v| v == 0.0) && !common.quiet {
        eprintln!(
            "nothing at {} speaks for {name}; an earlier --layer may",
            heat.layer
        );
    }
    let [_, columns] = heat.size;
    let rows: Vec<&[f64]> = heat.heat.chunks(columns).collect();
    let about = json!({
        "class": name, "probability": heat.probability, "layer": heat.layer, "heat": rows,
    });
    let scene = gradcam_scene(&heat, &info.architecture, name);
    write(&scene, &args.picture, common, about)
}

/// The class of a name, in any case.
fn class(wanted: &str, classes: &[String]) -> Result<usize> {
    let found = classes
        .iter()
        .position(|class| class.eq_ignore_ascii_case(wanted));
    found.ok_or_else(|| {
        let near = classes.iter().filter(|class| {
            let (class, wanted) = (class.to_lowercase(), wanted.to_lowercase());
            class.contains(&wanted) || wanted.contains(&class)
        });
        let mut near: Vec<&str> = near.take(5).map(String::as_str).collect();
        if near.is_empty() {
            near = classes.iter().take(5).map(String::as_str).collect();
            near.push("…");
        }
        let found = format!("{wanted}, and the model knows {}", near.join(", "));
        setting("--class", found, "it must be a class of the model")
    })
}

fn field(args: &FieldArgs, common: &Common) -> Result<()> {
    check(&args.picture)?;
    let image = args.image.as_deref().map(picture).transpose()?;
    let bare = args.named.weights.is_none() && is_a_name(&args.named.model);
    let device = device().autodiff();
    let opened = match bare {
        true => None,
        false => Some(open(&args.named, &device, common)?),
    };
    let blueprint = Blueprint::of(&StructureArgs {
        model: args.named.model.clone(),
        input: opened
            .as_ref()
            .map(|(_, info)| info.preprocess.output_shape()),
        classes: None,
    })?;
    let preprocess = match &opened {
        Some((_, info)) => info.preprocess,
        None => blueprint.variant.preprocess,
    };
    let mut seen = FieldPicture::of(&blueprint.graph(1)?, &args.layer)?;
    if args.effective {
        let model = match opened {
            Some((model, _)) => model,
            None => {
                let mut init = Init::seeded(&device, 0);
                blueprint.variant.build_with(&blueprint.build, &mut init)
            }
        };
        let pictures = match &image {
            Some(image) => {
                let mut input = vec![0.0; preprocess.output_len()];
                preprocess.apply(image.clone(), None, &mut input)?;
                let [c, h, w] = preprocess.output_shape();
                vec![Tensor::from_data(
                    TensorData::new(input, [1, c, h, w]),
                    &device,
                )]
            }
            None => Vec::new(),
        };
        let strength = effective_field(model, pictures, blueprint.input, &args.layer, &device)?;
        seen.strength = Some(strength);
    }
    let shown = match image {
        Some(image) => Some(preprocess.pixels(image, None)?),
        None => None,
    };
    let about = json!({
        "layer": args.layer, "receptive_field": seen.size(), "jump": seen.jump,
        "rows": seen.window[0], "columns": seen.window[1],
        "effective_side_95": seen.effective_side(0.95),
    });
    let scene = field_scene(&seen, blueprint.variant.name, &args.layer, shown);
    write(&scene, &args.picture, common, about)
}
