//! A model of every family: its captured graph, run plainly, gives the model's own output.

mod common;

use burn::tensor::{Device, Tensor, TensorData};
use common::{captured, fill};
use lenslet_graph::reference;
use lenslet_models::{BuildOptions, ImageModel, Output, variant, variants};
use lenslet_nn::Init;
use lenslet_reference::{inference, input, names, relative_error};

/// What 32-bit arithmetic may lose where no fixture says how much that is: ten times the worst
/// that PyTorch loses in any fixture (2e-6, VGG-16).
const TOLERANCE: f64 = 2e-5;
/// Weights of a model without a fixture are scaled so that the input reaches the output.
const GAIN: f64 = 5.0;

fn check(name: &str) {
    let entry = variant(name).expect(name);
    // The scale of the weights, and ten times what PyTorch's 32-bit numbers lose with them.
    let (gain, tolerance) = if names("models").iter().any(|known| known == name) {
        let fixture = inference(name);
        (fixture.gain, fixture.tolerance())
    } else {
        (GAIN, TOLERANCE)
    };
    let [channels, side, _] = entry.input;
    let side = entry.min_size.max(64).min(side);
    let device = Device::flex();
    let options = BuildOptions::new(10).with_image_size(side);
    let model = fill(entry.build_with(&options, &mut Init::empty(&device)), gain);

    let shape = [1, channels, side, side];
    let values = input("input", shape.iter().product());
    let graph = captured(&model, shape);
    let found = reference::run(&graph, &[&values]).unwrap().remove(0);

    let x = Tensor::from_data(TensorData::new(values, shape), &device);
    let expected = match model.output(x) {
        Output::Logits(y) => y.into_data(),
        Output::Map(y) | Output::Grid(y) => y.into_data(),
        Output::Anchors(_) => unreachable!("no variant of the registry has anchors"),
    };
    let expected: Vec<f64> = expected.iter::<f32>().map(f64::from).collect();
    assert_eq!(found.len(), expected.len(), "{name}");
    let error = relative_error(&found, &expected);
    println!("{name}: {} nodes, {error:.1e}", graph.nodes().len());
    assert!(error <= tolerance, "{name}: {error:.1e} > {tolerance:.1e}");
}

macro_rules! families {
    ($($name:ident)+) => {
        $(#[test]
        fn $name() {
            check(stringify!($name));
        })+
        const CHECKED: &[&str] = &[$(stringify!($name)),+];
    };
}

families! {
    lenet5 alexnet guide_alexnet vgg11_bn googlenet inception_v3 resnet18 resnext50_32x4d
    guide_unet squeezenet1_1 guide_simple_yolo densenet121 guide_densenet121 mobilenet_v1
    mobilenet_v2 mobilenet_v3_small shufflenet_v2_x1_0 mnasnet1_0 efficientnet_b0
    efficientnet_lite0 regnet_y_400mf vit_b_16 guide_vit_base swin_t convnext_tiny
    guide_convnext_tiny
}

#[test]
fn every_family_is_checked() {
    let family = |name: &&str| variant(name).expect(name).family;
    let checked: Vec<_> = CHECKED.iter().map(family).collect();
    for entry in variants() {
        assert!(
            checked.contains(&entry.family),
            "no test of {}",
            entry.family
        );
    }
}
