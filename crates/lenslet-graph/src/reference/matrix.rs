//! Matrix products and attention.

use super::tensor::Tensor;
use crate::Op;

pub(super) fn matmul(a: &Tensor, b: &Tensor, shape: &[usize]) -> Tensor {
    let rank = shape.len();
    let (inner, columns) = (a.shape[rank - 1], b.shape[rank - 1]);
    // Where a matrix among those that broadcast starts.
    let offset = |t: &Tensor, at: &[usize]| {
        let sizes = t.shape[..rank - 2].iter().zip(at);
        let matrix = sizes.fold(0, |offset, (&size, &i)| {
            offset * size + if size == 1 { 0 } else { i }
        });
        matrix * t.shape[rank - 2] * t.shape[rank - 1]
    };
    // The row of the product that is being read.
    let mut row = vec![0.0; columns];
    Tensor::from_fn(shape, |at| {
        if at[rank - 1] == 0 {
            let factors = &a.numbers()[offset(a, at) + at[rank - 2] * inner..][..inner];
            let matrix = &b.numbers()[offset(b, at)..];
            row.fill(0.0);
            for (factor, line) in factors.iter().zip(matrix.chunks(columns)) {
                for (sum, number) in row.iter_mut().zip(line) {
                    *sum += f64::from(*factor) * f64::from(*number);
                }
            }
        }
        row[at[rank - 1]]
    })
}

/// `softmax(queries * keys^T * scale + bias) * values`; a row without a visible position gives 0.
pub(super) fn attention(op: &Op, inputs: &[Tensor], shape: &[usize]) -> Tensor {
    let &Op::Attention {
        scale,
        softcap,
        causal,
        mask,
        bias,
    } = op
    else {
        unreachable!("called for attention only")
    };
    let [queries, keys, values] = [&inputs[0], &inputs[1], &inputs[2]];
    let [_, _, length, depth] = queries.dims4();
    let positions = keys.shape[2];
    let mask = mask.then(|| &inputs[3]);
    let bias = bias.then(|| &inputs[inputs.len() - 1]);
    let scale = scale.unwrap_or(1.0 / (depth as f64).sqrt());
    let score = |[n, h, l]: [usize; 3], s: usize| {
        let at = [n, h, l, s];
        let hidden = causal && s + length > l + positions;
        if hidden || mask.is_some_and(|mask| mask.broadcast(&at) != 0.0) {
            return f64::NEG_INFINITY;
        }
        let products = (0..depth).map(|d| queries.at(&[n, h, l, d]) * keys.at(&[n, h, s, d]));
        let score = products.sum::<f64>() * scale;
        let score = softcap.map_or(score, |cap| cap * (score / cap).tanh());
        score + bias.map_or(0.0, |bias| bias.broadcast(&at))
    };
    let mut row = ([usize::MAX; 3], Vec::new());
    Tensor::from_fn(shape, |at| {
        let query = [at[0], at[1], at[2]];
        if row.0 != query {
            let scores: Vec<f64> = (0..positions).map(|s| score(query, s)).collect();
            row = (query, weights(&scores));
        }
        let products = row.1.iter().enumerate();
        let products = products.map(|(s, w)| w * values.at(&[at[0], at[1], s, at[3]]));
        products.sum()
    })
}

fn weights(scores: &[f64]) -> Vec<f64> {
    let largest = scores.iter().copied().fold(f64::MIN, f64::max);
    let powers: Vec<f64> = scores.iter().map(|s| (s - largest).exp()).collect();
    let sum = powers.iter().sum::<f64>().max(f64::MIN_POSITIVE);
    powers.iter().map(|p| p / sum).collect()
}
