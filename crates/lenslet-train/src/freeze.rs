//! Which parts of a model train.

use std::collections::{BTreeMap, HashSet};

use burn::module::{Flag, Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::Tensor;
use lenslet_models::{ImageModel, Model};
use lenslet_nn::{ModulePath, is_buffer};
use serde::{Deserialize, Serialize};

use crate::TrainError;

/// Which parts of a model stay as they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Freeze {
    /// None: everything trains.
    #[default]
    None,
    /// Everything but the classifier.
    Backbone,
    /// All but the last stages of the backbone, this many, and the classifier.
    AllBut(usize),
}

/// One part of a model in the order of its forward pass: a stage of the backbone, or the
/// classifier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PartSize {
    /// The module that the part ends with; "classifier" for the last.
    pub name: String,
    /// Values of its parameters.
    pub params: usize,
    /// Those that train.
    pub trainable: usize,
}

/// A model divided into stages and the classifier.
#[derive(Debug, Clone)]
pub struct Parts {
    names: Vec<String>,
    /// The part of every tensor and every training flag, by name.
    of: BTreeMap<String, usize>,
    sizes: Vec<usize>,
}

impl Parts {
    /// Divides `model`, whose last layer is called `classifier`. What lies between two stages
    /// belongs to the later one, what lies behind the last stage to that one.
    pub fn of(model: &Model, classifier: &str) -> Self {
        let mut listing = Listing::default();
        model.visit(&mut listing);
        let stages = model.stage_info();
        let below = |name: &str, module: &str| {
            name.strip_prefix(module)
                .is_some_and(|rest| rest.starts_with('.'))
        };
        let ends: Vec<usize> = stages
            .iter()
            .map(|stage| {
                let last = listing
                    .entries
                    .iter()
                    .rposition(|(n, _)| below(n, &stage.name));
                last.unwrap_or(0)
            })
            .collect();
        let mut sizes = vec![0; stages.len() + 1];
        let mut of = BTreeMap::new();
        for (position, (name, values)) in listing.entries.into_iter().enumerate() {
            let part = if below(&name, classifier) {
                stages.len()
            } else {
                let stage = ends.iter().position(|&end| position <= end);
                stage.unwrap_or(stages.len().saturating_sub(1))
            };
            sizes[part] += values;
            of.insert(name, part);
        }
        let mut names: Vec<String> = stages.into_iter().map(|stage| stage.name).collect();
        names.push("classifier".into());
        Self { names, of, sizes }
    }

    /// Stages of the backbone.
    pub fn stages(&self) -> usize {
        self.names.len() - 1
    }

    /// The part that a tensor belongs to: a stage, or [`Parts::stages`] for the classifier.
    pub fn part(&self, tensor: &str) -> usize {
        self.of.get(tensor).copied().unwrap_or(0)
    }

    /// The first part that trains.
    fn first(&self, freeze: Freeze) -> usize {
        match freeze {
            Freeze::None => 0,
            Freeze::Backbone => self.stages(),
            Freeze::AllBut(stages) => self.stages().saturating_sub(stages),
        }
    }

    /// Whether a tensor trains.
    pub fn trains(&self, tensor: &str, freeze: Freeze) -> bool {
        self.part(tensor) >= self.first(freeze)
    }

    /// How much of each part trains.
    pub fn sizes(&self, freeze: Freeze) -> Vec<PartSize> {
        let first = self.first(freeze);
        let parts = self.names.iter().zip(&self.sizes).enumerate();
        parts
            .map(|(part, (name, &params))| PartSize {
                name: name.clone(),
                params,
                trainable: if part >= first { params } else { 0 },
            })
            .collect()
    }

    /// Whether a model with these stages can be frozen like that.
    ///
    /// # Errors
    /// [`TrainError::Setting`] when more stages are to train than there are.
    pub fn check(&self, freeze: Freeze) -> Result<(), TrainError> {
        match freeze {
            Freeze::AllBut(stages) if stages > self.stages() => Err(TrainError::Setting {
                setting: "--unfreeze",
                found: format!("{stages}, and the model has {} stages", self.stages()),
                expected: "it must be at most the number of stages; --freeze none trains everything",
            }),
            _ => Ok(()),
        }
    }

    /// Freezes `model`: parameters get no gradients, batch norms keep their statistics, dropout and
    /// stochastic depth are off. With `norm_stats`, all batch norms keep their statistics.
    ///
    /// # Errors
    /// [`TrainError::Setting`] when more stages are to train than there are.
    pub fn freeze(
        &self,
        model: Model,
        freeze: Freeze,
        norm_stats: bool,
    ) -> Result<Model, TrainError> {
        self.check(freeze)?;
        let first = self.first(freeze);
        // A batch norm is known by its running statistics.
        let keeps_stats = |name: &str| {
            let norm = name.strip_suffix("training");
            norm.is_some_and(|norm| self.of.contains_key(&format!("{norm}running_mean")))
        };
        let frozen = (self.of.iter())
            .filter(|(name, part)| **part < first || norm_stats && keeps_stats(name));
        Ok(model.map(&mut Freezer {
            path: ModulePath::default(),
            frozen: frozen.map(|(name, _)| name.as_str()).collect(),
        }))
    }
}

/// Tensors and training flags with the number of trained values, in the order of the fields.
#[derive(Default)]
struct Listing {
    path: ModulePath,
    entries: Vec<(String, usize)>,
}

impl ModuleVisitor for Listing {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }
    fn exit_module(&mut self, _: &str, container: &str) {
        self.path.exit(container);
    }
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let name = self.path.name();
        let values = if is_buffer(&name) {
            0
        } else {
            param.lazy_shape().iter().product()
        };
        self.entries.push((name, values));
    }
    fn visit_flag(&mut self, _: &Param<Flag>) {
        self.entries.push((self.path.name(), 0));
    }
}

struct Freezer<'a> {
    path: ModulePath,
    frozen: HashSet<&'a str>,
}

impl ModuleMapper for Freezer<'_> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }
    fn exit_module(&mut self, _: &str, container: &str) {
        self.path.exit(container);
    }
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if self.frozen.contains(self.path.name().as_str()) {
            param.set_require_grad(false)
        } else {
            param
        }
    }
    fn map_flag(&mut self, flag: Param<Flag>) -> Param<Flag> {
        let frozen = self.frozen.contains(self.path.name().as_str());
        if frozen { flag.with_value(false) } else { flag }
    }
}
