//! Attention.

use burn::tensor::Tensor;
use lenslet_kernels::{Attention, AttentionGradients, AttentionSaved, Matrix, MatrixMut};

use super::CHECKED;
use super::op::{CpuOp, Values, input, label, run};
use crate::timing::{Label, Way, timed};

/// `[N, L, 3 * C]`, queries, keys and values side by side, to `[N, L, C]`.
pub(crate) fn self_attention(qkv: &Tensor<3>, heads: usize) -> Option<Tensor<3>> {
    let [n, length, width] = qkv.dims();
    if heads == 0 || width % (3 * heads) != 0 || n * length * width == 0 {
        return None;
    }
    let op = SelfAttention(Attention::new(n, length, heads, width / 3 / heads));
    let (y, ()) = run(op, [input(qkv)?]);
    Some(y)
}

#[derive(Debug, Clone)]
struct SelfAttention(Attention);

impl SelfAttention {
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

    fn parts<'a>(&self, qkv: &'a Values) -> [Matrix<'a>; 3] {
        let channels = self.channels();
        [0, 1, 2].map(|i| Matrix::new(&qkv.data()[i * channels..], 3 * channels))
    }
}

impl CpuOp<1> for SelfAttention {
    /// Input, output, and the logarithms of the softmax's sums.
    type Saved = (Values, Values, Vec<f32>);
    type Extra = ();

    const TIMES_PARTS: bool = true;

    fn label(&self) -> Label {
        self.label_of(2)
    }

    fn forward(&self, [qkv]: [Values; 1]) -> (Values, Self::Saved, ()) {
        let (op, channels) = (&self.0, self.channels());
        let mut log_sums = vec![0.0; op.batch * op.heads * op.queries];
        let y = Values::written(&[op.batch, op.queries, channels], |y| {
            let [q, k, v] = self.parts(&qkv);
            op.forward(q, k, v, MatrixMut::new(y, channels), Some(&mut log_sums))
                .expect(CHECKED);
        });
        (y.clone(), (qkv, y, log_sums), ())
    }

    fn backward(
        &self,
        (qkv, y, log_sums): Self::Saved,
        dy: Values,
        _: [bool; 1],
    ) -> [Option<Values>; 1] {
        let (op, channels) = (&self.0, self.channels());
        let gradient = || {
            Values::written(&[op.batch, op.queries, 3 * channels], |d| {
                let [q, k, v] = self.parts(&qkv);
                let saved = AttentionSaved {
                    q,
                    k,
                    v,
                    out: Matrix::new(y.data(), channels),
                    log_sums: &log_sums,
                    d_out: Matrix::new(dy.data(), channels),
                };
                op.backward(saved, AttentionGradients::Joined(d))
                    .expect(CHECKED);
            })
        };
        // The scores are computed again.
        [Some(timed(|| self.label_of(5), Way::Backward, gradient))]
    }
}
