//! Models for segmentation and detection over backbones of the zoo.

use std::collections::HashSet;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use lenslet_models::{
    Auxiliary, BuildOptions, Classes, ImageModel, LoadOptions, Output, Task, composed, variant,
    variants,
};
use lenslet_nn::{Init, state_dict};
use lenslet_weights::Weights;

const CLASSES: usize = 5;

fn output(name: &str, size: [usize; 2], options: &BuildOptions) -> Output {
    let device = Device::flex();
    let model = variant(name)
        .unwrap_or_else(|| panic!("there is no {name}"))
        .build_with(options, &mut Init::seeded(&device, 1));
    model.output(Tensor::ones([2, 3, size[0], size[1]], &device))
}

#[test]
fn every_classifier_in_colour_is_a_backbone() {
    let all: HashSet<&str> = composed().iter().map(|v| v.name).collect();
    assert_eq!(all.len(), composed().len());
    for backbone in variants().filter(|v| v.task == Task::Classification && v.input[0] == 3) {
        for kind in ["unet", "yolo", "grid"] {
            assert!(all.contains(format!("{kind}_{}", backbone.name).as_str()));
        }
    }
    for variant in composed() {
        let device = Device::flex();
        if variant
            .backbone()
            .is_some_and(|b| b.name.starts_with("vgg"))
        {
            // Hundreds of megabytes of classifier.
            continue;
        }
        let model = variant.build(CLASSES, &mut Init::empty(&device));
        assert!(!model.stage_info().is_empty(), "{}", variant.name);
    }
}

/// Maps have the size of the image, also where it is no multiple of the strides.
#[test]
fn maps_have_the_size_of_the_image() {
    let sized = BuildOptions::new(CLASSES).with_image_size(64);
    for (name, size) in [
        ("unet", [64, 96]),
        ("unet", [50, 37]),
        ("unet_resnet18", [64, 64]),
        ("unet_resnet18", [75, 61]),
        ("unet_efficientnet_lite0", [96, 64]),
        ("unet_mobilenet_v2", [64, 64]),
        ("unet_squeezenet1_1", [64, 64]),
        ("unet_guide_vit_small", [64, 64]),
    ] {
        let Some(_) = variant(name) else { continue };
        match output(name, size, &sized) {
            Output::Map(map) => {
                assert_eq!(map.dims(), [2, CLASSES, size[0], size[1]], "{name}");
            }
            other => panic!("{name} gives {other:?}"),
        }
    }
}

#[test]
fn detectors_have_as_many_scales_as_lists_of_anchors() {
    let anchors =
        |scales: usize| BuildOptions::new(CLASSES).with_anchors(vec![vec![[9.0; 2]; 2]; scales]);
    for (name, scales, finest) in [
        ("yolo", 1, 4),
        ("yolo", 2, 8),
        ("yolo", 3, 16),
        ("yolo_resnet18", 3, 8),
        ("yolo_efficientnet_lite0", 2, 4),
    ] {
        match output(name, [64, 64], &anchors(scales)) {
            Output::Anchors(found) => {
                assert_eq!(found.len(), scales, "{name}");
                assert_eq!(
                    found[0].dims(),
                    [2, 2, finest, finest, 5 + CLASSES],
                    "{name}"
                );
            }
            other => panic!("{name} gives {other:?}"),
        }
    }
    match output("grid_resnet18", [64, 64], &anchors(1)) {
        Output::Grid(grid) => assert_eq!(grid.dims(), [2, 7, 7, 10 + CLASSES]),
        other => panic!("it gives {other:?}"),
    }
}

/// A classifier's weights are the backbone's; the rest starts anew.
#[test]
fn a_backbones_weights_are_taken() {
    let device = Device::flex();
    let backbone = variant("resnet18").unwrap();
    let stored = backbone.build(10, &mut Init::seeded(&device, 7));
    let weights = || Weights {
        tensors: lenslet_models::export(&stored),
        ..Weights::default()
    };
    let options = LoadOptions {
        classes: Classes::New(3),
        auxiliary: Auxiliary::Without,
        build: BuildOptions::new(3),
    };
    for name in ["unet_resnet18", "yolo_resnet18", "grid_resnet18"] {
        let loaded = variant(name)
            .unwrap()
            .load(weights(), &options, &mut Init::seeded(&device, 1))
            .unwrap();
        let own = state_dict(&loaded.model.valid());
        let find = |n: &str| {
            own.iter()
                .find(|(name, _)| name.ends_with(n))
                .unwrap()
                .1
                .clone()
        };
        let theirs = state_dict(&stored);
        let (_, first) = theirs.iter().find(|(n, _)| n == "conv1.weight").unwrap();
        assert_eq!(&find("conv1.weight"), first, "{name}");
        assert!(
            loaded
                .new
                .iter()
                .all(|n| n.contains("head") || n.contains("fc.")),
            "{:?}",
            loaded.new
        );
    }
    let wrong = variant("unet_resnet34").unwrap();
    assert!(
        wrong
            .load(weights(), &options, &mut Init::empty(&device))
            .is_err()
    );
}
