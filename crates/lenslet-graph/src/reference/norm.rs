//! Normalisation.

use super::tensor::Tensor;

pub(super) fn batch_norm(inputs: &[Tensor], eps: f64) -> Tensor {
    let [x, weight, bias, mean, variance] = [0, 1, 2, 3, 4].map(|i| &inputs[i]);
    Tensor::from_fn(&x.shape, |at| {
        let channel = &at[1..2];
        let centred = x.at(at) - mean.at(channel);
        let scale = weight.at(channel) / (variance.at(channel) + eps).sqrt();
        centred * scale + bias.at(channel)
    })
}

pub(super) fn layer_norm(inputs: &[Tensor], eps: f64) -> Tensor {
    let (x, weight) = (&inputs[0], &inputs[1]);
    let features = weight.shape[0];
    let mut numbers = Vec::with_capacity(x.numbers().len());
    for row in x.numbers().chunks_exact(features) {
        let row: Vec<f64> = row.iter().map(|&v| f64::from(v)).collect();
        let mean = row.iter().sum::<f64>() / features as f64;
        let squares = row.iter().map(|v| (v - mean).powi(2));
        let deviation = (squares.sum::<f64>() / features as f64 + eps).sqrt();
        for (i, value) in row.iter().enumerate() {
            let normal = (value - mean) / deviation * weight.at(&[i]);
            let bias = inputs.get(2).map_or(0.0, |bias| bias.at(&[i]));
            numbers.push((normal + bias) as f32);
        }
    }
    Tensor::new(x.shape.clone(), numbers)
}

pub(super) fn softmax(x: &Tensor, dim: usize, logarithm: bool) -> Tensor {
    let along = |at: &[usize]| -> Vec<f64> {
        let mut place = at.to_vec();
        let values = (0..x.shape[dim]).map(|i| {
            place[dim] = i;
            x.at(&place)
        });
        values.collect()
    };
    Tensor::from_fn(&x.shape, |at| {
        let row = along(at);
        let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = row.iter().map(|v| (v - largest).exp()).sum();
        let shifted = x.at(at) - largest;
        if logarithm {
            shifted - sum.ln()
        } else {
            shifted.exp() / sum
        }
    })
}
