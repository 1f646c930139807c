//! Residual branches that are one sequence of layers.

use burn::module::{
    Content, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor,
};
use burn::tensor::{Device, Tensor};

use crate::{Sequential, StochasticDepth, forward_branch};

/// A branch of layers whose input is added to its output where the shapes allow it: the inverted
/// residuals of the MobileNets, MNASNet and EfficientNet.
///
/// The branch's name (`conv`, `block`, `layers`) differs between PyTorch's definitions and is
/// data here.
#[derive(Debug, Clone)]
pub struct Residual {
    name: &'static str,
    branch: Sequential,
    skip: bool,
    stochastic_depth: StochasticDepth,
}

impl Residual {
    /// A branch called `name`, with the input added to its output if `skip`.
    pub fn new(name: &'static str, branch: Sequential, skip: bool) -> Self {
        Self {
            name,
            branch,
            skip,
            stochastic_depth: StochasticDepth::new(0.0),
        }
    }

    /// Leaves the branch of whole images out with probability `p` during training.
    pub fn with_stochastic_depth(mut self, p: f64) -> Self {
        self.stochastic_depth = StochasticDepth::new(p);
        self
    }

    /// `[N, H, W, C]` to the branch's output.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        if !self.skip {
            return forward_branch(self.name, &self.branch, x, None);
        }
        if self.stochastic_depth.is_identity(&x) {
            return forward_branch(self.name, &self.branch, x.clone(), Some(x));
        }
        let y = forward_branch(self.name, &self.branch, x.clone(), None);
        self.stochastic_depth.add(y, x)
    }

    fn each(
        self,
        branch: impl FnOnce(Sequential) -> Sequential,
        depth: impl FnOnce(StochasticDepth) -> StochasticDepth,
    ) -> Self {
        Self {
            branch: branch(self.branch),
            stochastic_depth: depth(self.stochastic_depth),
            ..self
        }
    }
}

/// The kind of container that traversals are told.
const CONTAINER: &str = "Struct:Residual";
const DEPTH: &str = "stochastic_depth";

impl Module for Residual {
    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        visitor.enter_module(self.name, CONTAINER);
        self.branch.visit(visitor);
        visitor.exit_module(self.name, CONTAINER);
        visitor.enter_module(DEPTH, CONTAINER);
        self.stochastic_depth.visit(visitor);
        visitor.exit_module(DEPTH, CONTAINER);
    }

    fn map<M: ModuleMapper>(self, mapper: &mut M) -> Self {
        mapper.enter_module(self.name, CONTAINER);
        let branch = self.branch.map(mapper);
        mapper.exit_module(self.name, CONTAINER);
        mapper.enter_module(DEPTH, CONTAINER);
        let stochastic_depth = self.stochastic_depth.map(mapper);
        mapper.exit_module(DEPTH, CONTAINER);
        Self {
            branch,
            stochastic_depth,
            ..self
        }
    }

    fn to_device(self, device: &Device) -> Self {
        self.each(|m| m.to_device(device), |m| m.to_device(device))
    }

    fn fork(self, device: &Device) -> Self {
        self.each(|m| m.fork(device), |m| m.fork(device))
    }

    fn collect_devices(&self, devices: Vec<Device>) -> Vec<Device> {
        self.branch.collect_devices(devices)
    }

    fn valid(&self) -> Self {
        Self {
            branch: self.branch.valid(),
            stochastic_depth: self.stochastic_depth.valid(),
            ..*self
        }
    }

    fn train(self) -> Self {
        self.each(Module::train, Module::train)
    }

    fn materialize(self) -> Self {
        self.each(Module::materialize, Module::materialize)
    }
}

impl ModuleDisplayDefault for Residual {
    fn content(&self, content: Content) -> Option<Content> {
        content.add(self.name, &self.branch).optional()
    }
}

impl ModuleDisplay for Residual {}
