//! Every architecture against PyTorch's numbers: names, shapes, outputs, inner outputs.

mod common;

use std::sync::Mutex;

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use common::{floats, generated_input};
use lenslet_models::densenet::DenseLayer;
use lenslet_models::efficientnet::GuideMbConv;
use lenslet_models::googlenet::GuideInception;
use lenslet_models::mobilenet::{DepthwiseSeparableConv, inverted_residual};
use lenslet_models::unet::DoubleConv;
use lenslet_models::yolo::YoloHead;
use lenslet_models::{ImageModel, Output, variant};
use lenslet_nn::{
    Init, StateDict, WeightInit, load_state_dict, num_params, state_dict, tap, to_nchw, to_nhwc,
};
use lenslet_reference::{Inference, Tap, inference, names, relative_error, tensor};

/// Models above this many parameters run one at a time.
const LARGE: usize = 40_000_000;
static ONE_LARGE: Mutex<()> = Mutex::new(());

fn generated(fixture: &Inference) -> StateDict {
    fixture
        .state_dict
        .iter()
        .map(|(name, shape, kind)| {
            let data = match kind.as_str() {
                "i64" => TensorData::new(vec![0i64; shape.iter().product()], shape.clone()),
                _ => TensorData::new(tensor(name, shape, fixture.gain), shape.clone()),
            };
            (name.clone(), data)
        })
        .collect()
}

/// Blocks, which are no variants of the registry. Not all have their fixture in this repository.
const BLOCKS: &[&str] = &[
    "guide_inception_module",
    "guide_dsconv_s1",
    "guide_dsconv_s2",
    "guide_invres_t1",
    "guide_invres_res",
    "guide_invres_s2",
    "guide_mbconv_e1",
    "guide_mbconv_res",
    "guide_mbconv_k5s2",
    "guide_double_conv",
    "guide_yolo_head",
];

/// Builds, fills and runs `model`; `run` gives the output's shape and values.
fn check<M: Module>(
    name: &str,
    make: impl FnOnce(&mut Init) -> M,
    run: impl FnOnce(&M, Tensor<4>) -> (Vec<usize>, Vec<f32>),
) {
    if !names("models").iter().any(|known| known == name) {
        return; // The fixtures of this repository or of LENSLET_REFERENCE_DIR lack it.
    }
    let fixture = inference(name);
    let _one = (fixture.num_params > LARGE).then(|| ONE_LARGE.lock());
    let device = Device::flex();
    let model = make(&mut Init::empty(&device));
    let ours: Vec<_> = (state_dict(&model).into_iter())
        .map(|(name, data)| (name, data.shape().to_vec()))
        .collect();
    let theirs: Vec<_> = (fixture.state_dict.iter())
        .map(|(name, shape, _)| (name.clone(), shape.clone()))
        .collect();
    assert_eq!(ours, theirs, "{name}: names and shapes");
    assert_eq!(num_params(&model), fixture.num_params, "{name}: parameters");
    let model = load_state_dict(model, generated(&fixture)).unwrap();

    let x = generated_input("input", &fixture.input_shape, &device);
    let ((shape, values), taps) = tap::record(fixture.taps.keys(), || run(&model, x.clone()));
    assert_eq!(shape, fixture.output_shape, "{name}: output shape");
    let compared = &values[..fixture.output_f64.len()];
    let error = relative_error(compared, &fixture.output_f64);
    let tolerance = fixture.tolerance();
    println!("{name} {} {error:.1e}", fixture.num_params);
    assert!(
        error <= tolerance,
        "{name}: {error:.1e} above {tolerance:.1e}"
    );
    for (at, expected) in &fixture.taps {
        let found = taps
            .get(at)
            .unwrap_or_else(|| panic!("{name}: {at} did not run"));
        check_tap(&format!("{name}: {at}"), found, expected);
    }
}

/// Taps were computed in f32, so they are compared a little more loosely, relative to their size.
fn check_tap(at: &str, found: &TensorData, expected: &Tap) {
    let mut found = found.clone();
    if let &[n, h, w, c] = &found.shape().to_vec()[..]
        && expected.shape == [n, c, h, w]
    {
        let map = Tensor::<4>::from_data(found, &Device::flex());
        found = to_nchw(map).into_data();
    }
    let count: usize = expected.shape.iter().product();
    let last = |shape: &[usize]| shape.last().copied();
    let values: Vec<f32> = found.try_to_vec().unwrap();
    assert_eq!(values.len(), count, "{at}: size");
    if expected.shape.len() != 4 {
        assert_eq!(last(&found.shape().to_vec()), last(&expected.shape), "{at}");
    }
    let n = values.len() as f64;
    let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
    let square = |v: &f32| (f64::from(*v) - mean).powi(2);
    let std = (values.iter().map(square).sum::<f64>() / n).sqrt();
    let scale = expected.mean.abs() + 3.0 * expected.std;
    let close = |what: &str, got: f64, want: f64| {
        assert!(
            (got - want).abs() <= 1e-4 * scale,
            "{at}: {what} {got} instead of {want}"
        );
    };
    close("mean", mean, expected.mean);
    close("std", std, expected.std);
    for (got, want) in values.iter().zip(&expected.first) {
        close("value", f64::from(*got), *want);
    }
}

fn check_variant(name: &str) {
    let entry = variant(name.trim_end_matches("_odd")).expect(name);
    let classes = match name {
        "guide_lenet5" => 10,
        _ => entry.num_classes,
    };
    check(
        name,
        |init| entry.build(classes, init),
        |model, x| match model.output(x) {
            Output::Logits(y) => (y.dims().to_vec(), floats(y)),
            Output::Map(y) | Output::Grid(y) => (y.dims().to_vec(), floats(y)),
            Output::Anchors(_) => unreachable!("no variant of the registry has anchors"),
        },
    );
}

fn check_block<M: Module>(
    name: &str,
    make: impl FnOnce(&mut Init) -> M,
    run: impl FnOnce(&M, Tensor<4>) -> Tensor<4>,
) {
    check(name, make, |block, x| {
        let y = to_nchw(run(block, to_nhwc(x)));
        (y.dims().to_vec(), floats(y))
    });
}

macro_rules! fixtures {
    ($($name:ident)+) => {
        $(#[test]
        fn $name() {
            check_variant(stringify!($name));
        })+
        const VARIANTS: &[&str] = &[$(stringify!($name)),+];
    };
}

fixtures! {
    alexnet guide_alexnet guide_lenet5
    vgg11 vgg11_bn vgg16 vgg16_bn vgg19 vgg19_bn guide_vgg11_bn guide_vgg16_bn guide_vgg19_bn
    googlenet inception_v3
    resnet18 resnet34 resnet50 resnet152 resnext50_32x4d
    guide_resnet18 guide_resnet50 guide_resnet101 guide_resnet152
    densenet121 densenet161 densenet201 guide_densenet121
    squeezenet1_1 mobilenet_v2 guide_mobilenet_v2 mobilenet_v3_small
    shufflenet_v2_x1_0 mnasnet1_0 regnet_y_400mf
    efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b4 efficientnet_b5
    efficientnet_b6 efficientnet_b7 efficientnet_v2_s
    convnext_tiny convnext_base convnext_large guide_convnext_tiny
    vit_b_16 vit_l_16 guide_vit_base guide_vit_large swin_t
    guide_unet guide_unet_odd guide_simple_yolo
}

#[test]
fn guide_inception_module() {
    let widths = [64, 96, 128, 16, 32, 32];
    check_block(
        "guide_inception_module",
        |init| GuideInception::new(192, widths, init),
        GuideInception::forward,
    );
}

#[test]
fn guide_dsconv() {
    for (name, from, to, stride) in [
        ("guide_dsconv_s1", 32, 64, 1),
        ("guide_dsconv_s2", 64, 128, 2),
    ] {
        check_block(
            name,
            |init| DepthwiseSeparableConv::new(from, to, stride, init),
            DepthwiseSeparableConv::forward,
        );
    }
}

#[test]
fn guide_invres() {
    for (name, shape) in [
        ("guide_invres_t1", (32, 16, 1, 1)),
        ("guide_invres_res", (24, 24, 1, 6)),
        ("guide_invres_s2", (24, 32, 2, 6)),
    ] {
        check_block(
            name,
            |init| inverted_residual(shape, true, WeightInit::Default, init),
            |block, x| block.forward(x),
        );
    }
}

#[test]
fn guide_mbconv() {
    for (name, channels, shape) in [
        ("guide_mbconv_e1", (32, 16), (3, 1, 1)),
        ("guide_mbconv_res", (40, 40), (5, 1, 6)),
        ("guide_mbconv_k5s2", (24, 40), (5, 2, 6)),
    ] {
        check_block(
            name,
            |init| GuideMbConv::new(channels, shape, init),
            GuideMbConv::forward,
        );
    }
}

#[test]
fn guide_double_conv() {
    check_block(
        "guide_double_conv",
        |init| DoubleConv::new(3, 16, init),
        DoubleConv::forward,
    );
}

#[test]
fn guide_yolo_head() {
    check(
        "guide_yolo_head",
        |init| YoloHead::new(512, 3, 80, init),
        |head, x| {
            let y = head.forward(to_nhwc(x));
            (y.dims().to_vec(), floats(y))
        },
    );
}

/// A dense layer has no fixture of its own; the DenseNets consist of it.
#[test]
fn dense_layer_adds_its_growth() {
    let device = Device::flex();
    let mut init = Init::seeded(&device, 1);
    let layer = DenseLayer::new(8, 4, WeightInit::Default, &mut init);
    assert_eq!(
        layer.forward(Tensor::zeros([1, 3, 5, 8], &device)).dims(),
        [1, 3, 5, 4]
    );
}

/// Fixtures in another place than this repository's (see `lenslet-reference`).
#[test]
fn any_other_fixture() {
    for name in names("models") {
        if !VARIANTS.contains(&&name[..]) && !BLOCKS.contains(&&name[..]) {
            check_variant(&name);
        }
    }
}
