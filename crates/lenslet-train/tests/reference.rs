//! Three training steps against PyTorch's.

use std::collections::HashMap;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Gradients, Tensor, TensorData};
use lenslet_models::{ImageModel, Model, variant};
use lenslet_nn::{Init, ModulePath, StateDict, cross_entropy, load_state_dict, state_dict};
use lenslet_reference::{Training, input, l2, relative_error, tensor, training};
use lenslet_train::{NamedGradients, Optimizer, Rule, Schedule};

/// Relative difference of two norms, below a floor absolute.
fn apart(got: f64, want: f64, floor: f64) -> f64 {
    (got - want).abs() / want.abs().max(floor)
}

struct GradientNorms<'a> {
    path: ModulePath,
    gradients: &'a Gradients,
    norms: HashMap<String, f64>,
}

impl ModuleVisitor for GradientNorms<'_> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }
    fn exit_module(&mut self, _: &str, container: &str) {
        self.path.exit(container);
    }
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = param.val().grad(self.gradients) {
            let values = gradient.into_data().try_to_vec::<f32>().unwrap();
            self.norms.insert(self.path.name(), l2(&values));
        }
    }
}

fn values(model: &Model) -> HashMap<String, Vec<f32>> {
    let float = |(name, data): (String, TensorData)| Some((name, data.try_to_vec::<f32>().ok()?));
    state_dict(model).into_iter().filter_map(float).collect()
}

fn distance(a: &[f32], b: &[f32]) -> f64 {
    let difference: Vec<f32> = a.iter().zip(b).map(|(a, b)| a - b).collect();
    l2(&difference)
}

/// Trains `model` as the fixture did and compares every figure that it holds.
fn check(fixture: &Training, model: Model, tolerance: f64) {
    let device = Device::flex().autodiff();
    let weights: StateDict = state_dict(&model)
        .into_iter()
        .map(|(name, data)| {
            let shape = data.shape().to_vec();
            let values = tensor(&name, &shape, fixture.gain);
            (name, TensorData::new(values, shape))
        })
        .collect();
    let mut model = load_state_dict(model, weights).unwrap();
    let initial = values(&model);

    let shape = fixture.input_shape.clone();
    let images = input(&fixture.input_name, shape.iter().product());
    let x = Tensor::<4>::from_data(TensorData::new(images, shape.clone()), &device);
    let labels: Vec<u32> = (0..shape[0])
        .map(|i| (i * 7 % fixture.num_classes) as u32)
        .collect();

    let is_head = |name: &str| fixture.head_params.iter().any(|head| head == name);
    let judged: Vec<(usize, &String)> = fixture
        .param_names
        .iter()
        .enumerate()
        .filter(|(_, name)| !fixture.zero_gradient_params.contains(name))
        .collect();
    let want = &fixture.f64;
    let mut optimizer = Optimizer::new(Rule::ADAMW, 1e-4);
    for (index, step) in want.steps.iter().enumerate() {
        let logits = model.forward(x.clone());
        if index == 0 {
            let got = logits.to_data().try_to_vec::<f32>().unwrap();
            let error = relative_error(&got, &want.logits_step1_first);
            assert!(error < tolerance, "logits of step 1: {error:.1e}");
        }
        let loss = cross_entropy(logits, &labels, 0.0);
        let gradients = loss.backward();
        let loss: f32 = loss.into_scalar();
        let error = apart(loss.into(), step.loss, 1e-3);
        assert!(error < tolerance, "loss of step {index}: {error:.1e}");

        if index == 0 {
            let mut norms = GradientNorms {
                path: ModulePath::default(),
                gradients: &gradients,
                norms: HashMap::new(),
            };
            model.visit(&mut norms);
            assert_eq!(norms.norms.len(), fixture.param_names.len());
            for (i, name) in &judged {
                let error = apart(norms.norms[*name], want.grad_l2_step1[*i], 1e-6);
                assert!(error < tolerance, "gradient of {name}: {error:.1e}");
            }
        }
        let factor = Schedule::Cosine.factor(index, 3, 0);
        let rates = [1e-4, 1e-3].map(|lr| lr * factor);
        for (got, want) in rates.iter().zip(step.lr) {
            assert!(apart(*got, want, 1e-9) < 1e-6, "rate {got} is not {want}");
        }
        let lr = |name: &str| rates[usize::from(is_head(name))];
        let norm;
        let gradients = NamedGradients::of(&model, gradients);
        (model, norm) = optimizer.step(model, gradients, Some(1.0), &lr);
        let error = apart(norm, step.grad_norm_acc64, 1e-6);
        assert!(
            error < tolerance,
            "gradient norm of step {index}: {error:.1e}"
        );
        let deltas = match index {
            0 => &want.delta_l2_step1,
            2 => &want.delta_l2_step3,
            _ => continue,
        };
        let now = values(&model);
        for (i, name) in &judged {
            let error = apart(distance(&now[*name], &initial[*name]), deltas[*i], 1e-6);
            assert!(error < tolerance, "step {index}, {name} moved: {error:.1e}");
        }
    }
    let now = values(&model);
    for (i, name) in &judged {
        let error = apart(l2(&now[*name]), want.value_l2_step3[*i], 1e-6);
        assert!(error < tolerance, "{name} after step 3: {error:.1e}");
    }
    for (name, want) in fixture.bn_names.iter().zip(&want.bn_l2_step3) {
        let error = apart(l2(&now[name]), *want, 1e-6);
        assert!(error < tolerance, "{name} after step 3: {error:.1e}");
    }
    let eval = model.valid().forward(x.without_autodiff());
    let error = relative_error(
        &eval.into_data().try_to_vec::<f32>().unwrap(),
        &want.eval_logits_after_first,
    );
    assert!(error < tolerance, "logits after training: {error:.1e}");
}

/// Smooth everywhere, so PyTorch's own f32 stays within 1e-5 of f64: ten times that is allowed.
#[test]
fn lenet5_three_steps() {
    let mut init = Init::empty(&Device::flex().autodiff());
    let model = variant("lenet5").unwrap().build(10, &mut init);
    check(&training("guide_lenet5"), model, 1e-4);
}
