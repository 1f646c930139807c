//! Layers against plain, slow definitions of what they compute.

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use lenslet_nn::{
    Activation, AdaptiveAvgPool2d, AvgPool2d, BatchNorm2d, BatchNorm2dConfig, Conv2dConfig,
    ConvTranspose2dConfig, Dropout, GroupNorm, Init, Interpolation, LayerNormConfig,
    LocalResponseNorm, MaxPool2d, Padding, Sequential, StochasticDepth, channel_shuffle,
    forward_sequential, load_state_dict, resize, self_attention, state_dict, tap,
};

/// A feature map `[N, H, W, C]` of repeatable values around zero.
fn map(shape: [usize; 4], device: &Device) -> Tensor<4> {
    let values: Vec<f32> = (0..shape.iter().product::<usize>())
        .map(|i| ((i * 7919 + 13) % 1009) as f32 / 504.5 - 1.0)
        .collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

fn values<const D: usize>(x: &Tensor<D>) -> Vec<f32> {
    x.to_data().try_to_vec().unwrap()
}

#[track_caller]
fn assert_close(got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len());
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!(
            (g - w).abs() <= 2e-5 * (1.0 + w.abs()),
            "{i}: {g} instead of {w}"
        );
    }
}

/// Applies `f` to the values of every window, channel by channel; positions outside are `None`.
fn pooled(
    x: &Tensor<4>,
    windows: impl Fn(usize) -> Vec<std::ops::Range<i64>>,
    f: impl Fn(Vec<Option<f32>>) -> f32,
) -> Vec<f32> {
    let [n, h, w, c] = x.dims();
    let data = values(x);
    let at = |b: usize, y: i64, x: i64, ch: usize| {
        let inside = (0..h as i64).contains(&y) && (0..w as i64).contains(&x);
        inside.then(|| data[((b * h + y as usize) * w + x as usize) * c + ch])
    };
    let mut result = Vec::new();
    for b in 0..n {
        for rows in windows(h) {
            for columns in windows(w) {
                for ch in 0..c {
                    let cells = rows
                        .clone()
                        .flat_map(|y| columns.clone().map(move |x| (y, x)));
                    result.push(f(cells.map(|(y, x)| at(b, y, x, ch)).collect()));
                }
            }
        }
    }
    result
}

/// PyTorch's windows: in ceil mode a last one that starts inside the input or its padding.
fn windows(size: usize, [k, s, p]: [usize; 3], ceil: bool) -> Vec<std::ops::Range<i64>> {
    let free = size + 2 * p - k;
    let mut count = (if ceil { free.div_ceil(s) } else { free / s }) + 1;
    if ceil && (count - 1) * s >= size + p {
        count -= 1;
    }
    let start = |i: usize| (i * s) as i64 - p as i64;
    (0..count).map(|i| start(i)..start(i) + k as i64).collect()
}

fn mean(cells: &[f32], count: usize) -> f32 {
    cells.iter().sum::<f32>() / count as f32
}

#[test]
fn max_pooling() {
    let device = Device::flex();
    for (size, [k, s, p], ceil) in [
        (7, [2, 2, 0], false),
        (7, [2, 2, 0], true),
        (8, [3, 2, 1], false),
        (9, [3, 2, 0], true),
        (8, [3, 2, 0], true),
        (5, [3, 1, 1], true),
        (6, [2, 3, 0], true),
        (2, [3, 2, 1], false),
    ] {
        let x = map([2, size, size + 1, 3], &device);
        let layer = MaxPool2d::new(k, s).with_padding(p).with_ceil_mode(ceil);
        let expected = pooled(
            &x,
            |size| windows(size, [k, s, p], ceil),
            |cells| cells.into_iter().flatten().fold(f32::MIN, f32::max),
        );
        assert_close(&values(&layer.forward(x)), &expected);
    }
}

#[test]
fn average_pooling() {
    let device = Device::flex();
    for (size, [k, s, p], count_pad) in [
        (7, [2, 2, 0], true),
        (6, [3, 1, 1], true),
        (6, [3, 1, 1], false),
        (9, [5, 3, 2], true),
        (17, [5, 3, 0], true),
    ] {
        let x = map([2, size, size + 2, 3], &device);
        let layer = AvgPool2d::new(k, s)
            .with_padding(p)
            .with_count_include_pad(count_pad);
        let expected = pooled(
            &x,
            |size| windows(size, [k, s, p], false),
            |cells| {
                let all = cells.len();
                let inside: Vec<f32> = cells.into_iter().flatten().collect();
                mean(&inside, if count_pad { all } else { inside.len() })
            },
        );
        assert_close(&values(&layer.forward(x)), &expected);
    }
}

#[test]
fn adaptive_pooling_up_and_down() {
    let device = Device::flex();
    for (size, output) in [
        (1, 7),
        (2, 7),
        (7, 7),
        (14, 7),
        (13, 6),
        (5, 3),
        (2, 6),
        (9, 1),
    ] {
        let x = map([2, size, size + 1, 3], &device);
        let windows = |size: usize| {
            let edges = |i: usize| (i * size / output, ((i + 1) * size).div_ceil(output));
            (0..output)
                .map(|i| edges(i).0 as i64..edges(i).1 as i64)
                .collect()
        };
        let expected = pooled(&x, windows, |cells| {
            let inside: Vec<f32> = cells.into_iter().flatten().collect();
            mean(&inside, inside.len())
        });
        assert_close(
            &values(&AdaptiveAvgPool2d::new(output).forward(x)),
            &expected,
        );
    }
}

fn batch_norm(device: &Device) -> BatchNorm2d {
    BatchNorm2dConfig::new(2).init(&mut Init::seeded(device, 0))
}

/// Channel 0 holds 1, 3, 5, 7 (mean 4, biased variance 5, unbiased 20 / 3), channel 1 ten times.
fn batch(device: &Device) -> Tensor<4> {
    let pixels = [1.0f32, 3.0, 5.0, 7.0];
    let pixels: Vec<f32> = pixels.iter().flat_map(|v| [*v, 10.0 * v]).collect();
    Tensor::from_data(TensorData::new(pixels, [1, 2, 2, 2]), device)
}

#[test]
fn batch_norm_trains_as_pytorch_does() {
    let device = Device::flex().autodiff();
    let layer = batch_norm(&device);
    let y = values(&layer.forward(batch(&device)));
    let std = (5f32 + 1e-5).sqrt();
    assert_close(&[y[0], y[6]], &[-3.0 / std, 3.0 / std]);
    assert_close(&values(&layer.running_mean.get()), &[0.4, 4.0]);
    let unbiased = 20.0 / 3.0;
    let var = |scale: f32| 0.9 + 0.1 * scale * unbiased;
    assert_close(&values(&layer.running_var.get()), &[var(1.0), var(100.0)]);

    // Without training it uses those statistics and leaves them alone.
    let plain = layer.valid();
    let y = values(&plain.forward(batch(&Device::flex())));
    assert_close(&y[..1], &[(1.0 - 0.4) / (var(1.0) + 1e-5).sqrt()]);
    assert_close(&values(&plain.running_mean.get()), &[0.4, 4.0]);
}

#[test]
fn frozen_batch_norm_keeps_its_statistics() {
    let device = Device::flex().autodiff();
    let layer = batch_norm(&device).freeze();
    let y = values(&layer.forward(batch(&device)));
    assert_close(&y[..1], &[1.0 / (1f32 + 1e-5).sqrt()]);
    assert_close(&values(&layer.running_mean.get()), &[0.0, 0.0]);
}

#[test]
fn batch_norm_trains_again_after_a_validation() {
    let layer = batch_norm(&Device::flex().autodiff()).valid().train();
    let device = Device::flex().autodiff();
    layer.forward(batch(&device));
    assert_close(&values(&layer.running_mean.get()), &[0.4, 4.0]);
    let gradients = layer.forward(batch(&device)).square().sum().backward();
    assert!(layer.weight.val().grad(&gradients).is_some());
}

#[test]
fn clones_of_a_buffer_are_independent() {
    let device = Device::flex().autodiff();
    let layer = batch_norm(&device);
    let copy = layer.clone();
    layer.forward(batch(&device));
    assert_close(&values(&copy.running_mean.get()), &[0.0, 0.0]);
    assert_close(&values(&layer.running_mean.get()), &[0.4, 4.0]);
    let names: Vec<String> = state_dict(&layer)
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    assert_eq!(
        names,
        [
            "weight",
            "bias",
            "running_mean",
            "running_var",
            "num_batches_tracked"
        ]
    );
    let loaded = load_state_dict(copy, state_dict(&layer)).unwrap();
    assert_close(&values(&loaded.running_mean.get()), &[0.4, 4.0]);
}

#[test]
fn norms_over_channels() {
    let device = Device::flex();
    let x = map([2, 3, 4, 6], &device);
    let data = values(&x);
    let normalise = |cells: &[f32]| -> Vec<f32> {
        let m = mean(cells, cells.len());
        let var = cells.iter().map(|v| (v - m).powi(2)).sum::<f32>() / cells.len() as f32;
        cells
            .iter()
            .map(|v| (v - m) / (var + 1e-5).sqrt())
            .collect()
    };
    let mut init = Init::seeded(&device, 0);
    let layer = LayerNormConfig::new(6).init(&mut init);
    let expected: Vec<f32> = data.chunks(6).flat_map(normalise).collect();
    assert_close(&values(&layer.forward(x.clone())), &expected);
    let layer = GroupNorm::new(1, 6, &mut init);
    let expected: Vec<f32> = data.chunks(3 * 4 * 6).flat_map(normalise).collect();
    assert_close(&values(&layer.forward(x.clone())), &expected);

    let layer = LocalResponseNorm::new(5, 1e-4, 0.75, 2.0);
    let expected: Vec<f32> = (0..data.len())
        .map(|i| {
            let (start, c) = (i / 6 * 6, i % 6);
            let near = c.saturating_sub(2)..(c + 3).min(6);
            let squares: f32 = near.map(|c| data[start + c].powi(2)).sum();
            data[i] / (2.0 + 1e-4 * squares / 5.0).powf(0.75)
        })
        .collect();
    assert_close(&values(&layer.forward(x)), &expected);
}

#[test]
fn same_padding_is_tensorflows() {
    let device = Device::flex();
    for (size, kernel, stride, padding) in [
        (224, 3, 2, (0, 1)),
        (225, 3, 2, (1, 1)),
        (112, 5, 2, (1, 2)),
        (7, 3, 1, (1, 1)),
        (8, 1, 2, (0, 0)),
    ] {
        let conv = Conv2dConfig::new(2, 3, kernel)
            .with_stride(stride)
            .with_padding_mode(Padding::Same)
            .init(&mut Init::seeded(&device, 0));
        assert_eq!(conv.options([size, size]).padding, [padding; 2]);
        let output = conv.forward(Tensor::zeros([1, size, size, 2], &device));
        assert_eq!(
            output.dims(),
            [1, size.div_ceil(stride), size.div_ceil(stride), 3]
        );
    }
}

#[test]
fn transposed_convolution_spreads_every_pixel() {
    let device = Device::flex();
    let layer = ConvTranspose2dConfig::new(2, 3, 2, 2).init(&mut Init::seeded(&device, 0));
    let x = map([1, 2, 3, 2], &device);
    let (input, weight, bias) = (
        values(&x),
        values(&layer.weight.val()),
        values(&layer.bias.val()),
    );
    let mut expected = Vec::new();
    for (y, column) in (0..4).flat_map(|y| (0..6).map(move |x| (y, x))) {
        for to in 0..3 {
            let tap = (y % 2) * 2 + column % 2;
            let pixel = ((y / 2) * 3 + column / 2) * 2;
            let sum: f32 = (0..2)
                .map(|from| input[pixel + from] * weight[(from * 3 + to) * 4 + tap])
                .sum();
            expected.push(sum + bias[to]);
        }
    }
    assert_close(&values(&layer.forward(x)), &expected);
}

#[test]
fn fused_units_give_what_their_parts_give() {
    let device = Device::flex();
    let mut init = Init::seeded(&device, 5);
    let layers: Sequential = vec![
        Conv2dConfig::new(3, 4, 3)
            .with_padding(1)
            .init(&mut init)
            .into(),
        BatchNorm2dConfig::new(4).init(&mut init).into(),
        Activation::Relu.into(),
        Conv2dConfig::new(4, 4, 1).init(&mut init).into(),
        BatchNorm2dConfig::new(4).init(&mut init).into(),
    ];
    let x = map([2, 5, 6, 3], &device);
    let fused = values(&forward_sequential(&layers, x.clone()));
    let (parts, taps) = tap::record(["0", "2", "9"], || forward_sequential(&layers, x));
    assert_close(&fused, &values(&parts));
    assert_eq!(taps.keys().collect::<Vec<_>>(), ["0", "2"]);
    assert_eq!(taps["2"].shape().to_vec(), [2, 5, 6, 4]);
    assert!(!tap::is_recording());
}

#[test]
fn dropout_acts_in_training_only() {
    let (plain, training) = (Device::flex(), Device::flex().autodiff());
    let dropout = Dropout::new(0.25);
    let ones = |device| Tensor::<4>::ones([4, 16, 16, 16], device);
    assert!(
        values(&dropout.forward(ones(&plain)))
            .iter()
            .all(|v| *v == 1.0)
    );
    let frozen = dropout.clone().freeze();
    assert!(
        values(&frozen.forward(ones(&training)))
            .iter()
            .all(|v| *v == 1.0)
    );
    let y = values(&dropout.forward(ones(&training)));
    let kept = y.iter().filter(|v| **v != 0.0).count() as f32 / y.len() as f32;
    assert!((kept - 0.75).abs() < 0.02, "{kept}");
    assert!(
        y.iter()
            .all(|v| *v == 0.0 || (*v - 1.0 / 0.75).abs() < 1e-6)
    );

    let depth = StochasticDepth::new(0.5);
    let y = values(&depth.add(
        Tensor::<4>::ones([64, 2, 2, 2], &training),
        Tensor::zeros([64, 2, 2, 2], &training),
    ));
    let images: Vec<&[f32]> = y.chunks(8).collect();
    assert!(
        images
            .iter()
            .all(|image| image.iter().all(|v| *v == image[0]))
    );
    assert!(images.iter().any(|image| image[0] == 0.0));
    assert!(images.iter().any(|image| image[0] == 2.0));
    assert!(
        values(&StochasticDepth::new(1.0).add(
            Tensor::<4>::ones([4, 2, 2, 2], &training),
            Tensor::zeros([4, 2, 2, 2], &training),
        ))
        .iter()
        .all(|v| *v == 0.0)
    );
}

#[test]
fn attention_is_a_weighted_mean_of_the_values() {
    let device = Device::flex();
    let (heads, channels, length) = (2, 4, 3);
    let qkv = map([1, 1, length, 3 * channels], &device);
    let data = values(&qkv);
    let width = channels / heads;
    let bias = map([1, heads, length, length], &device);
    let offsets = values(&bias);
    let at = |token: usize, part: usize, head: usize, i: usize| {
        data[token * 3 * channels + part * channels + head * width + i]
    };
    let mut expected = vec![0.0f32; length * channels];
    for head in 0..heads {
        for q in 0..length {
            let score = |k: usize| {
                let dot: f32 = (0..width)
                    .map(|i| at(q, 0, head, i) * at(k, 1, head, i))
                    .sum();
                dot / (width as f32).sqrt() + offsets[(head * length + q) * length + k]
            };
            let weights: Vec<f32> = (0..length).map(|k| score(k).exp()).collect();
            let total: f32 = weights.iter().sum();
            for i in 0..width {
                let sum: f32 = (0..length).map(|k| weights[k] * at(k, 2, head, i)).sum();
                expected[q * channels + head * width + i] = sum / total;
            }
        }
    }
    let tokens = qkv.reshape([1, length, 3 * channels]);
    assert_close(
        &values(&self_attention(tokens, heads, Some(bias))),
        &expected,
    );
}

#[test]
fn activations_at_known_points() {
    let points = [-4.0f32, -1.0, 0.0, 0.5, 7.0];
    let x = Tensor::<1>::from_data(&points[..], &Device::flex());
    let logistic = |v: f32| 1.0 / (1.0 + (-v).exp());
    let hard = |v: f32| (v / 6.0 + 0.5).clamp(0.0, 1.0);
    let check = |activation: Activation, f: &dyn Fn(f32) -> f32| {
        assert_close(&values(&activation.forward(x.clone())), &points.map(f));
    };
    check(Activation::Relu, &|v| v.max(0.0));
    check(Activation::Relu6, &|v| v.clamp(0.0, 6.0));
    check(Activation::LeakyRelu { slope: 0.1 }, &|v| {
        if v > 0.0 { v } else { 0.1 * v }
    });
    check(Activation::Silu, &|v| v * logistic(v));
    check(Activation::HardSwish, &|v| v * hard(v));
    check(Activation::HardSigmoid, &hard);
    check(Activation::Sigmoid, &logistic);
    check(Activation::Tanh, &f32::tanh);
    let tanh_gelu = |v: f32| {
        let inner = (2.0 / std::f32::consts::PI).sqrt() * (v + 0.044715 * v.powi(3));
        0.5 * v * (1.0 + inner.tanh())
    };
    check(Activation::GeluTanh, &tanh_gelu);
    // erf from tables: erf(1 / sqrt(2)) = 0.682689492, erf(0.5 / sqrt(2)) = 0.382924923.
    let gelu = values(&Activation::Gelu.forward(x.clone()));
    assert_close(&gelu[1..], &[-0.158_655_25, 0.0, 0.345_731_23, 7.0]);
}

#[test]
fn shuffling_and_resizing() {
    let device = Device::flex();
    let row = |values: &[f32], shape: [usize; 4]| {
        Tensor::<4>::from_data(TensorData::new(values.to_vec(), shape), &device)
    };
    let x = row(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0], [1, 1, 1, 6]);
    assert_eq!(
        values(&channel_shuffle(x, 2)),
        [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]
    );
    let x = row(&[0.0, 1.0, 2.0], [1, 1, 3, 1]);
    let nearest = resize(x.clone(), [1, 5], Interpolation::Nearest);
    assert_eq!(values(&nearest), [0.0, 0.0, 1.0, 1.0, 2.0]);
    let corners = Interpolation::Bilinear {
        align_corners: true,
    };
    assert_close(
        &values(&resize(x.clone(), [1, 5], corners)),
        &[0.0, 0.5, 1.0, 1.5, 2.0],
    );
    let centres = Interpolation::Bilinear {
        align_corners: false,
    };
    assert_close(
        &values(&resize(x, [1, 6], centres)),
        &[0.0, 0.25, 0.75, 1.25, 1.75, 2.0],
    );
}
