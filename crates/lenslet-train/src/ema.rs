//! A moving average of a model's weights.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor, TensorData};
use lenslet_models::Model;
use lenslet_nn::{ModulePath, change_in_place};

/// The exponential moving average of every tensor of a model, running statistics included.
///
/// It follows fast at first: the decay of step `t` is at most `(1 + t) / (10 + t)`.
#[derive(Debug, Clone)]
pub struct Ema {
    decay: f64,
    values: BTreeMap<String, Tensor<1>>,
}

impl Ema {
    /// An average that begins with the next model it sees.
    pub fn new(decay: f64) -> Self {
        Self {
            decay,
            values: BTreeMap::new(),
        }
    }

    /// Takes in `model` after optimiser step `step`, counted from 1.
    pub fn update(&mut self, model: &Model, step: u64) {
        let t = step as f64;
        let mut follower = Follower {
            path: ModulePath::default(),
            decay: self.decay.min((1.0 + t) / (10.0 + t)),
            values: &mut self.values,
        };
        model.visit(&mut follower);
    }

    /// `model` with the averages in the place of its values, for evaluation.
    pub fn averaged(&self, model: &Model) -> Model {
        model.valid().map(&mut Setter {
            path: ModulePath::default(),
            values: &self.values,
        })
    }

    /// The averages by name, for a checkpoint.
    pub fn state(&self) -> Vec<(String, TensorData)> {
        let values = self.values.iter();
        values.map(|(n, v)| (n.clone(), v.to_data())).collect()
    }

    /// Goes on from a checkpoint's averages.
    pub fn restore(&mut self, state: Vec<(String, TensorData)>, device: &Device) {
        let device = device.clone().without_autodiff();
        let tensor = |data| Tensor::from_data(data, &device);
        self.values = state
            .into_iter()
            .map(|(n, data)| (n, tensor(data)))
            .collect();
    }
}

struct Follower<'a> {
    path: ModulePath,
    decay: f64,
    values: &'a mut BTreeMap<String, Tensor<1>>,
}

impl ModuleVisitor for Follower<'_> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }
    fn exit_module(&mut self, _: &str, container: &str) {
        self.path.exit(container);
    }
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let name = self.path.name();
        let new = param.val().without_autodiff().reshape([-1]);
        let average = match self.values.remove(&name) {
            Some(old) => follow(old, new, self.decay),
            None => new,
        };
        self.values.insert(name, average);
    }
}

/// `old * decay + new * (1 - decay)`, in the memory of `old`.
fn follow(old: Tensor<1>, new: Tensor<1>, decay: f64) -> Tensor<1> {
    let changed = change_in_place([old], new, |[old], new| {
        let (kept, taken) = (decay as f32, (1.0 - decay) as f32);
        for (old, new) in old.iter_mut().zip(new) {
            *old = *old * kept + new * taken;
        }
    });
    match changed {
        Ok([average]) => average,
        Err(([old], new)) => old * decay + new * (1.0 - decay),
    }
}

struct Setter<'a> {
    path: ModulePath,
    values: &'a BTreeMap<String, Tensor<1>>,
}

impl ModuleMapper for Setter<'_> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }
    fn exit_module(&mut self, _: &str, container: &str) {
        self.path.exit(container);
    }
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        match self.values.get(&self.path.name()) {
            Some(values) => param.map(|old| values.clone().reshape(old.dims())),
            None => param,
        }
    }
}
