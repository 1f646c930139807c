//! A model of the zoo as a part of another one: its stages' feature maps.

use burn::module::{
    Content, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor,
};
use burn::tensor::{Device, Tensor};
use lenslet_nn::{Init, to_nhwc};

use crate::{BuildOptions, ImageModel, Model, Stage, Variant};

/// A model whose stages are used and whose last layer is not. Its tensors have the names that they
/// have in the model itself.
#[derive(Debug, Clone)]
pub struct Backbone(Box<Model>);

impl Backbone {
    /// The model of `variant` with the smallest classifier there is.
    pub fn new(variant: &Variant, options: &BuildOptions, init: &mut Init) -> Self {
        let options = BuildOptions {
            num_classes: 1,
            aux_logits: false,
            anchors: Vec::new(),
            ..options.clone()
        };
        Self(Box::new(variant.build_with(&options, init)))
    }

    /// The stages whose maps [`levels`](Self::levels) gives: of those with the same stride the last.
    pub fn level_info(&self) -> Vec<Stage> {
        let stages = self.0.stage_info();
        let last = |i: usize| {
            stages
                .get(i + 1)
                .is_none_or(|n| n.stride != stages[i].stride)
        };
        (0..stages.len())
            .filter(|&i| last(i))
            .map(|i| stages[i].clone())
            .collect()
    }

    /// Images `[N, C, H, W]` to one map `[N, H', W', C']` a stride, from the finest to the coarsest.
    pub fn levels(&self, x: Tensor<4>) -> Vec<Tensor<4>> {
        let stages = self.0.stage_info();
        let maps = self.0.stages(x);
        let mut levels = Vec::new();
        for (i, map) in maps.into_iter().enumerate() {
            if stages
                .get(i + 1)
                .is_none_or(|n| n.stride != stages[i].stride)
            {
                levels.push(to_nhwc(map));
            }
        }
        levels
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.0
    }

    /// What the stages are called inside a module in which this one is called `name`.
    pub(crate) fn stage_info(&self, name: &str) -> Vec<Stage> {
        let stages = self.0.stage_info().into_iter();
        let inside = |stage: Stage| Stage {
            name: format!("{name}.{}", stage.name),
            ..stage
        };
        stages.map(inside).collect()
    }
}

impl Module for Backbone {
    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        self.0.visit(visitor);
    }

    fn map<M: ModuleMapper>(self, mapper: &mut M) -> Self {
        Self(Box::new(self.0.map(mapper)))
    }

    fn to_device(self, device: &Device) -> Self {
        Self(Box::new(self.0.to_device(device)))
    }

    fn fork(self, device: &Device) -> Self {
        Self(Box::new(self.0.fork(device)))
    }

    fn collect_devices(&self, devices: Vec<Device>) -> Vec<Device> {
        self.0.collect_devices(devices)
    }

    fn valid(&self) -> Self {
        Self(Box::new(self.0.valid()))
    }

    fn train(self) -> Self {
        Self(Box::new(self.0.train()))
    }

    fn materialize(self) -> Self {
        Self(Box::new(self.0.materialize()))
    }
}

impl ModuleDisplayDefault for Backbone {
    fn content(&self, content: Content) -> Option<Content> {
        content.add("model", self.0.as_ref()).optional()
    }
}

impl ModuleDisplay for Backbone {}
