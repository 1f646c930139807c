//! What every model of the registry can do, and the type that holds any of them.

use burn::module::Module;
use burn::tensor::Tensor;

use crate::LeNet5;

/// An image classifier and the backbone in it. Tensors are `[N, C, H, W]` at this edge.
pub trait ImageModel: Module {
    /// Images to logits `[N, num_classes]`.
    fn forward(&self, x: Tensor<4>) -> Tensor<2>;

    /// Feature maps at the end of every stage, from the finest to the coarsest.
    fn stages(&self, x: Tensor<4>) -> Vec<Tensor<4>>;

    /// What goes into the last linear layer: `[N, features]`.
    fn embed(&self, x: Tensor<4>) -> Tensor<2>;
}

/// Any model of the registry.
#[derive(Module, Debug)]
pub enum Model {
    /// LeNet-5
    LeNet5(LeNet5),
}

impl ImageModel for Model {
    fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        match self {
            Model::LeNet5(m) => m.forward(x),
        }
    }

    fn stages(&self, x: Tensor<4>) -> Vec<Tensor<4>> {
        match self {
            Model::LeNet5(m) => m.stages(x),
        }
    }

    fn embed(&self, x: Tensor<4>) -> Tensor<2> {
        match self {
            Model::LeNet5(m) => m.embed(x),
        }
    }
}
