//! What a session promises beside the right numbers.

mod common;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use common::{compiled, filled, outputs};
use lenslet_engine::{Engine, EngineError, Options, Session};
use lenslet_graph::{Graph, reference};
use lenslet_kernels::pool;
use lenslet_models::{BuildOptions, variant};
use lenslet_nn::{Conv2d, Conv2dConfig, Init, LocalResponseNorm};
use lenslet_reference::input;

const SIDE: usize = 64;
const IMAGE: usize = 3 * SIDE * SIDE;

fn session(name: &str, batch: usize, options: &Options) -> Session {
    let build = BuildOptions::new(10).with_image_size(SIDE);
    let model = filled(variant(name).expect(name), &build, 5.0);
    compiled(&model, [batch, 3, SIDE, SIDE], options)
}

#[test]
fn any_number_of_images() {
    for name in ["resnet18", "mobilenet_v2"] {
        let (one, four) = (
            session(name, 1, &Options::default()),
            session(name, 4, &Options::default()),
        );
        let images = input("images", 6 * IMAGE);
        let together = four.run(&images).expect("six images, four at a time");
        assert_eq!(together.len(), 60);
        for (i, image) in images.chunks(IMAGE).enumerate() {
            let alone = one.run(image).expect("one image");
            let largest = alone.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            for (a, b) in alone.iter().zip(&together[i * 10..]) {
                // Batches of another size may take another kernel.
                assert!((a - b).abs() <= 1e-5 * largest, "{name}: {a} {b}");
            }
        }
        assert!(four.run(&[]).expect("no images").is_empty());
        let refused = four
            .run(&images[1..])
            .expect_err("no whole number of images");
        assert!(matches!(refused, EngineError::Input { .. }), "{refused}");
        assert!(refused.to_string().contains("[3, 64, 64]"), "{refused}");
    }
}

#[test]
fn other_sizes_without_capturing_again() {
    for name in ["mobilenet_v2", "guide_unet"] {
        let build = BuildOptions::new(10).with_image_size(SIDE);
        let entry = variant(name).expect(name);
        let (model, c) = (filled(entry, &build, 5.0), entry.input[0]);
        let graph = Graph::capture(&model, [1, c, SIDE, SIDE], outputs).expect(name);
        for (h, w) in [(96, 160), (32, 48)] {
            let resized = graph.resized(&[1, c, h, w]).expect(name);
            let resized = Engine::compile_graph(resized, &Options::default()).expect(name);
            let captured = compiled(&model, [1, c, h, w], &Options::default());
            let image = input("image", c * h * w);
            assert_eq!(resized.run(&image).unwrap(), captured.run(&image).unwrap());
        }
    }
}

#[test]
fn threads_at_once_and_any_number_of_them() {
    let session = session("resnet18", 1, &Options::default());
    let images = input("images", 8 * IMAGE);
    let alone: Vec<_> = images
        .chunks(IMAGE)
        .map(|i| session.run(i).unwrap())
        .collect();
    std::thread::scope(|scope| {
        for (image, expected) in images.chunks(IMAGE).zip(&alone) {
            let session = &session;
            scope.spawn(move || {
                for _ in 0..3 {
                    assert_eq!(&session.run(image).unwrap(), expected);
                }
            });
        }
    });
    let before = pool::num_threads();
    for threads in [1, 2, 3] {
        pool::set_num_threads(threads);
        assert_eq!(
            session.run(&images[..IMAGE]).unwrap(),
            alone[0],
            "{threads} threads"
        );
    }
    pool::set_num_threads(before);
}

#[test]
fn every_fusion_changes_nothing_but_the_steps() {
    let off = Options {
        fuse_norms: false,
        fuse_activations: false,
        fuse_residuals: false,
        fuse_gates: false,
        concat_in_place: false,
        row_means: false,
        strips_from: usize::MAX,
        exact: true,
    };
    let image = input("image", IMAGE);
    for name in [
        "resnet18",
        "efficientnet_b0",
        "mobilenet_v2",
        "densenet121",
        "convnext_tiny",
        "googlenet",
    ] {
        let plain = session(name, 1, &off);
        let expected = plain.run(&image).unwrap();
        let largest = expected.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        for i in 0..6 {
            let mut options = off.clone();
            let one = [
                &mut options.fuse_norms,
                &mut options.fuse_activations,
                &mut options.fuse_residuals,
                &mut options.fuse_gates,
                &mut options.concat_in_place,
                &mut options.row_means,
            ];
            for (at, flag) in one.into_iter().enumerate() {
                *flag = at == i;
            }
            let fused = session(name, 1, &options);
            assert!(fused.steps().len() <= plain.steps().len(), "{name} {i}");
            for (a, b) in fused.run(&image).unwrap().iter().zip(&expected) {
                assert!((a - b).abs() <= 1e-5 * largest, "{name} {i}: {a} {b}");
            }
        }
        let in_strips = Options {
            strips_from: 0,
            ..off.clone()
        };
        let found = session(name, 1, &in_strips).run(&image).unwrap();
        assert_eq!(found, expected, "{name}: strips change no number");
        let all = session(name, 1, &Options::default());
        assert!(all.steps().len() < plain.steps().len(), "{name}");
    }
}

#[test]
fn passes_say_what_they_changed() {
    let changes = |model: &str, pass: &str| {
        let session = session(model, 1, &Options::default());
        let passes = session.passes();
        let found = passes.iter().find(|info| info.name == pass);
        found.unwrap_or_else(|| panic!("no pass {pass}")).changes
    };
    // ResNet-18 has 20 convolutions with a batch norm each, 8 residual sums, and a classifier.
    assert_eq!(changes("resnet18", "fold-norms"), 21);
    assert_eq!(changes("resnet18", "fuse-residuals"), 8);
    assert_eq!(changes("resnet18", "recognise-linear"), 1);
    assert_eq!(changes("resnet18", "fuse-gates"), 0);
    assert!(changes("efficientnet_b0", "recognise-activations") > 40);
    assert!(changes("efficientnet_b0", "fuse-gates") > 0);
    // A depthwise convolution and an average in each of 16 blocks.
    assert_eq!(changes("efficientnet_b0", "row-means"), 16);
    assert!(changes("densenet121", "concat-in-place") > 58);
    let off = session(
        "resnet18",
        1,
        &Options {
            fuse_residuals: false,
            ..Options::default()
        },
    );
    let residuals = off
        .passes()
        .into_iter()
        .find(|p| p.name == "fuse-residuals");
    assert_eq!(residuals.map(|p| p.changes), Some(0));
}

#[derive(Module, Debug)]
struct ResponseNet {
    conv: Conv2d,
    norm: LocalResponseNorm,
}

#[test]
fn a_local_response_norm_is_one_step() {
    let mut init = Init::seeded(&Device::flex(), 4);
    for (size, steps) in [(5, 1), (3, 1), (1, 1), (4, 0)] {
        let net = ResponseNet {
            conv: Conv2dConfig::new(3, 20, 3).init(&mut init),
            norm: LocalResponseNorm::new(size, 0.5, 0.75, 2.0),
        };
        let forward = |net: &ResponseNet, x: Tensor<4>| net.norm.forward(net.conv.forward(x));
        let graph = Graph::capture(&net, [2, 7, 6, 3], forward).unwrap();
        let x: Vec<f32> = (0..2 * 7 * 6 * 3)
            .map(|i| (i as f32 * 0.37).sin())
            .collect();
        let want = reference::run(&graph, &[&x]).unwrap().remove(0);
        let session = Engine::compile_graph(graph, &Options::default()).unwrap();
        let kernels = session.steps().into_iter().map(|step| step.kernel);
        assert_eq!(
            kernels
                .filter(|name| *name == "local-response-norm")
                .count(),
            steps,
            "{size}"
        );
        let got = session.run(&x).unwrap();
        let largest = want.iter().fold(0f32, |m, x| m.max(x.abs()));
        for (got, want) in got.iter().zip(&want) {
            // Sums of 27 products and of the neighbours' squares.
            assert!((got - want).abs() <= 1e-5 * largest, "{size}: {got} {want}");
        }
    }
}
