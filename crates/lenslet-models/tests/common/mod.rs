//! What the tests of this crate share.
#![allow(dead_code)] // Every test file takes a part of it.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Gradients, Tensor, TensorData};
use lenslet_nn::{ModulePath, StateDict, is_buffer, load_state_dict, state_dict};
use lenslet_reference::{input, l2, tensor};

/// The input of a fixture.
pub fn generated_input(name: &str, shape: &[usize], device: &Device) -> Tensor<4> {
    let values = input(name, shape.iter().product());
    Tensor::from_data(TensorData::new(values, shape.to_vec()), device)
}

/// Fills a model as the fixtures' weights were made: by its tensors' names and shapes.
pub fn fill<M: Module>(model: M, gain: f64) -> M {
    let generated: StateDict = state_dict(&model)
        .into_iter()
        .map(|(name, data)| {
            let shape = data.shape().to_vec();
            let computed = name.ends_with("relative_position_index");
            let values = if computed || name.ends_with("num_batches_tracked") {
                data
            } else {
                TensorData::new(tensor(&name, &shape, gain), shape)
            };
            (name, values)
        })
        .collect();
    load_state_dict(model, generated).expect("a model takes its own tensors")
}

pub fn floats<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.into_data().try_to_vec().expect("floats")
}

/// The norm of every parameter's gradient, by name; `None` where there is no gradient.
pub fn gradient_norms<M: Module>(model: &M, gradients: &Gradients) -> Vec<(String, Option<f64>)> {
    struct Norms<'a> {
        path: ModulePath,
        gradients: &'a Gradients,
        norms: Vec<(String, Option<f64>)>,
    }
    impl ModuleVisitor for Norms<'_> {
        fn enter_module(&mut self, name: &str, container: &str) {
            self.path.enter(name, container);
        }
        fn exit_module(&mut self, _: &str, container: &str) {
            self.path.exit(container);
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let name = self.path.name();
            if !is_buffer(&name) {
                let gradient = param.val().grad(self.gradients);
                self.norms.push((name, gradient.map(|g| l2(&floats(g)))));
            }
        }
    }
    let mut visitor = Norms {
        path: ModulePath::default(),
        gradients,
        norms: Vec::new(),
    };
    model.visit(&mut visitor);
    visitor.norms
}
