//! What a captured graph knows about its model, and what capturing leaves alone.

mod common;

use std::collections::HashSet;

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig, PaddingConfig2d};
use burn::tensor::{Device, Tensor, TensorData, activation};
use common::{captured, fill, outputs};
use lenslet_graph::{Data, Graph, GraphError, Macs, Op, Outputs, Unary, reference};
use lenslet_models::vit::VitConfig;
use lenslet_models::{BuildOptions, ImageModel, Model, variant, variants};
use lenslet_nn::{Init, StateDict, state_dict};

const SHAPE: [usize; 4] = [1, 3, 64, 64];

fn model(name: &str, device: &Device) -> Model {
    let entry = variant(name).unwrap();
    let options = BuildOptions::new(10);
    fill(entry.build_with(&options, &mut Init::empty(device)), 3.0)
}

/// Names of nodes that are neither views nor computed of weights alone.
fn names(graph: &Graph) -> Vec<&str> {
    let fixed = graph.fixed();
    let computing = graph.nodes().iter().filter(|node| {
        let is_view = matches!(node.op, Op::Reshape | Op::Permute(_));
        !is_view && !fixed[node.output.index()]
    });
    computing.map(|node| node.name.as_str()).collect()
}

#[test]
fn nodes_are_named_as_in_pytorch() {
    let graph = captured(&model("resnet18", &Device::flex()), SHAPE);
    let names = names(&graph);
    let stem = ["conv1", "bn1", "relu", "maxpool.max_pool2d"];
    let block = [
        "layer1.0.conv1",
        "layer1.0.bn1",
        "layer1.0.relu",
        "layer1.0.conv2",
        "layer1.0.bn2",
        "layer1.0.add",
        "layer1.0.relu_2",
    ];
    assert_eq!(names[..4], stem);
    assert_eq!(names[4..11], block);
    assert!(names.contains(&"layer2.0.downsample.0"));
    let end = ["avgpool.adaptive_avg_pool2d", "fc", "fc.add"];
    assert_eq!(names[names.len() - 3..], end);
    let unique: HashSet<_> = graph.nodes().iter().map(|node| &node.name).collect();
    assert_eq!(unique.len(), graph.nodes().len());
    let relu = graph
        .nodes()
        .iter()
        .find(|node| node.name == "layer1.0.relu_2");
    let relu = relu.unwrap();
    assert_eq!(
        (relu.module.as_str(), &relu.op),
        ("layer1.0", &Op::Unary(Unary::Relu))
    );
    assert_eq!(graph.value(relu.output).shape, [1, 64, 16, 16]);
}

#[test]
fn weights_are_those_of_the_model_and_not_copied() {
    let model = model("resnet18", &Device::flex());
    let graph = captured(&model, SHAPE);
    let expected: StateDict = state_dict(&model)
        .into_iter()
        .filter(|(name, _)| !name.ends_with("num_batches_tracked"))
        .collect();
    let found: Vec<_> = graph.weights().collect();
    assert_eq!(found.len(), expected.len());
    for ((name, value), (expected_name, data)) in found.iter().zip(&expected) {
        assert_eq!(name, expected_name);
        assert_eq!(value.shape, data.shape().to_vec(), "{name}");
        let numbers = value.constant().unwrap().data.floats(value.len());
        assert_eq!(&*numbers, data.as_slice::<f32>().unwrap(), "{name}");
    }
    let again = captured(&model, SHAPE);
    for ((name, a), (_, b)) in graph.weights().zip(again.weights()) {
        let [a, b] = [a, b].map(|value| match &value.constant().unwrap().data {
            Data::Floats(floats) => floats.as_ptr(),
            other => panic!("{name}: {other:?}"),
        });
        assert_eq!(a, b, "{name} was copied");
    }
}

#[test]
fn a_model_that_trains_is_captured_as_it_evaluates() {
    let device = Device::flex().autodiff();
    let model = model("mobilenet_v2", &device);
    let graph = captured(&model, SHAPE);
    let values = lenslet_reference::input("input", SHAPE.iter().product());
    let found = reference::run(&graph, &[&values]).unwrap().remove(0);

    let x = Tensor::from_data(TensorData::new(values, SHAPE), &Device::flex());
    let expected = model.valid().forward(x).into_data();
    let expected: Vec<f64> = expected.iter::<f32>().map(f64::from).collect();
    let error = lenslet_reference::relative_error(&found, &expected);
    // MobileNet V2's fixture allows 1e-5 for its 32-bit arithmetic.
    assert!(error <= 1e-5, "{error:.1e}");
    // It still trains.
    let x = Tensor::<4>::ones(SHAPE, &device).require_grad();
    let gradients = model.forward(x.clone()).mean().backward();
    assert!(x.grad(&gradients).is_some());
}

/// A Vision Transformer's last layer computes the class token alone, unless somebody may look at the others.
#[test]
fn what_a_result_does_not_need_is_left_out() {
    let device = Device::flex();
    let options = BuildOptions::new(10).with_image_size(64);
    let config = VitConfig::new(16, 3, 4, 48);
    let models: [Model; 2] = [
        config.init(&options, &mut Init::empty(&device)).into(),
        config
            .init_guide(&options, &mut Init::empty(&device))
            .into(),
    ];
    let shape = [2, 3, 64, 64];
    let x = lenslet_reference::input("input", shape.iter().product());
    for model in models.map(|model| fill(model, 3.0)) {
        let whole = captured(&model, shape);
        let result = Graph::capture_result(&model, shape, outputs).unwrap();
        let [all, needed] =
            [&whole, &result].map(|graph| graph.macs().iter().map(Macs::total).sum::<u64>());
        // A layer: 12 products of a token with C x C numbers, of which keys and values take 2; attention's 2 with C x 17.
        let (tokens, width) = (17u64, 48u64);
        let left_out = 2 * (tokens - 1) * (10 * width * width + 2 * width * tokens);
        assert_eq!(all - needed, left_out);
        let [a, b] = [&whole, &result].map(|graph| reference::run(graph, &[&x]).unwrap().remove(0));
        // The interpreter computes rows one by one, in 64 bits.
        assert_eq!(a, b);
        let eager = model.forward(Tensor::from_data(
            TensorData::new(x.clone(), shape),
            &device,
        ));
        let eager: Vec<f64> = eager.into_data().iter::<f32>().map(f64::from).collect();
        let error = lenslet_reference::relative_error(&a, &eager);
        // The fixtures of Vision Transformers allow this for 32-bit arithmetic.
        assert!(error <= 1e-5, "{error:.1e}");
    }
}

#[test]
fn structure_is_the_same_without_weights() {
    let with = captured(&model("efficientnet_b0", &Device::flex()), SHAPE);
    let entry = variant("efficientnet_b0").unwrap();
    let build =
        |device: &Device| entry.build_with(&BuildOptions::new(10), &mut Init::empty(device));
    let without = Graph::structure(build, SHAPE, outputs).unwrap();
    assert_eq!(with.to_string(), without.to_string());
    for ((a, with), (b, without)) in with.weights().zip(without.weights()) {
        assert_eq!((a, &with.shape), (b, &without.shape));
        let data = &without.constant().unwrap().data;
        assert!(matches!(data, Data::Splat(_)), "{b}: {data:?}");
    }
}

#[test]
fn every_variant_has_a_structure() {
    for entry in variants() {
        let [channels, height, width] = entry.input;
        let build = |device: &Device| {
            let options = BuildOptions::new(entry.num_classes);
            entry.build_with(&options, &mut Init::empty(device))
        };
        let graph = Graph::structure(build, [2, channels, height, width], outputs);
        let graph = graph.unwrap_or_else(|error| panic!("{}: {error}", entry.name));
        let named = |name: &str| graph.nodes().iter().any(|node| node.name == name);
        for layer in [entry.classifier, entry.first_conv] {
            assert!(named(layer), "{} has no node {layer}", entry.name);
        }
        let output = graph.value(graph.outputs()[0]);
        assert_eq!(output.shape[0], 2, "{}", entry.name);
    }
}

/// A model that knows nothing of this workspace.
#[derive(Module, Debug)]
struct Foreign {
    stem: Conv2d,
    blocks: Vec<Block>,
    fc: Linear,
}

#[derive(Module, Debug)]
struct Block {
    conv: Conv2d,
    norm: BatchNorm,
}

impl Foreign {
    fn new(device: &Device) -> Self {
        let conv = |from, to| {
            Conv2dConfig::new([from, to], [3, 3])
                .with_padding(PaddingConfig2d::Same)
                .init(device)
        };
        let block = |_| Block {
            conv: conv(8, 8),
            norm: BatchNormConfig::new(8).init(device),
        };
        Self {
            stem: conv(3, 8),
            blocks: (0..2).map(block).collect(),
            fc: LinearConfig::new(8, 5).init(device),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        let x = activation::relu(self.stem.forward(x));
        let x = self.blocks.iter().fold(x, |x, block| {
            let y = block.norm.forward(block.conv.forward(x.clone()));
            activation::silu(y) + x
        });
        self.fc.forward(x.mean_dim(2).mean_dim(3).flatten(1, 3))
    }
}

#[test]
fn any_burn_module_can_be_captured() {
    let device = Device::flex();
    device.seed(1);
    let model = Foreign::new(&device);
    let shape = [2, 3, 6, 5];
    let graph = Graph::capture(&model, shape, Foreign::forward).unwrap();
    let values = lenslet_reference::input("input", shape.iter().product());
    let found = reference::run(&graph, &[&values]).unwrap().remove(0);
    // Burn's batch norms share their statistics with every copy; the original must still run.
    let x = Tensor::from_data(TensorData::new(values, shape), &device);
    let expected: Vec<f64> = model
        .forward(x)
        .into_data()
        .iter::<f32>()
        .map(f64::from)
        .collect();
    let error = lenslet_reference::relative_error(&found, &expected);
    // Sums of 72 products at most: 72 * 2^-24.
    assert!(error <= 5e-6, "{error:.1e}");

    let expected = [
        "stem",
        "relu",
        "blocks.0.conv",
        "blocks.0.norm",
        "blocks.sigmoid",
        "blocks.mul",
        "blocks.add",
        "blocks.1.conv",
        "blocks.1.norm",
        "mean",
        "mean_2",
        "fc",
        "fc.add",
    ];
    let mut names = names(&graph);
    names.retain(|name| expected.contains(name));
    assert_eq!(names, expected);
    let weights: Vec<_> = graph.weights().map(|(name, _)| name).collect();
    assert!(
        weights.contains(&"blocks.1.norm.running_var"),
        "{weights:?}"
    );
    assert!(weights.contains(&"fc.weight"), "{weights:?}");
}

#[test]
fn an_input_that_does_not_fit_is_refused() {
    let model = model("alexnet", &Device::flex());
    let capture = |shape| {
        Graph::capture(&model, shape, |m: &Model, x: Tensor<4>| -> Outputs {
            m.forward(x).into()
        })
    };
    let refused = capture([1, 4, 64, 64]).unwrap_err();
    assert!(matches!(refused, GraphError::Forward { .. }), "{refused}");
    assert!(refused.to_string().contains("[1, 4, 64, 64]"), "{refused}");
    let refused = capture([1, 3, 8, 8]).unwrap_err().to_string();
    assert!(refused.contains("features.2"), "{refused}");
    assert!(
        refused.contains("length 3 does not fit into 1"),
        "{refused}"
    );
    // The next capture of this thread is not affected.
    assert!(capture(SHAPE).is_ok());
}
