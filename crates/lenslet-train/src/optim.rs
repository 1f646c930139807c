//! Optimisers with PyTorch's update rules, parameter groups and global gradient clipping.
//!
//! Own code rather than Burn's: clipping by the norm of all gradients together, moments by
//! parameter name (so that a checkpoint is readable) and one pass over the parameters.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Tensor, TensorData};
use lenslet_kernels::AdamW;
use lenslet_nn::timing::{Label, Way, timed};
use lenslet_nn::{ModulePath, change_in_place};
use serde::{Deserialize, Serialize};

use crate::NamedGradients;

/// The update rule.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "kind")]
pub enum Rule {
    /// Adam with decoupled weight decay (Loshchilov and Hutter, 2019), as `torch.optim.AdamW`.
    AdamW {
        /// Decay rates of the two moments.
        betas: [f64; 2],
        /// Added to the denominator.
        eps: f64,
    },
    /// Stochastic gradient descent, as `torch.optim.SGD` without dampening or Nesterov.
    Sgd {
        /// Share of the last step that is kept.
        momentum: f64,
    },
}

impl Rule {
    /// AdamW with PyTorch's defaults.
    pub const ADAMW: Rule = Rule::AdamW {
        betas: [0.9, 0.999],
        eps: 1e-8,
    };
}

/// Names of the moments, as in PyTorch's optimiser state.
const MOMENTS: [&str; 3] = ["exp_avg", "exp_avg_sq", "momentum_buffer"];

/// An optimiser and its state.
#[derive(Debug, Clone)]
pub struct Optimizer {
    rule: Rule,
    weight_decay: f64,
    decay_vectors: bool,
    step: u64,
    /// Moments by `MOMENT.parameter`, flat.
    moments: BTreeMap<String, Tensor<1>>,
}

impl Optimizer {
    /// An optimiser that has taken no step yet.
    pub fn new(rule: Rule, weight_decay: f64) -> Self {
        Self {
            rule,
            weight_decay,
            decay_vectors: true,
            step: 0,
            moments: BTreeMap::new(),
        }
    }

    /// Whether weight decay also acts on norms and biases, as PyTorch's does.
    pub fn with_decay_of_norms_and_biases(mut self, decay: bool) -> Self {
        self.decay_vectors = decay;
        self
    }

    /// Steps taken so far.
    pub fn steps(&self) -> u64 {
        self.step
    }

    /// The moments by name, for a checkpoint.
    pub fn state(&self) -> Vec<(String, TensorData)> {
        self.moments
            .iter()
            .map(|(name, values)| (name.clone(), values.to_data()))
            .collect()
    }

    /// Goes on from a checkpoint's `step` and moments.
    pub fn restore(
        &mut self,
        step: u64,
        state: Vec<(String, TensorData)>,
        device: &burn::tensor::Device,
    ) {
        let device = device.clone().without_autodiff();
        self.step = step;
        self.moments = state
            .into_iter()
            .map(|(name, data)| (name, Tensor::from_data(data, &device)))
            .collect();
    }

    /// One step: clips the gradients of all parameters together to `max_norm`, then moves every
    /// parameter that has a gradient at the rate `lr` gives for its name.
    ///
    /// Returns the model and the norm of the gradients before clipping. With a norm that is not
    /// finite nothing moves.
    pub fn step<M: Module>(
        &mut self,
        model: M,
        gradients: NamedGradients,
        max_norm: Option<f64>,
        lr: &dyn Fn(&str) -> f64,
    ) -> (M, f64) {
        let norm = timed(
            || label("gradient norm"),
            Way::Backward,
            || gradients.norm(),
        );
        if !norm.is_finite() {
            return (model, norm);
        }
        self.step += 1;
        // torch.nn.utils.clip_grad_norm_ divides by norm + 1e-6 and never scales up.
        let scale = max_norm.map_or(1.0, |max| (max / (norm + 1e-6)).min(1.0));
        let update = || {
            model.map(&mut Update {
                optimizer: self,
                gradients,
                scale,
                lr,
                path: ModulePath::default(),
            })
        };
        (timed(|| label("optimiser"), Way::Forward, update), norm)
    }

    /// The parameter after a step; all flat.
    fn update(
        &mut self,
        name: &str,
        value: Tensor<1>,
        gradient: Tensor<1>,
        change: Change,
    ) -> Tensor<1> {
        let key = |moment: &str| format!("{moment}.{name}");
        let step = self.step;
        let Change {
            scale,
            lr,
            weight_decay,
        } = change;
        match self.rule {
            Rule::AdamW { betas, eps } => {
                let rule = AdamW {
                    lr,
                    betas,
                    eps,
                    weight_decay,
                };
                let keys = [key(MOMENTS[0]), key(MOMENTS[1])];
                let state = keys.each_ref().map(|key| self.moment(key, &value));
                let [mean, square] = state;
                let changed =
                    change_in_place([value, mean, square], gradient, |[p, m, v], gradient| {
                        let done = rule.step(step, scale as f32, p, gradient, m, v);
                        done.expect("moments and gradient are as long as the parameter");
                    });
                let [value, mean, square] = changed.unwrap_or_else(|(tensors, gradient)| {
                    adamw(&rule, step, tensors, gradient * scale)
                });
                self.moments.extend(keys.into_iter().zip([mean, square]));
                value
            }
            Rule::Sgd { momentum } => {
                let gradient = gradient * scale + value.clone() * weight_decay;
                let key = key(MOMENTS[2]);
                let direction = match self.moments.remove(&key) {
                    Some(buffer) => buffer * momentum + gradient,
                    None => gradient,
                };
                if momentum > 0.0 {
                    self.moments.insert(key, direction.clone());
                }
                value - direction * lr
            }
        }
    }

    /// Takes a moment out of the state; zeros before the first step.
    fn moment(&mut self, key: &str, like: &Tensor<1>) -> Tensor<1> {
        // Not `zeros_like`: Flex makes zeros of single bytes and copies them to where they are aligned, so that they are held twice for a
        // moment, 400 MB for VGG-16's first linear layer.
        (self.moments.remove(key)).unwrap_or_else(|| {
            let zeros = vec![0.0f32; like.dims()[0]];
            Tensor::from_data(TensorData::new(zeros, like.dims()), &like.device())
        })
    }
}

/// A step of AdamW composed of the backend's operations: parameter and moments.
fn adamw(
    rule: &AdamW,
    step: u64,
    [value, mean, square]: [Tensor<1>; 3],
    gradient: Tensor<1>,
) -> [Tensor<1>; 3] {
    let [beta1, beta2] = rule.betas;
    let [bias1, bias2] = rule.betas.map(|beta| 1.0 - beta.powi(step as i32));
    let mean = mean * beta1 + gradient.clone() * (1.0 - beta1);
    let square = square * beta2 + gradient.clone() * gradient * (1.0 - beta2);
    let denominator = square.clone().sqrt() / bias2.sqrt() + rule.eps;
    let kept = value * (1.0 - rule.lr * rule.weight_decay);
    let value = kept - mean.clone() / denominator * (rule.lr / bias1);
    [value, mean, square]
}

fn label(operation: &'static str) -> Label {
    Label {
        operation,
        detail: "all parameters".to_string(),
        macs: 0,
    }
}

/// How one parameter is changed.
struct Change {
    /// Factor on its gradient.
    scale: f64,
    lr: f64,
    weight_decay: f64,
}

struct Update<'a> {
    optimizer: &'a mut Optimizer,
    gradients: NamedGradients,
    scale: f64,
    lr: &'a dyn Fn(&str) -> f64,
    path: ModulePath,
}

impl ModuleMapper for Update<'_> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _: &str, container: &str) {
        self.path.exit(container);
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let name = self.path.name();
        let Some(gradient) = self.gradients.take(&name) else {
            return param;
        };
        // Norms and biases are the parameters of one dimension.
        let decays = D > 1 || self.optimizer.decay_vectors;
        let change = Change {
            scale: self.scale,
            lr: (self.lr)(&name),
            weight_decay: if decays {
                self.optimizer.weight_decay
            } else {
                0.0
            },
        };
        param.map(|value| {
            let shape = value.dims();
            let gradient = gradient.reshape([-1]);
            let flat = value.without_autodiff().reshape([-1]);
            let moved = self.optimizer.update(&name, flat, gradient, change);
            Tensor::from_inner(moved.reshape(shape)).require_grad()
        })
    }
}
