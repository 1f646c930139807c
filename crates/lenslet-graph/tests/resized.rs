//! A graph taken to another size is the one that is captured at that size, or it is refused.

mod common;

use burn::tensor::module::{adaptive_avg_pool2d, interpolate, max_pool2d};
use burn::tensor::ops::{InterpolateMode, InterpolateOptions, MaxPoolOptions};
use burn::tensor::{Device, Tensor};
use common::captured;
use lenslet_graph::{Graph, GraphError};
use lenslet_models::{BuildOptions, variants};
use lenslet_nn::{Init, Sequential};

/// Models whose graphs depend on the input's size in ways that they do not show: linear layers over positions, position embeddings,
/// windows of attention.
const REFUSED: [&str; 12] = [
    "lenet5",
    "vit_b_16",
    "vit_b_32",
    "vit_l_16",
    "vit_l_32",
    "vit_h_14",
    "guide_vit_small",
    "guide_vit_base",
    "guide_vit_large",
    "swin_t",
    "swin_s",
    "swin_b",
];

fn same(found: &Graph, expected: &Graph) {
    assert_eq!(found.to_string(), expected.to_string());
    let shapes = |graph: &Graph| -> Vec<Vec<usize>> {
        let outputs = graph.outputs().iter();
        outputs.map(|&id| graph.value(id).shape.clone()).collect()
    };
    assert_eq!(shapes(found), shapes(expected));
}

#[test]
fn every_model() {
    let mut refused = Vec::new();
    for entry in variants() {
        let [channels, side, _] = entry.input;
        let side = entry.min_size.max(64).min(side);
        let options = BuildOptions::new(10).with_image_size(side);
        let model = entry.build_with(&options, &mut Init::empty(&Device::flex()));
        let graph = captured(&model, [1, channels, side, side]);
        same(&graph.resized(&[1, channels, side, side]).unwrap(), &graph);
        let mut taken = 0;
        for [n, h, w] in [
            [1, side + 32, side + 64],
            [3, side, side],
            [2, side + 17, side + 90],
        ] {
            match graph.resized(&[n, channels, h, w]) {
                Ok(resized) => {
                    same(&resized, &captured(&model, [n, channels, h, w]));
                    taken += usize::from(h != side);
                }
                Err(why) => println!("{}: {n} x {h} x {w}: {why}", entry.name),
            }
        }
        if taken == 0 {
            refused.push(entry.name);
        }
    }
    assert_eq!(refused, REFUSED);
}

const SMALL: [usize; 4] = [1, 3, 32, 32];
const LARGE: [usize; 4] = [2, 3, 50, 64];

fn capture<const D: usize>(shape: [usize; 4], forward: impl Fn(Tensor<4>) -> Tensor<D>) -> Graph {
    Graph::capture(&Sequential::new(), shape, |_, x| forward(x)).unwrap()
}

fn agrees<const D: usize>(forward: impl Fn(Tensor<4>) -> Tensor<D>) {
    let resized = capture(SMALL, &forward).resized(&LARGE).unwrap();
    same(&resized, &capture(LARGE, &forward));
}

fn refuses<const D: usize>(forward: impl Fn(Tensor<4>) -> Tensor<D>, word: &str) {
    let refused = capture(SMALL, &forward).resized(&LARGE).unwrap_err();
    assert!(matches!(refused, GraphError::Resize { .. }), "{refused}");
    assert!(refused.to_string().contains(word), "{refused}");
}

fn halved(x: Tensor<4>) -> Tensor<4> {
    max_pool2d(x, MaxPoolOptions::new([2, 2]))
}

fn sized(x: Tensor<4>, size: [usize; 2]) -> Tensor<4> {
    interpolate(
        x,
        InterpolateOptions::new(InterpolateMode::Bilinear).with_output_size(size),
    )
}

#[test]
fn sizes_that_follow_from_others() {
    // As large as another map.
    agrees(|x| {
        let [_, _, h, w] = x.dims();
        sized(halved(x.clone()), [h, w]) + x
    });
    // Tokens of a map and back.
    agrees(|x| {
        let [n, c, h, w] = x.dims();
        let tokens = x.reshape([n, c, h * w]).swap_dims(1, 2);
        let tokens = burn::tensor::activation::softmax(tokens, 2) * 2.0;
        tokens.swap_dims(1, 2).reshape([n, c, h, w])
    });
    // The model's own.
    agrees(|x| adaptive_avg_pool2d(x, [7, 5]).flatten::<2>(1, 3));
    agrees(|x| x.clone().mean_dim(2).mean_dim(3).mul(x));
    agrees(|x| {
        let parts = x.clone().narrow(1, 1, 2).repeat_dim(1, 2);
        Tensor::cat(vec![parts, x.flip([3])], 1)
    });
    // Windows that leave the map.
    agrees(|x| {
        let options = MaxPoolOptions::new([3, 3])
            .with_stride([2, 2])
            .with_padding([1, 1])
            .with_ceil_mode(true);
        max_pool2d(x, options)
    });
}

#[test]
fn sizes_that_may_mean_several_things() {
    refuses(|x| x.narrow(2, 4, 24), "cuts out");
    refuses(|x| x.narrow(2, 0, 16), "cuts out");
    refuses(|x| x.pad((0, 1, 0, 1), 0.0), "divisible");
    refuses(|x| x.clone().sum_dim(2).sum_dim(3) / 1024.0, "number 1024");
    refuses(
        |x| x.clone().sum_dim(2).sum_dim(3) * (1.0 / 1024.0),
        "number",
    );
    refuses(|x| x.clone().mean_dim(2).expand([1, 3, 32, 32]), "repeats");
    refuses(|x| x.reshape([1, 3, 8, 4, 32]), "cuts");
    // Half of it, always 16, or as large as the halved map.
    refuses(|x| sized(x, [16, 16]), "not clear");
    // A linear layer over positions.
    refuses(
        |x| {
            let weight = Tensor::<2>::ones([3072, 4], &x.device());
            x.flatten::<2>(1, 3).matmul(weight)
        },
        "3072",
    );
}

#[test]
fn shapes_that_are_none() {
    let graph = capture(SMALL, halved);
    for shape in [&[1, 3, 32][..], &[1, 3, 0, 32], &[], &[1, 3, usize::MAX, 2]] {
        let refused = graph.resized(shape).unwrap_err();
        assert!(matches!(refused, GraphError::Input { .. }), "{refused}");
    }
    let refused = graph.resized(&[1, 3, 1, 32]).unwrap_err();
    assert!(refused.to_string().contains("does not fit"), "{refused}");
}
