//! Gradients by the names of their parameters.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Gradients, Tensor};
use lenslet_nn::{ModulePath, sum_of_squares};

/// The gradients of a model's parameters, flat, by name. Those of several batches can be averaged.
#[derive(Debug, Clone, Default)]
pub struct NamedGradients {
    by_name: BTreeMap<String, Tensor<1>>,
}

impl NamedGradients {
    /// Takes the gradients of `model`'s parameters.
    pub fn of<M: Module>(model: &M, mut gradients: Gradients) -> Self {
        let mut taker = Taker {
            path: ModulePath::default(),
            gradients: &mut gradients,
            found: Self::default(),
        };
        model.visit(&mut taker);
        taker.found
    }

    /// Adds `share` of another batch's gradients.
    pub fn add(&mut self, other: Self, share: f64) {
        for (name, gradient) in other.by_name {
            let gradient = gradient * share;
            let sum = match self.by_name.remove(&name) {
                Some(sum) => sum + gradient,
                None => gradient,
            };
            self.by_name.insert(name, sum);
        }
    }

    /// The Euclidean norm of all gradients together, summed in f64.
    pub fn norm(&self) -> f64 {
        let squares = self.by_name.values().map(|gradient| {
            sum_of_squares(gradient).unwrap_or_else(|| {
                let data = gradient.to_data();
                data.iter::<f64>().map(|v| v * v).sum()
            })
        });
        squares.sum::<f64>().sqrt()
    }

    /// Takes one gradient out.
    pub(crate) fn take(&mut self, name: &str) -> Option<Tensor<1>> {
        self.by_name.remove(name)
    }
}

struct Taker<'a> {
    path: ModulePath,
    gradients: &'a mut Gradients,
    found: NamedGradients,
}

impl ModuleVisitor for Taker<'_> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }
    fn exit_module(&mut self, _: &str, container: &str) {
        self.path.exit(container);
    }
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = param.val().grad_remove(self.gradients) {
            let by_name = &mut self.found.by_name;
            by_name.insert(self.path.name(), gradient.reshape([-1]));
        }
    }
}
