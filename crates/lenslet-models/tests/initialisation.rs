//! First values as PyTorch's definitions draw them: mean and deviation by kind of layer.

use burn::tensor::Device;
use lenslet_models::vit::VitConfig;
use lenslet_models::{BuildOptions, Model, variant};
use lenslet_nn::{Init, StateDict, state_dict};

fn made(name: &str) -> StateDict {
    let mut init = Init::seeded(&Device::flex(), 11);
    let model: Model = match name {
        "vit_mini" => VitConfig::new(8, 2, 4, 64)
            .init(&BuildOptions::new(10), &mut init)
            .into(),
        "guide_vit_mini" => VitConfig::new(8, 2, 4, 64)
            .init_guide(&BuildOptions::new(10), &mut init)
            .into(),
        _ => variant(name).unwrap().build(1000, &mut init),
    };
    state_dict(&model)
}

/// The tensor's mean is `mean` and its deviation `std`, as far as so many values can tell.
fn check(tensors: &StateDict, name: &str, mean: f64, std: f64) {
    let (_, data) = (tensors.iter().find(|(n, _)| n == name))
        .unwrap_or_else(|| panic!("no tensor called {name}"));
    let values: Vec<f64> = data.iter::<f32>().map(f64::from).collect();
    let n = values.len() as f64;
    let found = values.iter().sum::<f64>() / n;
    let spread = (values.iter().map(|v| (v - found).powi(2)).sum::<f64>() / n).sqrt();
    assert!(
        (found - mean).abs() <= 5.0 * std / n.sqrt() + 1e-9,
        "{name}: mean {found} instead of {mean}"
    );
    assert!(
        (spread - std).abs() <= 5.0 * std / n.sqrt() + 1e-9,
        "{name}: deviation {spread} instead of {std}"
    );
}

/// Deviation of `U(-bound, bound)`.
fn uniform(bound: f64) -> f64 {
    bound / 3f64.sqrt()
}

/// He et al.: `sqrt(2 / fan)`.
fn he(fan: usize) -> f64 {
    (2.0 / fan as f64).sqrt()
}

/// PyTorch's own: uniform in `±1 / sqrt(fan_in)`.
fn default(fan_in: usize) -> f64 {
    uniform(1.0 / (fan_in as f64).sqrt())
}

#[test]
fn resnet_by_its_outputs() {
    let t = made("resnet18");
    check(&t, "conv1.weight", 0.0, he(64 * 49));
    check(&t, "layer3.0.conv1.weight", 0.0, he(256 * 9));
    check(&t, "layer3.0.downsample.0.weight", 0.0, he(256));
    check(&t, "layer3.0.bn1.weight", 1.0, 0.0);
    check(&t, "layer3.0.bn1.bias", 0.0, 0.0);
    check(&t, "fc.weight", 0.0, default(512));
    check(&t, "fc.bias", 0.0, default(512));
}

#[test]
fn grouped_convolutions_count_all_outputs() {
    let t = made("mobilenet_v2");
    check(&t, "features.2.conv.1.0.weight", 0.0, he(96 * 9));
    check(&t, "features.2.conv.0.0.weight", 0.0, he(96));
    check(&t, "classifier.1.weight", 0.0, 0.01);
    check(&t, "classifier.1.bias", 0.0, 0.0);
    let t = made("regnet_y_400mf");
    check(
        &t,
        "trunk_output.block3.block3-0.f.b.0.weight",
        0.0,
        he(208 * 9),
    );
    check(&t, "fc.weight", 0.0, 0.01);
}

#[test]
fn densenet_by_its_inputs() {
    let t = made("densenet121");
    check(&t, "features.conv0.weight", 0.0, he(3 * 49));
    check(
        &t,
        "features.denseblock2.denselayer3.conv2.weight",
        0.0,
        he(128 * 9),
    );
    check(&t, "classifier.weight", 0.0, default(1024));
    check(&t, "classifier.bias", 0.0, 0.0);
}

#[test]
fn the_mobile_and_efficient_ones() {
    let t = made("mobilenet_v3_small");
    check(&t, "features.1.block.1.fc1.weight", 0.0, he(8));
    check(&t, "features.1.block.1.fc1.bias", 0.0, 0.0);
    check(&t, "classifier.0.weight", 0.0, 0.01);
    let t = made("efficientnet_b0");
    check(&t, "features.3.0.block.2.fc2.weight", 0.0, he(144));
    check(
        &t,
        "classifier.1.weight",
        0.0,
        uniform(1.0 / 1000f64.sqrt()),
    );
    let t = made("mnasnet1_0");
    check(&t, "layers.9.0.layers.0.weight", 0.0, he(72));
    check(
        &t,
        "classifier.1.weight",
        0.0,
        uniform((3.0 / 1000f64).sqrt()),
    );
    let t = made("shufflenet_v2_x1_0");
    check(&t, "stage3.1.branch2.0.weight", 0.0, default(116));
    let t = made("squeezenet1_1");
    check(&t, "features.3.expand3x3.weight", 0.0, he(16 * 9));
    check(&t, "classifier.1.weight", 0.0, 0.01);
    check(&t, "classifier.1.bias", 0.0, 0.0);
}

#[test]
fn inception() {
    let t = made("googlenet");
    check(&t, "inception4a.branch2.1.conv.weight", 0.0, 0.01);
    check(&t, "aux1.fc1.weight", 0.0, 0.01);
    check(&t, "fc.bias", 0.0, default(1024));
    let t = made("inception_v3");
    check(&t, "Mixed_6b.branch7x7_2.conv.weight", 0.0, 0.1);
    check(&t, "AuxLogits.conv1.conv.weight", 0.0, 0.01);
    check(&t, "AuxLogits.fc.weight", 0.0, 0.001);
    check(&t, "fc.weight", 0.0, 0.1);
}

#[test]
fn transformers_and_convnext() {
    let t = made("vit_mini");
    check(&t, "class_token", 0.0, 0.0);
    check(&t, "encoder.pos_embedding", 0.0, 0.02);
    check(&t, "conv_proj.weight", 0.0, (1.0 / 192f64).sqrt());
    let layer = "encoder.layers.encoder_layer_1";
    let xavier = |sum: usize| uniform((6.0 / sum as f64).sqrt());
    check(
        &t,
        &format!("{layer}.self_attention.in_proj_weight"),
        0.0,
        xavier(64 + 192),
    );
    check(
        &t,
        &format!("{layer}.self_attention.out_proj.weight"),
        0.0,
        default(64),
    );
    check(&t, &format!("{layer}.mlp.0.weight"), 0.0, xavier(64 + 256));
    check(&t, &format!("{layer}.mlp.0.bias"), 0.0, 1e-6);
    check(&t, "heads.head.weight", 0.0, 0.0);
    let t = made("guide_vit_mini");
    check(&t, "pos_embedding", 0.0, 0.02);
    check(&t, "patch_embed.projection.weight", 0.0, default(192));
    check(&t, "blocks.1.mlp.0.weight", 0.0, 0.02);
    let t = made("convnext_tiny");
    check(&t, "features.0.0.weight", 0.0, 0.02);
    check(&t, "features.5.2.block.3.weight", 0.0, 0.02);
    check(&t, "features.5.2.block.3.bias", 0.0, 0.0);
    check(&t, "features.5.2.layer_scale", 1e-6, 0.0);
    let t = made("swin_t");
    check(&t, "features.3.1.attn.qkv.weight", 0.0, 0.02);
    check(
        &t,
        "features.3.1.attn.relative_position_bias_table",
        0.0,
        0.02,
    );
    check(&t, "features.0.0.weight", 0.0, default(48));
}
