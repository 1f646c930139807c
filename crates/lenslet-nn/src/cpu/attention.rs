//! Attention.

use burn::tensor::Tensor;
use lenslet_kernels::{Attention, AttentionGradients, AttentionSaved, Matrix, MatrixMut};

use super::CHECKED;
use super::op::{CpuOp, Values, input, label, run};
use super::recycle::Space;
use crate::timing::{Label, Way, timed};

/// `[N, L, 3 * C]`, queries, keys and values side by side, to `[N, L, C]`.
pub(crate) fn self_attention(qkv: &Tensor<3>, heads: usize) -> Option<Tensor<3>> {
    let [n, length, width] = qkv.dims();
    if heads == 0 || width % (3 * heads) != 0 || n * length * width == 0 {
        return None;
    }
    let op = AttentionOp(Attention::new(n, length, heads, width / 3 / heads));
    let (y, ()) = run(op, [input(qkv)?]);
    Some(y)
}

/// Queries `[N, Q, C]`, and `[N, L, 2 * C]`, keys and values side by side, to `[N, Q, C]`.
pub(crate) fn attention_to(q: &Tensor<3>, kv: &Tensor<3>, heads: usize) -> Option<Tensor<3>> {
    let ([n, queries, width], [_, keys, _]) = (q.dims(), kv.dims());
    let numbers = n * queries * keys * width;
    if heads == 0 || width % heads != 0 || numbers == 0 || kv.dims() != [n, keys, 2 * width] {
        return None;
    }
    let op = Attention {
        queries,
        ..Attention::new(n, keys, heads, width / heads)
    };
    let (y, ()) = run(AttentionOp(op), [input(q)?, input(kv)?]);
    Some(y)
}

/// Attention of one input, queries, keys and values side by side, or of two, the queries and the others side by side.
#[derive(Debug, Clone)]
struct AttentionOp(Attention);

impl AttentionOp {
    fn channels(&self) -> usize {
        self.0.heads * self.0.dim
    }

    /// The label of a pass of so many products of tokens by tokens.
    fn label_of(&self, products: usize) -> Label {
        let Attention {
            batch,
            queries,
            keys,
            heads,
            dim,
            ..
        } = self.0;
        Label {
            macs: products * batch * heads * queries * keys * dim,
            ..label("attention", &[batch, queries, heads, dim])
        }
    }

    fn parts<'a>(&self, inputs: &'a [Values]) -> [Matrix<'a>; 3] {
        let channels = self.channels();
        let part = |input: &'a Values, i: usize, parts: usize| {
            Matrix::new(&input.data()[i * channels..], parts * channels)
        };
        match inputs {
            [q, kv] => [part(q, 0, 1), part(kv, 0, 2), part(kv, 1, 2)],
            _ => [0, 1, 2].map(|i| part(&inputs[0], i, 3)),
        }
    }
}

impl<const N: usize> CpuOp<N> for AttentionOp {
    /// Inputs, output, and the logarithms of the softmax's sums.
    type Saved = ([Values; N], Values, Vec<f32>);
    type Extra = ();

    const TIMES_PARTS: bool = true;

    fn label(&self) -> Label {
        self.label_of(2)
    }

    fn forward(&self, inputs: [Values; N]) -> (Values, Self::Saved, ()) {
        let (op, channels) = (&self.0, self.channels());
        let mut log_sums = vec![0.0; op.batch * op.heads * op.queries];
        let y = Values::written(&[op.batch, op.queries, channels], |y| {
            let [q, k, v] = self.parts(&inputs);
            op.forward(q, k, v, MatrixMut::new(y, channels), Some(&mut log_sums))
                .expect(CHECKED);
        });
        (y.clone(), (inputs, y, log_sums), ())
    }

    fn backward(
        &self,
        (inputs, y, log_sums): Self::Saved,
        dy: Values,
        _: [bool; N],
    ) -> [Option<Values>; N] {
        let (op, channels) = (&self.0, self.channels());
        let gradients = || {
            let [q, k, v] = self.parts(&inputs);
            let saved = AttentionSaved {
                q,
                k,
                v,
                out: Matrix::new(y.data(), channels),
                log_sums: &log_sums,
                d_out: Matrix::new(dy.data(), channels),
            };
            let mut spaces = inputs
                .each_ref()
                .map(|input| Space::new(input.data().len()));
            let gradients = match &mut spaces[..] {
                [dq, others] => {
                    AttentionGradients::JoinedKeys(MatrixMut::new(dq, channels), others)
                }
                all => AttentionGradients::Joined(&mut all[0]),
            };
            op.backward(saved, gradients).expect(CHECKED);
            let mut shapes = inputs.iter().map(Values::shape);
            spaces.map(|space| {
                let shape = shapes.next().expect("as many as inputs");
                Some(Values::filled(space, shape))
            })
        };
        // The scores are computed again.
        timed(|| self.label_of(5), Way::Backward, gradients)
    }
}
