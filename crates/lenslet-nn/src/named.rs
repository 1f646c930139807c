//! Children by name.

use burn::module::{
    Content, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor,
};
use burn::tensor::Device;

/// `torch.nn.ModuleDict`: children in order, under names that are data (`denselayer1`,
/// `encoder_layer_0`) instead of fields or positions.
#[derive(Debug, Clone)]
pub struct Named<M>(Vec<(String, M)>);

impl<M> Named<M> {
    /// The children and their names.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &M)> {
        self.0.iter().map(|(name, child)| (name, child))
    }

    fn each(self, change: impl Fn(M) -> M) -> Self {
        self.0.into_iter().map(|(n, m)| (n, change(m))).collect()
    }
}

impl<M, S: Into<String>> FromIterator<(S, M)> for Named<M> {
    fn from_iter<I: IntoIterator<Item = (S, M)>>(children: I) -> Self {
        Self(children.into_iter().map(|(n, m)| (n.into(), m)).collect())
    }
}

/// The kind of container that traversals are told.
const CONTAINER: &str = "Named";

impl<M: Module> Module for Named<M> {
    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        for (name, child) in &self.0 {
            visitor.enter_module(name, CONTAINER);
            child.visit(visitor);
            visitor.exit_module(name, CONTAINER);
        }
    }

    fn map<Mapper: ModuleMapper>(self, mapper: &mut Mapper) -> Self {
        let mapped = self.0.into_iter().map(|(name, child)| {
            mapper.enter_module(&name, CONTAINER);
            let child = child.map(mapper);
            mapper.exit_module(&name, CONTAINER);
            (name, child)
        });
        mapped.collect()
    }

    fn to_device(self, device: &Device) -> Self {
        self.each(|child| child.to_device(device))
    }

    fn fork(self, device: &Device) -> Self {
        self.each(|child| child.fork(device))
    }

    fn collect_devices(&self, devices: Vec<Device>) -> Vec<Device> {
        self.0.iter().fold(devices, |devices, (_, child)| {
            child.collect_devices(devices)
        })
    }

    fn valid(&self) -> Self {
        self.0.iter().map(|(n, m)| (n.clone(), m.valid())).collect()
    }

    fn train(self) -> Self {
        self.each(Module::train)
    }

    fn materialize(self) -> Self {
        self.each(Module::materialize)
    }
}

impl<M: ModuleDisplay> ModuleDisplayDefault for Named<M> {
    fn content(&self, content: Content) -> Option<Content> {
        self.0
            .iter()
            .fold(content, |content, (name, child)| content.add(name, child))
            .optional()
    }
}

impl<M: ModuleDisplay> ModuleDisplay for Named<M> {}
