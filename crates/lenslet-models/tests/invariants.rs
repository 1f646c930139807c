//! What holds for every variant of the registry.

mod common;

use std::collections::{HashMap, HashSet};

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use common::{floats, generated_input, gradient_norms};
use lenslet_models::{BuildOptions, ImageModel, Model, Task, Variant, variant, variants};
use lenslet_nn::{HeadKind, Init, load_state_dict, num_params, state_dict};

/// Models above this many parameters are only looked at, not run: building them takes gigabytes.
const LIMIT: usize = 63_000_000;
const CLASSES: usize = 7;

/// A small input size that the variant takes, and another one if it takes more than one.
fn sizes(variant: &Variant) -> (usize, Option<usize>) {
    match variant.family {
        "LeNet" => (32, None),
        _ => {
            let size = variant.min_size.max(64);
            (size, Some(size + 32))
        }
    }
}

/// An input size at which the variant trains: an auxiliary classifier may need more than inference.
fn training_size(variant: &Variant) -> usize {
    match variant.name {
        // Its auxiliary classifier pools 17 x 17 maps by 5 and convolves by 5.
        "inception_v3" => variant.input[1],
        _ => sizes(variant).0,
    }
}

/// Names and shapes without making a value.
fn shapes(model: &Model) -> HashMap<String, Vec<usize>> {
    struct Shapes(lenslet_nn::ModulePath, HashMap<String, Vec<usize>>);
    impl burn::module::ModuleVisitor for Shapes {
        fn enter_module(&mut self, name: &str, container: &str) {
            self.0.enter(name, container);
        }
        fn exit_module(&mut self, _: &str, container: &str) {
            self.0.exit(container);
        }
        fn visit_float<const D: usize>(&mut self, param: &burn::module::Param<Tensor<D>>) {
            self.1.insert(self.0.name(), param.lazy_shape().to_vec());
        }
    }
    let mut shapes = Shapes(Default::default(), HashMap::new());
    model.visit(&mut shapes);
    shapes.1
}

/// Values that a variant gives an image for so many classes.
fn outputs(variant: &Variant, classes: usize) -> usize {
    match variant.task {
        Task::Detection => 7 * 7 * (2 * 5 + classes),
        _ => classes,
    }
}

fn check_declarations(variant: &Variant, model: &Model) -> usize {
    let name = variant.name;
    let shapes = shapes(model);
    let shape = |layer: &str| {
        let weight = format!("{layer}.weight");
        shapes
            .get(&weight)
            .unwrap_or_else(|| panic!("{name} has no {weight}"))
    };
    assert_eq!(
        shape(variant.classifier)[0],
        outputs(variant, CLASSES),
        "{name}"
    );
    let first = shape(variant.first_conv);
    assert_eq!(
        (first.len(), first[1]),
        (4, variant.input[0]),
        "{name}: first convolution"
    );
    let stages = model.stage_info();
    assert!(!stages.is_empty(), "{name}");
    assert!(
        stages.is_sorted_by_key(|stage| stage.stride),
        "{name}: {stages:?}"
    );
    shape(variant.classifier)[1]
}

/// Whether the last layer turns features into logits: not so in SqueezeNet, whose last layer works
/// on maps, nor in models that are no classifiers.
fn has_linear_head(variant: &Variant) -> bool {
    variant.task == Task::Classification && variant.family != "SqueezeNet"
}

/// The larger head stands where the definition's own does, under PyTorch's names.
#[test]
fn heads_can_be_replaced() {
    let device = Device::flex();
    for variant in variants().filter(|v| has_linear_head(v)) {
        let name = variant.name;
        let own = shapes(&variant.build(CLASSES, &mut Init::empty(&device)));
        let options = BuildOptions::new(CLASSES).with_head(HeadKind::Mlp);
        let mlp = shapes(&variant.build_with(&options, &mut Init::empty(&device)));
        let layer = |i: usize| mlp.get(&format!("{}.{i}.weight", variant.classifier));
        let features = own[&format!("{}.weight", variant.classifier)][1];
        assert_eq!(layer(1), Some(&vec![256, features]), "{name}");
        assert_eq!(layer(3), Some(&vec![CLASSES, 256]), "{name}");
        let rest = |shapes: &HashMap<String, Vec<usize>>| -> HashSet<String> {
            let head = format!("{}.", variant.classifier);
            let names = shapes.keys().filter(|name| !name.starts_with(&head));
            names.cloned().collect()
        };
        assert_eq!(rest(&own), rest(&mlp), "{name}");
    }
}

fn images(variant: &Variant, size: usize, device: &Device) -> Tensor<4> {
    generated_input("input", &[2, variant.input[0], size, size], device)
}

fn check_forward(variant: &Variant, model: &Model, features: usize) {
    let name = variant.name;
    let device = Device::flex();
    let (size, other) = sizes(variant);
    let x = images(variant, size, &device);
    let output = model.forward(x.clone());
    assert_eq!(output.dims(), [2, outputs(variant, CLASSES)], "{name}");
    let values = floats(output);
    assert!(values.iter().all(|v| v.is_finite()), "{name}: not finite");
    assert_eq!(
        values,
        floats(model.forward(x.clone())),
        "{name}: differs from call to call"
    );
    assert_eq!(
        model.embed(x.clone()).dims(),
        [2, features],
        "{name}: embedding"
    );
    let classified = model.classify(model.embed(x.clone())).map(floats);
    if has_linear_head(variant) {
        assert_eq!(classified.as_ref(), Some(&values), "{name}: classify");
    } else {
        assert_eq!(classified, None, "{name}");
    }
    let maps = model.stages(x);
    let stages = model.stage_info();
    assert_eq!(maps.len(), stages.len(), "{name}");
    for (map, stage) in maps.iter().zip(&stages) {
        let [_, channels, h, _] = map.dims();
        assert_eq!(channels, stage.channels, "{name} {}", stage.name);
        assert!(
            h.abs_diff(size / stage.stride) <= 3,
            "{name} {}: {h}",
            stage.name
        );
    }
    if let Some(size) = other {
        let output = model.forward(images(variant, size, &device));
        assert_eq!(
            output.dims(),
            [2, outputs(variant, CLASSES)],
            "{name} at {size}"
        );
    }

    let empty = variant.build(CLASSES, &mut Init::empty(&device));
    let copy = load_state_dict(empty, state_dict(model)).unwrap();
    let x = images(variant, sizes(variant).0, &device);
    assert_eq!(values, floats(copy.forward(x)), "{name}: saved and loaded");
}

fn check_gradients(variant: &Variant) -> Model {
    let name = variant.name;
    let device = Device::flex().autodiff();
    let options = BuildOptions::new(CLASSES).deterministic();
    let model = variant.build_with(&options, &mut Init::seeded(&device, 7));
    let (logits, aux) = model.forward_aux(images(variant, training_size(variant), &device));
    let loss = aux
        .into_iter()
        .fold(logits.square().sum(), |sum, aux| sum + aux.square().sum());
    for (parameter, norm) in gradient_norms(&model, &loss.backward()) {
        let norm = norm.unwrap_or_else(|| panic!("{name}: no gradient for {parameter}"));
        assert!(norm.is_finite(), "{name}: gradient of {parameter}");
    }
    model.valid()
}

fn check(part: usize, parts: usize) {
    for variant in variants().skip(part).step_by(parts) {
        let model = variant.build(CLASSES, &mut Init::empty(&Device::flex()));
        let features = check_declarations(variant, &model);
        if num_params(&model) > LIMIT {
            continue;
        }
        drop(model);
        let model = check_gradients(variant);
        check_forward(variant, &model, features);
        println!("{} {}", variant.name, num_params(&model));
    }
}

#[test]
fn every_variant_a() {
    check(0, 2);
}

#[test]
fn every_variant_b() {
    check(1, 2);
}

#[test]
fn names_are_unique_and_found() {
    let names: Vec<_> = variants().map(|v| v.name).collect();
    assert_eq!(names.iter().collect::<HashSet<_>>().len(), names.len());
    assert!(
        names
            .iter()
            .all(|name| variant(name).is_some_and(|v| v.name == *name))
    );
    assert_eq!(variant("guide_resnet50").map(|v| v.name), Some("resnet50"));
    assert!(variant("resnet51").is_none());
    assert!(lenslet_models::near_names("resnet51").contains(&"resnet50"));
}

/// The published counts (torchvision's, auxiliary classifiers included; the guide's).
#[test]
fn parameters_are_the_published_ones() {
    let published = [
        ("lenet5", 61_706),
        ("alexnet", 61_100_840),
        ("guide_alexnet", 62_378_344),
        ("vgg11", 132_863_336),
        ("vgg11_bn", 132_868_840),
        ("vgg13", 133_047_848),
        ("vgg13_bn", 133_053_736),
        ("vgg16", 138_357_544),
        ("vgg16_bn", 138_365_992),
        ("vgg19", 143_667_240),
        ("vgg19_bn", 143_678_248),
        ("googlenet", 13_004_888),
        ("inception_v3", 27_161_264),
        ("resnet18", 11_689_512),
        ("resnet34", 21_797_672),
        ("resnet50", 25_557_032),
        ("resnet101", 44_549_160),
        ("resnet152", 60_192_808),
        ("resnext50_32x4d", 25_028_904),
        ("resnext101_32x8d", 88_791_336),
        ("wide_resnet50_2", 68_883_240),
        ("wide_resnet101_2", 126_886_696),
        ("guide_unet", 31_042_434),
        ("squeezenet1_0", 1_248_424),
        ("squeezenet1_1", 1_235_496),
        ("guide_simple_yolo", 130_058_298),
        ("densenet121", 7_978_856),
        ("densenet161", 28_681_000),
        ("densenet169", 14_149_480),
        ("densenet201", 20_013_928),
        ("guide_densenet121", 7_978_856),
        ("mobilenet_v1", 4_231_976),
        ("mobilenet_v2", 3_504_872),
        ("guide_mobilenet_v2", 3_504_872),
        ("mobilenet_v3_small", 2_542_856),
        ("mobilenet_v3_large", 5_483_032),
        ("shufflenet_v2_x1_0", 2_278_604),
        ("mnasnet1_0", 4_383_312),
        ("efficientnet_b0", 5_288_548),
        ("efficientnet_b1", 7_794_184),
        ("efficientnet_b2", 9_109_994),
        ("efficientnet_b3", 12_233_232),
        ("efficientnet_b4", 19_341_616),
        ("efficientnet_b5", 30_389_784),
        ("efficientnet_b6", 43_040_704),
        ("efficientnet_b7", 66_347_960),
        ("efficientnet_v2_s", 21_458_488),
        ("efficientnet_v2_m", 54_139_356),
        ("efficientnet_v2_l", 118_515_272),
        ("efficientnet_lite0", 4_652_008),
        ("efficientnet_lite1", 5_416_680),
        ("efficientnet_lite2", 6_092_072),
        ("efficientnet_lite3", 8_197_096),
        ("efficientnet_lite4", 13_006_568),
        ("regnet_y_400mf", 4_344_144),
        ("vit_b_16", 86_567_656),
        ("vit_b_32", 88_224_232),
        ("vit_l_16", 304_326_632),
        ("vit_l_32", 306_535_400),
        ("vit_h_14", 632_045_800),
        ("guide_vit_small", 22_050_664),
        ("guide_vit_base", 86_567_656),
        ("guide_vit_large", 304_326_632),
        ("swin_t", 28_288_354),
        ("swin_s", 49_606_258),
        ("swin_b", 87_768_224),
        ("convnext_tiny", 28_589_128),
        ("convnext_small", 50_223_688),
        ("convnext_base", 88_591_464),
        ("convnext_large", 197_767_336),
        ("guide_convnext_tiny", 28_588_936),
    ];
    let published = HashMap::from(published);
    let device = Device::flex();
    for variant in variants() {
        let model = variant.build(variant.num_classes, &mut Init::empty(&device));
        let expected = published.get(variant.name).copied();
        assert_eq!(Some(num_params(&model)), expected, "{}", variant.name);
    }
    assert_eq!(published.len(), variants().count());
}

/// Weights of 518 pixels (the published ones of ViT-H/14) have their own position embeddings.
#[test]
fn position_embeddings_follow_the_image_size() {
    let vit = variant("vit_h_14").unwrap();
    let options = BuildOptions::new(1000).with_image_size(518);
    let model = vit.build_with(&options, &mut Init::empty(&Device::flex()));
    assert_eq!(num_params(&model), 633_470_440);
}

#[test]
fn options_reach_their_models() {
    let device = Device::flex();
    let googlenet = variant("googlenet").unwrap();
    let bare = BuildOptions::new(1000).with_aux_logits(false);
    let model = googlenet.build_with(&bare, &mut Init::empty(&device));
    assert_eq!(num_params(&model), 6_624_904);

    // ImageNet's mean, as the network sees it, is grey to the original weights.
    let transformed = bare.clone().with_transform_input(true);
    let mut init = Init::seeded(&device, 3);
    let plain = googlenet.build_with(&bare, &mut init);
    let mut init = Init::seeded(&device, 3);
    let other = googlenet.build_with(&transformed, &mut init);
    let ours = [0.485f32, 0.456, 0.406].map(|mean| (mean - 0.5) / 0.5);
    let pixels: Vec<f32> = ours.iter().flat_map(|v| [*v; 32 * 32]).collect();
    let shifted = Tensor::from_data(TensorData::new(pixels, [1, 3, 32, 32]), &device);
    let expected = floats(plain.forward(shifted));
    let got = floats(other.forward(Tensor::zeros([1, 3, 32, 32], &device)));
    let error = expected
        .iter()
        .zip(&got)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max);
    assert!(error < 1e-6, "{error}");

    let zero = BuildOptions::new(10).with_zero_init_residual(true);
    let resnet = variant("resnet18")
        .unwrap()
        .build_with(&zero, &mut Init::seeded(&device, 3));
    let weights: Vec<f32> = state_dict(&resnet)
        .into_iter()
        .filter(|(name, _)| name.ends_with("bn2.weight"))
        .flat_map(|(_, data)| data.try_to_vec::<f32>().unwrap())
        .collect();
    assert!(!weights.is_empty() && weights.iter().all(|w| *w == 0.0));
}
