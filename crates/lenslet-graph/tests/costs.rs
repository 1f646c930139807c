//! Costs against what was counted in PyTorch, and receptive fields against published ones.

mod common;

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use lenslet_graph::{Field, Graph, Macs, Memory, Outputs};
use lenslet_models::efficientnet::GuideMbConv;
use lenslet_models::googlenet::GuideInception;
use lenslet_models::mobilenet::{DepthwiseSeparableConv, inverted_residual};
use lenslet_models::unet::{DoubleConv, UNetConfig};
use lenslet_models::yolo::YoloHead;
use lenslet_models::{BuildOptions, ImageModel, Output, variant};
use lenslet_nn::{Init, WeightInit, num_params, to_nchw, to_nhwc};
use lenslet_reference::{Costs, costs};

/// The graph of a model without weights, and how many parameters the model has.
fn structure<M: Module, O: Into<Outputs>>(
    shape: [usize; 4],
    build: impl FnOnce(&mut Init) -> M,
    forward: impl FnOnce(&M, Tensor<4>) -> O,
) -> (Graph, u64) {
    let mut params = 0;
    let build = |device: &Device| {
        let model = build(&mut Init::empty(device));
        params = num_params(&model) as u64;
        model
    };
    let graph = Graph::structure(build, shape, forward).unwrap();
    (graph, params)
}

fn of_variant(name: &str, shape: [usize; 4]) -> Graph {
    let entry = variant(name).expect(name);
    let classes = entry.num_classes;
    structure(shape, |init| entry.build(classes, init), common::outputs).0
}

fn check(name: &str, costs: &Costs, (graph, params): (Graph, u64)) {
    let output = &graph.value(graph.outputs()[0]).shape;
    assert_eq!(output, &costs.output_shape, "{name}");
    assert_eq!(params, costs.params, "{name}: parameters");
    let kinds = &costs.macs_by_kind;
    let expected = Macs {
        conv: kinds.conv,
        linear: kinds.linear,
        attention: kinds.attention,
    };
    let layers = graph.layers();
    let macs = layers.iter().map(|layer| layer.macs);
    let macs = macs.fold(Macs::default(), |sum, macs| sum + macs);
    assert_eq!(macs, expected, "{name}");
    assert_eq!(macs.total(), costs.macs, "{name}");
    let counted: u64 = layers.iter().map(|layer| layer.num_params()).sum();
    let trained_only = matches!(name, "googlenet" | "inception_v3");
    assert_eq!(counted < params, trained_only, "{name}: {counted}");

    // Modules that run several times are listed every time, in our list once each time as well,
    // but under the operation's name.
    for (path, class, shape, params, macs) in &costs.layers {
        let inside = layers.iter().filter(|layer| {
            let rest = layer.module.strip_prefix(path.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        });
        let inside: Vec<_> = inside.collect();
        if matches!(class.as_str(), "ReLU" | "Dropout") {
            continue;
        }
        let at = format!("{name}: {path}");
        let last = inside.last().unwrap_or_else(|| panic!("{at} is missing"));
        assert_eq!(&last.shape, shape, "{at}");
        let sum: u64 = inside.iter().map(|layer| layer.num_params()).sum();
        assert_eq!(sum, *params, "{at}: parameters");
        let sum: u64 = inside.iter().map(|layer| layer.macs.total()).sum();
        assert_eq!(sum, *macs, "{at}: multiply-accumulates");
        if inside.len() == 1 {
            assert_eq!(&last.kind, class, "{at}");
        }
    }
}

#[test]
fn variants_cost_what_pytorch_counts() {
    let mut checked = 0;
    for (name, costs) in costs() {
        let plain = name.split('@').next().unwrap();
        let Some(entry) = variant(plain) else {
            continue;
        };
        let shape = costs.input_shape.clone().try_into().unwrap();
        let classes = match plain {
            "guide_unet" | "guide_simple_yolo" => entry.num_classes,
            _ => costs.output_shape[1],
        };
        let graph = structure(shape, |init| entry.build(classes, init), common::outputs);
        check(&name, &costs, graph);
        checked += 1;
    }
    assert!(checked > 60, "{checked}");
}

#[test]
fn blocks_cost_what_pytorch_counts() {
    let costs = costs();
    fn block<M: Module>(
        costs: &Costs,
        build: impl FnOnce(&mut Init) -> M,
        forward: impl Fn(&M, Tensor<4>) -> Tensor<4>,
    ) -> (Graph, u64) {
        let shape = costs.input_shape.clone().try_into().unwrap();
        structure(shape, build, |m, x| to_nchw(forward(m, to_nhwc(x))))
    }
    let at = |name: &str| &costs[name];
    let name = "guide_inception_module";
    let inception = |init: &mut Init| GuideInception::new(192, [64, 96, 128, 16, 32, 32], init);
    check(
        name,
        at(name),
        block(at(name), inception, GuideInception::forward),
    );
    for (name, from, to, stride) in [
        ("guide_dsconv_s1", 32, 64, 1),
        ("guide_dsconv_s2", 64, 128, 2),
    ] {
        let build = |init: &mut Init| DepthwiseSeparableConv::new(from, to, stride, init);
        let graph = block(at(name), build, DepthwiseSeparableConv::forward);
        check(name, at(name), graph);
    }
    for (name, shape) in [
        ("guide_invres_t1", (32, 16, 1, 1)),
        ("guide_invres_res", (24, 24, 1, 6)),
        ("guide_invres_s2", (24, 32, 2, 6)),
    ] {
        let build = |init: &mut Init| inverted_residual(shape, true, WeightInit::Default, init);
        check(name, at(name), block(at(name), build, |m, x| m.forward(x)));
    }
    for (name, channels, shape) in [
        ("guide_mbconv_e1", (32, 16), (3, 1, 1)),
        ("guide_mbconv_res", (40, 40), (5, 1, 6)),
        ("guide_mbconv_k5s2", (24, 40), (5, 2, 6)),
    ] {
        let build = |init: &mut Init| GuideMbConv::new(channels, shape, init);
        check(name, at(name), block(at(name), build, GuideMbConv::forward));
    }
    let name = "guide_double_conv";
    let build = |init: &mut Init| DoubleConv::new(3, 16, init);
    check(name, at(name), block(at(name), build, DoubleConv::forward));
    let name = "guide_yolo_head";
    let shape = at(name).input_shape.clone().try_into().unwrap();
    let build = |init: &mut Init| YoloHead::new(512, 3, 80, init);
    let graph = structure(shape, build, |m: &YoloHead, x| m.forward(to_nhwc(x)));
    let mut costs = costs;
    check(name, &costs.remove(name).unwrap(), graph);
}

/// Side of the window and distance between positions at the output of a module.
fn field(graph: &Graph, module: &str) -> Option<(usize, f64)> {
    let layers = graph.layers();
    let inside = |layer: &&lenslet_graph::Layer| {
        let rest = layer.module.strip_prefix(module);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    let layer = layers.iter().rfind(inside).expect(module);
    let [rows, columns] = layer.field.size()?;
    let jump = layer.field.jump()?;
    assert_eq!((rows, jump[0]), (columns, jump[1]), "{module}");
    Some((rows, jump[0]))
}

/// Araujo et al. (Distill, 2019), table 1, has 195 for AlexNet, 212 for VGG-16, 1311 for Inception
/// v3 and 315 for MobileNet. Those of ResNet there have their strides in other places than
/// torchvision's; for these: 7 + 4 (pool) = 11 at a jump of 4, then `2 * jump` for every 3x3
/// convolution. ResNet-18: 11 + 4*8 + (8 + 3*16) + (16 + 3*32) + (32 + 3*64) = 435; ResNet-50 with
/// one such convolution a block: 11 + 3*8 + (8 + 3*16) + (16 + 5*32) + (32 + 2*64) = 427.
#[test]
fn receptive_fields_are_the_published_ones() {
    for (name, module, expected) in [
        ("alexnet", "features.12", (195, 32.0)),
        ("vgg16", "features.30", (212, 32.0)),
        ("vgg16", "features.4", (6, 2.0)),
        ("resnet18", "layer4", (435, 32.0)),
        ("resnet50", "layer1", (35, 4.0)),
        ("resnet50", "layer4", (427, 32.0)),
        ("inception_v3", "Mixed_7c", (1311, 32.0)),
        ("mobilenet_v1", "features", (315, 32.0)),
        ("lenet5", "features.6", (32, 4.0)),
        ("vit_b_16", "conv_proj", (16, 16.0)),
    ] {
        let [c, h, w] = variant(name).unwrap().input;
        let graph = of_variant(name, [1, c, h, w]);
        assert_eq!(field(&graph, module), Some(expected), "{name}: {module}");
        let end = &graph.fields()[graph.outputs()[0].index()];
        assert_eq!(end, &Field::Whole, "{name}");
    }
}

/// The window of a unit is what it reacts to: a small U-Net, one row of the picture changed after
/// the other, every position of the output asked.
#[test]
fn receptive_fields_are_what_outputs_react_to() {
    let side = 64;
    let unet = UNetConfig::new(1, [4, 6]);
    let device = Device::flex();
    let options = BuildOptions::new(2);
    let model = unet.init(&options, &mut Init::empty(&device));
    let model = common::fill(model, 3.0).valid();
    let run = |x: Tensor<4>| match model.output(x) {
        Output::Map(y) => y,
        Output::Logits(_) | Output::Grid(_) | Output::Anchors(_) => panic!("a U-Net gives a map"),
    };
    let graph = Graph::capture(&model, [1, 1, side, side], |model, x| {
        match model.output(x) {
            Output::Map(y) => Outputs::from(y),
            Output::Logits(y) => y.into(),
            Output::Grid(y) => y.into(),
            Output::Anchors(_) => unreachable!("a U-Net gives a map"),
        }
    });
    let graph = graph.unwrap();
    let fields = graph.fields();
    let Field::Window([rows, columns]) = &fields[graph.outputs()[0].index()] else {
        panic!("U-Net's output is a map");
    };
    assert_eq!(rows, columns);
    assert_eq!(rows.jump(), 1.0);

    let picture = lenslet_reference::input("input", side * side);
    let output = |picture: &[f32]| -> Vec<f32> {
        let data = TensorData::new(picture.to_vec(), [1, 1, side, side]);
        run(Tensor::from_data(data, &device))
            .into_data()
            .iter::<f32>()
            .collect()
    };
    let before = output(&picture);
    // First and last row that every row of the output reacts to.
    let mut found = vec![(i64::MAX, i64::MIN); side];
    for row in 0..side {
        for bump in [1e3, -1e3] {
            let mut changed = picture.clone();
            let columns = changed[row * side..][..side].iter_mut().step_by(3);
            columns.for_each(|pixel| *pixel += bump);
            let after = output(&changed);
            for (i, (a, b)) in before.iter().zip(&after).enumerate() {
                if a != b {
                    let seen = &mut found[i / side % side];
                    seen.0 = seen.0.min(row as i64);
                    seen.1 = seen.1.max(row as i64);
                }
            }
        }
    }
    for (row, &found) in found.iter().enumerate() {
        let (first, last) = rows.at(row as i64);
        let inside = (first.max(0), last.min(side as i64 - 1));
        assert_eq!(found, inside, "row {row}");
    }
    assert!(rows.size() < side, "{}", rows.size());
}

#[test]
fn memory_counts_what_is_alive() {
    let graph = of_variant("lenet5", [2, 1, 32, 32]);
    let all = |_: &str| true;
    let none = |_: &str| false;
    let memory = graph.memory(61_706, 61_706, &all);
    let maps = |numbers: u64| 2 * 4 * numbers;
    // The picture and C1's map; tanh works in place, and S2 is smaller than the picture.
    let peak = maps(6 * 28 * 28 + 6 * 14 * 14).max(maps(32 * 32 + 6 * 28 * 28));
    // Inputs of C1, C3, C5, F6 and of the output layer; what tanh gives, one of which F6 reads and
    // one the output layer does.
    let kept = 32 * 32 + (6 * 28 * 28 + 6 * 14 * 14) + (16 * 10 * 10 + 16 * 5 * 5) + 120 + 84;
    let expected = Memory {
        weights: 4 * 61_706,
        inference: peak,
        kept: maps(kept),
        gradients: 4 * 61_706,
        optimizer: 8 * 61_706,
    };
    assert_eq!(memory, expected);
    assert_eq!(graph.memory(61_706, 0, &none).kept, 0);
    let last = |name: &str| name.starts_with("classifier.2");
    assert_eq!(graph.memory(61_706, 850, &last).kept, maps(84));
}
