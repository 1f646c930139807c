use super::*;
use crate::buffer::Scratch;
use crate::conv::{Algorithm, Pass};
use crate::epilogue::{Activation, Residual, ResidualPosition};
use crate::testing::{poisoned, random, with_each_isa};
use proptest::prelude::*;

/// Each part by itself, the map written out between.
fn one_by_one(parts: &[Part<'_>], n: usize, x: &[f32], ld: usize) -> Vec<f32> {
    let mut scratch = Scratch::new();
    let (mut from, mut ld) = (x.to_vec(), ld);
    for part in parts {
        let [oh, ow] = part.conv.shape().output_size().unwrap();
        let c = part.conv.shape().c_out;
        let mut to = poisoned(n * oh * ow * c);
        let conv = match part.conv {
            PartConv::Pixels(conv) => conv,
            PartConv::Planes(conv) => {
                let y = MatrixMut::new(&mut to, c);
                conv.run(n, &from, y, &part.epilogue).unwrap();
                (from, ld) = (to, c);
                continue;
            }
        };
        let (x, y) = (Matrix::new(&from, ld), MatrixMut::new(&mut to, c));
        conv.run(n, x, y, &mut scratch, &part.epilogue).unwrap();
        (from, ld) = (to, c);
    }
    from
}

#[derive(Debug, Clone)]
struct Case {
    n: usize,
    size: [usize; 2],
    channels: [usize; 3],
    kernel: usize,
    stride: usize,
    padding: [usize; 4],
    dilation: usize,
    /// Expanded, projected, with a residual.
    with: [bool; 3],
    /// Expanded by a 3 x 3 convolution over planes.
    planes: bool,
    pads: [usize; 2],
}

fn cases() -> impl Strategy<Value = Case> {
    let shape = (
        1usize..10,
        [1usize..40, 1usize..40],
        [1usize..20, 2usize..70, 1usize..40],
    );
    let window = (
        any::<bool>(),
        1usize..6,
        1usize..4,
        [0usize..3, 0usize..3, 0usize..3, 0usize..3],
        1usize..3,
    );
    (shape, window, any::<[bool; 3]>(), [0usize..5, 0usize..5]).prop_map(
        |((n, size, channels), (planes, kernel, stride, padding, dilation), with, pads)| Case {
            n,
            size,
            channels,
            kernel,
            stride,
            padding,
            dilation,
            with,
            planes,
            pads,
        },
    )
}

fn check(case: &Case) {
    let Case {
        n,
        size: [h, w],
        channels: [c_in, c, c_out],
        ..
    } = *case;
    let [with_expand, with_project, with_residual] = case.with;
    let depthwise = Conv2d {
        padding: case.padding,
        dilation: [case.dilation; 2],
        ..Conv2d::new([n, h, w, c], c, [case.kernel; 2])
            .stride(case.stride)
            .groups(c)
    };
    let Ok([oh, ow]) = depthwise.output_size() else {
        return;
    };
    let pack = |shape: Conv2d, algorithm, seed| {
        let weight = random(shape.weight_len(), seed);
        PackedConv::with_algorithm(&shape, Pass::Forward, algorithm, &weight).unwrap()
    };
    let before = pack(
        Conv2d::new([n, h, w, c_in], c, [1, 1]),
        Algorithm::Indirect,
        1,
    );
    let middle = pack(depthwise, Algorithm::Depthwise, 2);
    let behind = pack(
        Conv2d::new([n, oh, ow, c], c_out, [1, 1]),
        Algorithm::Indirect,
        3,
    );
    let stem = Conv2d::new([n, 2 * h, 2 * w, 1 + c_in % 4], c, [3, 3]);
    let stem = stem.stride(2).padding(1);
    let over_planes = PlanesConv::new(&stem, &random(stem.weight_len(), 7)).unwrap();
    let first = if with_expand { c_in } else { c };
    let last = if with_project { c_out } else { c };
    let ld_y = last + case.pads[1];
    let (ld, len) = match case.planes && with_expand {
        true => (2 * w, n * stem.c_in * 4 * h * w),
        false => (first + case.pads[0], n * h * w * (first + case.pads[0])),
    };
    let x = random(len, 4);
    let bias = random(c.max(c_out), 5);
    let other = random(n * oh * ow * last, 6);
    let epilogue = |len: usize, activation| Epilogue {
        bias: Some(&bias[..len]),
        activation,
        ..Epilogue::NONE
    };
    let residual = with_residual.then_some(Residual {
        data: &other,
        ld: last,
        position: ResidualPosition::BeforeActivation,
    });
    let mut block = InvertedResidual {
        expand: with_expand.then_some(Part {
            conv: match case.planes {
                true => PartConv::Planes(&over_planes),
                false => PartConv::Pixels(&before),
            },
            epilogue: epilogue(c, Activation::Silu),
        }),
        depthwise: Part {
            conv: PartConv::Pixels(&middle),
            epilogue: epilogue(c, Activation::Relu6),
        },
        project: with_project.then_some(Part {
            conv: PartConv::Pixels(&behind),
            epilogue: epilogue(c_out, Activation::None),
        }),
    };
    let end = block.project.as_mut().unwrap_or(&mut block.depthwise);
    end.epilogue.residual = residual;
    let parts: Vec<Part<'_>> = block.parts().copied().collect();
    let want = one_by_one(&parts, n, &x, ld);
    let mut y = poisoned(n * oh * ow * ld_y);
    let mut means = (!with_project).then(|| poisoned(n * oh * c));
    block
        .run(
            n,
            Matrix::new(&x, ld),
            MatrixMut::new(&mut y, ld_y),
            means.as_deref_mut(),
        )
        .unwrap();
    for (i, (y, want)) in y.chunks(ld_y).zip(want.chunks(last)).enumerate() {
        assert_eq!(y[..last], *want, "pixel {i} of {case:?}");
        assert!(
            y[last..].iter().all(|y| y.is_nan()),
            "written beside pixel {i} of {case:?}"
        );
    }
    let Some(means) = means else { return };
    // As the depthwise convolution writes them by itself.
    let parts = &parts[..parts.len() - 1];
    let (x, ld) = match parts {
        [] => (x, ld),
        parts => (one_by_one(parts, n, &x, ld), c),
    };
    let (mut y, mut alone) = (poisoned(n * oh * ow * c), poisoned(n * oh * c));
    let (x, y) = (Matrix::new(&x, ld), MatrixMut::new(&mut y, c));
    let epilogue = &block.depthwise.epilogue;
    let done = middle.run_with_means(n, x, y, &mut alone, epilogue);
    done.unwrap();
    assert_eq!(means, alone, "means of {case:?}");
    for (row, means) in means.chunks(c).enumerate() {
        for (channel, mean) in means.iter().enumerate() {
            let pixels = &want[row * ow * c..(row + 1) * ow * c];
            let column = pixels.iter().skip(channel).step_by(c);
            let (sum, size) = column.fold((0.0, 0.0), |(sum, size), x| {
                (sum + f64::from(*x), size + f64::from(x.abs()))
            });
            let error = (f64::from(*mean) - sum / ow as f64).abs();
            assert!(error <= 1e-6 * size, "mean of row {row} of {case:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn the_same_numbers_as_one_by_one(case in cases()) {
        with_each_isa(|_| check(&case));
    }
}

#[test]
fn panels_of_a_small_map() {
    let case = Case {
        n: 3,
        size: [7, 8],
        channels: [20, 150, 24],
        kernel: 5,
        stride: 1,
        padding: [2; 4],
        dilation: 1,
        with: [true, false, true],
        planes: false,
        pads: [3, 8],
    };
    with_each_isa(|_| {
        for stride in [1, 2] {
            check(&Case {
                stride,
                ..case.clone()
            });
        }
    });
}

#[test]
fn many_strips_of_a_wide_map() {
    let case = Case {
        n: 2,
        size: [40, 61],
        channels: [16, 96, 24],
        kernel: 3,
        stride: 2,
        padding: [1; 4],
        dilation: 1,
        with: [true; 3],
        planes: false,
        pads: [0, 8],
    };
    with_each_isa(|_| {
        for stride in [1, 2, 4] {
            check(&Case {
                stride,
                planes: stride == 1,
                ..case.clone()
            });
            check(&Case {
                stride,
                kernel: 5,
                padding: [2; 4],
                ..case.clone()
            });
        }
    });
}

#[test]
fn parts_that_do_not_fit_are_refused() {
    let pack = |shape: Conv2d| {
        PackedConv::new(&shape, Pass::Forward, &vec![0.0; shape.weight_len()]).unwrap()
    };
    let middle = pack(Conv2d::new([1, 8, 8, 32], 32, [3, 3]).padding(1).groups(32));
    let narrow = pack(Conv2d::new([1, 8, 8, 8], 24, [1, 1]));
    let part = |conv| Part {
        conv: PartConv::Pixels(conv),
        epilogue: Epilogue::NONE,
    };
    let alone = InvertedResidual {
        expand: None,
        depthwise: part(&middle),
        project: None,
    };
    let (x, mut y) = (vec![0.0; 8 * 8 * 32], vec![0.0; 8 * 8 * 32]);
    let mut run = |block: InvertedResidual<'_>, n: usize| {
        block.run(n, Matrix::new(&x, 32), MatrixMut::new(&mut y, 32), None)
    };
    assert!(run(alone, 1).is_ok());
    assert!(run(alone, 2).is_err(), "too few images");
    assert!(
        run(
            InvertedResidual {
                expand: Some(part(&narrow)),
                ..alone
            },
            1
        )
        .is_err()
    );
    assert!(
        run(
            InvertedResidual {
                depthwise: part(&narrow),
                ..alone
            },
            1
        )
        .is_err()
    );
}
