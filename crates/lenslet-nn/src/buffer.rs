//! State that a forward pass updates and no optimiser trains.

use std::sync::{Mutex, MutexGuard, PoisonError};

use burn::module::{
    Content, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor, Param,
    ParamId,
};
use burn::tensor::{Device, Tensor};

/// A tensor that belongs to a module, is saved with it and never receives a gradient
/// (`torch.nn.Module.register_buffer`).
///
/// A clone is independent of its original. (Burn's `RunningState` is shared by clones, so that
/// moving a clone to another device also moves the original.) Replicas that train in parallel
/// therefore keep statistics of their own.
#[derive(Debug)]
pub struct Buffer<const D: usize> {
    id: ParamId,
    value: Mutex<Tensor<D>>,
}

impl<const D: usize> Buffer<D> {
    /// A buffer that holds `value`.
    pub fn new(value: Tensor<D>) -> Self {
        Self::with_id(ParamId::new(), value)
    }

    fn with_id(id: ParamId, value: Tensor<D>) -> Self {
        Self {
            id,
            value: Mutex::new(value),
        }
    }

    /// The present value.
    pub fn get(&self) -> Tensor<D> {
        self.lock().clone()
    }

    /// Replaces the value; the computation that led to it is forgotten.
    pub fn set(&self, value: Tensor<D>) {
        *self.lock() = value.detach();
    }

    /// A writer that panicked cannot have left a tensor half written.
    fn lock(&self) -> MutexGuard<'_, Tensor<D>> {
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn param(&self) -> Param<Tensor<D>> {
        Param::initialized(self.id, self.get())
    }

    fn with(&self, change: impl FnOnce(Tensor<D>) -> Tensor<D>) -> Self {
        Self::with_id(self.id, change(self.get()))
    }
}

impl<const D: usize> Clone for Buffer<D> {
    fn clone(&self) -> Self {
        self.with(|value| value)
    }
}

impl<const D: usize> Module for Buffer<D> {
    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        visitor.visit_float(&self.param());
    }

    fn map<M: ModuleMapper>(self, mapper: &mut M) -> Self {
        let (id, value, _) = mapper.map_float(self.param()).consume();
        Self::with_id(id, value.set_require_grad(false))
    }

    fn to_device(self, device: &Device) -> Self {
        self.with(|value| value.to_device(device))
    }

    fn fork(self, device: &Device) -> Self {
        self.to_device(device)
    }

    fn collect_devices(&self, mut devices: Vec<Device>) -> Vec<Device> {
        let device = self.lock().device();
        if !devices.contains(&device) {
            devices.push(device);
        }
        devices
    }

    fn valid(&self) -> Self {
        self.with(Tensor::without_autodiff)
    }

    fn train(self) -> Self {
        self.with(|value| Tensor::from_inner(value.without_autodiff()))
    }

    fn materialize(self) -> Self {
        self
    }
}

impl<const D: usize> ModuleDisplayDefault for Buffer<D> {
    fn content(&self, content: Content) -> Option<Content> {
        content
            .add_formatted(&format!("Buffer {:?}", self.lock().dims()))
            .optional()
    }
}

impl<const D: usize> ModuleDisplay for Buffer<D> {}
