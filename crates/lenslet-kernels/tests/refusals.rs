//! Shapes whose number of elements overflows are refused, however short the slices are.

use lenslet_kernels::{
    Activation, Attention, BatchNorm, Conv2d, Factor, InOut, Interpolation, LayerNorm, Matrix,
    MatrixMut, MaxPool2d, Pool2d, Preactivation, Resize2d, Scaling, Statistics, add_forward,
    batch_statistics, scale_in_place, sum_of_squares, transposed_product,
};

/// With 4 channels or columns, this many rows have 4 elements in wrapping arithmetic.
const ROWS: usize = usize::MAX / 4 + 2;

#[test]
fn rows_times_channels() {
    let (mut x, mut y, mut z) = ([0.0f32; 4], [0.0f32; 4], [0.0f32; 4]);
    let (mut mean, mut variance) = ([0.0f32; 4], [0.0f32; 4]);
    assert!(batch_statistics(ROWS, &x, &mut mean, &mut variance).is_err());
    let norm = BatchNorm {
        mean: &mean,
        inv_std: &variance,
        gamma: None,
        beta: None,
        activation: Activation::None,
    };
    let separate = InOut::Separate(&x, &mut y);
    assert!(norm.forward(ROWS, separate, None).is_err());
    let (statistics, residual) = (Statistics::Frozen, Preactivation::FromInput);
    let gradients = InOut::Separate(&y, &mut z);
    assert!(
        (norm.backward(
            ROWS,
            statistics,
            &x,
            residual,
            gradients,
            None,
            [None, None]
        ))
        .is_err()
    );
    let norm = LayerNorm {
        channels: 4,
        gamma: None,
        beta: None,
        epsilon: 1e-5,
    };
    assert!(norm.forward(ROWS, InOut::InPlace(&mut x), None).is_err());
    let mut c = [0.0f32; 4];
    let matrix = |data| Matrix::new(data, 4);
    assert!(transposed_product(1, matrix(&x), ROWS, matrix(&x), 4, &mut c).is_err());
}

#[test]
fn images_times_pixels_times_channels() {
    let (x, mut y) = ([0.0f32; 4], [0.0f32; 4]);
    let scaling = Scaling {
        samples: 1,
        pixels: ROWS,
        channels: 4,
    };
    let factor = Factor::Samples(&[1.0]);
    let separate = InOut::Separate(&x, &mut y);
    assert!(scaling.forward(separate, factor, None).is_err());
    let resize = Resize2d {
        input: [ROWS, 1, 1, 4],
        output: [1, 1],
        interpolation: Interpolation::Nearest,
    };
    assert!(resize.forward(&x, &mut y).is_err());
    let pool = MaxPool2d::new(Pool2d::new([ROWS, 1, 1, 4], 1, 1));
    assert!(pool.forward(&x, &mut y, None).is_err());
    let attention = Attention::new(ROWS, 1, 1, 4);
    let of = |data| Matrix::new(data, 4);
    assert!((attention.forward(of(&x), of(&x), of(&x), MatrixMut::new(&mut y, 4), None)).is_err());
    let mut dw = [0.0f32; 16];
    let conv = Conv2d {
        n: ROWS,
        h: 1,
        w: 1,
        c_in: 4,
        c_out: 4,
        kernel: [1, 1],
        stride: [1, 1],
        padding: [0; 4],
        dilation: [1, 1],
        groups: 1,
    };
    let mut scratch = lenslet_kernels::Scratch::default();
    assert!(
        conv.weight_gradient(of(&x), of(&x), &mut dw, &mut scratch)
            .is_err()
    );
    let dilated = Conv2d {
        n: 1,
        kernel: [3, 3],
        dilation: [usize::MAX / 2 + 1, 1],
        ..conv
    };
    assert!(dilated.output_size().is_err());
}

#[test]
fn nothing_at_all_is_fine() {
    let empty: [f32; 0] = [];
    assert_eq!(sum_of_squares(&empty), 0.0);
    scale_in_place(2.0, &mut []);
    add_forward(Activation::Relu, InOut::InPlace(&mut []), &empty).expect("no elements");
    let scaling = Scaling {
        samples: 2,
        pixels: 3,
        channels: 0,
    };
    let none = Factor::SampleChannels(&empty);
    let gradients = InOut::Separate(&empty, &mut []);
    (scaling.backward(&empty, none, gradients, &mut [])).expect("no channels");
}
