//! What a model is built of, without its weights.

use std::path::Path;

use anyhow::{Context, Result};
use burn::tensor::Device;
use lenslet_graph::Graph;
use lenslet_models::{BuildOptions, Model, Variant};
use lenslet_nn::{Init, is_buffer, tensor_shapes};
use lenslet_train::{Freeze, TrainError, find_variant, load_model};

use super::device;
use crate::cli::StructureArgs;

/// A model that can be built.
pub struct Blueprint {
    pub variant: &'static Variant,
    pub build: BuildOptions,
    /// Channels, height and width of the picture.
    pub input: [usize; 3],
    /// What did not train, of a trained one.
    pub freeze: Freeze,
    /// Tensors and shapes, auxiliary classifiers included.
    pub tensors: Vec<(String, Vec<usize>)>,
}

impl Blueprint {
    pub fn of(args: &StructureArgs) -> Result<Self> {
        let (variant, build, input, freeze) = if is_a_name(&args.model) {
            let variant = find_variant(&args.model.display().to_string())?;
            let build = BuildOptions::new(args.classes.unwrap_or(variant.num_classes));
            (variant, build, variant.input, Freeze::None)
        } else {
            if let Some(classes) = args.classes {
                return Err(TrainError::Setting {
                    setting: "--classes",
                    found: classes.to_string(),
                    expected: "a trained model's classes are known; leave it out",
                }
                .into());
            }
            let (_, info) = load_model(&args.model, &device())?;
            let variant = find_variant(&info.architecture)?;
            let mut build = info.options.unwrap_or_else(|| BuildOptions::new(0));
            build.num_classes = info.classes.len();
            let freeze = &info.training["run"]["train"]["freeze"];
            let freeze = serde_json::from_value(freeze.clone()).unwrap_or_default();
            (variant, build, info.preprocess.output_shape(), freeze)
        };
        let input = args.input.unwrap_or(input);
        if input[0] != variant.input[0] {
            return Err(TrainError::Setting {
                setting: "--input",
                found: format!(
                    "{} channels, and {} takes {}",
                    input[0], variant.name, variant.input[0]
                ),
                expected: "it must be channels, height and width that the model takes",
            }
            .into());
        }
        let mut blueprint = Self {
            variant,
            build,
            input,
            freeze,
            tensors: Vec::new(),
        };
        blueprint.tensors = tensor_shapes(&blueprint.model(&device()));
        Ok(blueprint)
    }

    /// The model without values.
    pub fn model(&self, device: &Device) -> Model {
        (self.variant).build_with(&self.build, &mut Init::empty(device))
    }

    /// The graph for so many pictures.
    pub fn graph(&self, batch: usize) -> Result<Graph> {
        let [c, h, w] = self.input;
        let build = |device: &Device| self.model(device);
        Graph::structure(build, [batch, c, h, w], lenslet_train::outputs)
            .with_context(|| format!("{} on {c}x{h}x{w}", self.variant.name))
    }

    /// Numbers in parameters that `wanted` takes.
    pub fn count(&self, wanted: impl Fn(&str) -> bool) -> u64 {
        let sizes = self.tensors.iter().filter(|(name, _)| wanted(name));
        sizes
            .map(|(_, shape)| shape.iter().product::<usize>() as u64)
            .sum()
    }

    /// Its parameters.
    pub fn params(&self) -> u64 {
        self.count(|name| !is_buffer(name))
    }
}

/// Whether a word that names no file is meant as an architecture's name.
pub fn is_a_name(path: &Path) -> bool {
    let text = path.to_string_lossy();
    !path.exists() && !text.contains(['/', '\\']) && path.extension().is_none()
}
