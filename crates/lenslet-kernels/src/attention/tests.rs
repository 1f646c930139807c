use super::*;
use crate::testing::{assert_close, poisoned, random, with_each_isa};
use proptest::prelude::*;

/// Output, log sums, and gradients of q, k, v; all compact, in f64.
struct Reference {
    out: Vec<f64>,
    log_sums: Vec<f64>,
    gradients: [Vec<f64>; 3],
}

fn reference(
    shape: &Attention,
    [q, k, v, d_out]: [&[f32]; 4],
    bias: Option<ScoreBias<'_>>,
) -> Reference {
    let Attention {
        batch,
        queries,
        keys,
        heads,
        dim,
        scale,
    } = *shape;
    let width = heads * dim;
    let at = |x: &[f32], row: usize, col: usize| f64::from(x[row * width + col]);
    let mut out = vec![0.0; batch * queries * width];
    let mut log_sums = Vec::new();
    let mut gradients =
        [batch * queries, batch * keys, batch * keys].map(|rows| vec![0.0; rows * width]);
    for image in 0..batch {
        for head in 0..heads {
            for query in 0..queries {
                let (row, cols) = (image * queries + query, head * dim..(head + 1) * dim);
                let scores: Vec<f64> = (0..keys)
                    .map(|key| {
                        let added = bias.map_or(0.0, |bias| {
                            let row = (image % bias.images * heads + head) * queries + query;
                            bias.data[row * keys + key]
                        });
                        let product = cols
                            .clone()
                            .map(|c| at(q, row, c) * at(k, image * keys + key, c));
                        f64::from(scale) * product.sum::<f64>() + f64::from(added)
                    })
                    .collect();
                let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let log_sum = most + scores.iter().map(|x| (x - most).exp()).sum::<f64>().ln();
                log_sums.push(log_sum);
                let p: Vec<f64> = scores.iter().map(|x| (x - log_sum).exp()).collect();
                let dp: Vec<f64> = (0..keys)
                    .map(|key| {
                        cols.clone()
                            .map(|c| at(d_out, row, c) * at(v, image * keys + key, c))
                            .sum()
                    })
                    .collect();
                let inner: f64 = p.iter().zip(&dp).map(|(p, d)| p * d).sum();
                for key in 0..keys {
                    let key_row = image * keys + key;
                    let slope = f64::from(scale) * p[key] * (dp[key] - inner);
                    for c in cols.clone() {
                        out[row * width + c] += p[key] * at(v, key_row, c);
                        gradients[0][row * width + c] += slope * at(k, key_row, c);
                        gradients[1][key_row * width + c] += slope * at(q, row, c);
                        gradients[2][key_row * width + c] += p[key] * at(d_out, row, c);
                    }
                }
            }
        }
    }
    Reference {
        out,
        log_sums,
        gradients,
    }
}

fn check(shape: &Attention, seed: u64) {
    let Attention {
        batch,
        queries,
        keys,
        heads,
        dim,
        ..
    } = *shape;
    let width = heads * dim;
    let [q, k, v, d_out] = [(queries, 0), (keys, 1), (keys, 2), (queries, 3)].map(|(rows, i)| {
        let mut x = random(batch * rows * width, seed ^ i);
        x.iter_mut().for_each(|x| *x *= 2.0);
        x
    });
    let want = reference(shape, [&q, &k, &v, &d_out], None);
    with_each_isa(|_| {
        let mut out = poisoned(want.out.len());
        let mut log_sums = poisoned(want.log_sums.len());
        let views = [&q, &k, &v].map(|x| Matrix::new(x, width));
        let [q_view, k_view, v_view] = views;
        shape
            .forward(
                q_view,
                k_view,
                v_view,
                MatrixMut::new(&mut out, width),
                Some(&mut log_sums),
            )
            .unwrap();
        assert_close("attention", &out, &want.out, 1e-5);
        assert_close("log sums", &log_sums, &want.log_sums, 1e-5);
        let saved = AttentionSaved {
            q: q_view,
            k: k_view,
            v: v_view,
            out: Matrix::new(&out, width),
            log_sums: &log_sums,
            d_out: Matrix::new(&d_out, width),
        };
        let [mut dq, mut dk, mut dv] = [q.len(), k.len(), v.len()].map(poisoned);
        let separate = [&mut dq, &mut dk, &mut dv].map(|x| MatrixMut::new(x, width));
        shape
            .backward(saved, AttentionGradients::Separate(separate))
            .unwrap();
        let tolerance = 2e-6 * (8.0 + (queries.max(keys) as f64).sqrt() * dim as f64);
        for (name, (got, want)) in ["dq", "dk", "dv"]
            .iter()
            .zip([&dq, &dk, &dv].iter().zip(&want.gradients))
        {
            assert_close(name, got, want, tolerance);
        }
        // The same numbers to a matrix and to one buffer.
        let mut queries_alone = poisoned(q.len());
        let mut others = poisoned(2 * k.len());
        let joined =
            AttentionGradients::JoinedKeys(MatrixMut::new(&mut queries_alone, width), &mut others);
        shape.backward(saved, joined).unwrap();
        assert!(queries_alone == dq);
        for (i, row) in others.chunks(width).enumerate() {
            let part = [&dk, &dv][i % 2];
            assert_eq!(row, &part[i / 2 * width..(i / 2 + 1) * width]);
        }
        if queries != keys {
            return;
        }
        // The same numbers from and to one buffer.
        let mut qkv = Vec::new();
        for i in 0..batch * queries {
            for x in [&q, &k, &v] {
                qkv.extend_from_slice(&x[i * width..(i + 1) * width]);
            }
        }
        let [q, k, v] = [0, 1, 2].map(|i| Matrix::new(&qkv[i * width..], 3 * width));
        let mut again = poisoned(out.len());
        shape
            .forward(q, k, v, MatrixMut::new(&mut again, width), None)
            .unwrap();
        assert_eq!(again, out);
        let mut joined = poisoned(qkv.len());
        shape
            .backward(
                AttentionSaved { q, k, v, ..saved },
                AttentionGradients::Joined(&mut joined),
            )
            .unwrap();
        for (i, row) in joined.chunks(width).enumerate() {
            let part = [&dq, &dk, &dv][i % 3];
            assert_eq!(row, &part[i / 3 * width..(i / 3 + 1) * width]);
        }
    });
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let shape = Attention::new(1, 150, 2, 24);
    let width = shape.heads * shape.dim;
    let qkv = random(3 * shape.queries * width, 5);
    let [q, k, v] = [0, 1, 2].map(|i| Matrix::new(&qkv[i * width..], 3 * width));
    let before = crate::pool::num_threads();
    with_each_isa(|_| {
        let [one, two, five] = [1, 2, 5].map(|threads| {
            crate::pool::set_num_threads(threads);
            let mut out = poisoned(shape.queries * width);
            shape
                .forward(q, k, v, MatrixMut::new(&mut out, width), None)
                .unwrap();
            out
        });
        assert!(one == two && one == five);
    });
    crate::pool::set_num_threads(before);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))]

    #[test]
    fn biased_scores_match_the_reference(
        images in 1usize..3, times in 1usize..3, queries in 1usize..60, keys in 1usize..60, heads in 1usize..4,
        dim in 1usize..40, hide: bool, seed: u64,
    ) {
        let shape = Attention { batch: images * times, queries, keys, heads, dim, scale: 1.0 / (dim as f32).sqrt() };
        let width = heads * dim;
        let [q, k, v] = [queries, keys, keys].map(|rows| random(shape.batch * rows * width, seed ^ rows as u64));
        let mut data = random(images * heads * queries * keys, seed ^ 9);
        if hide {
            // As Swin's masks do; a whole row may be hidden.
            data.iter_mut().filter(|x| **x > 0.0).for_each(|x| *x = -100.0);
        }
        let bias = ScoreBias { data: &data, images };
        let want = reference(&shape, [&q, &k, &v, &q], Some(bias));
        with_each_isa(|_| {
            let mut out = poisoned(want.out.len());
            let qkv = [&q, &k, &v].map(|x| Matrix::new(x, width));
            shape.forward_biased(qkv, bias, MatrixMut::new(&mut out, width)).unwrap();
            assert_close("biased attention", &out, &want.out, 1e-5);
        });
    }

    #[test]
    fn attention_matches_the_reference(
        batch in 1usize..3, queries in 1usize..60, keys in 1usize..60, heads in 1usize..4, dim in 1usize..40,
        same: bool, seed: u64,
    ) {
        let keys = if same { queries } else { keys };
        check(&Attention { batch, queries, keys, heads, dim, scale: 1.0 / (dim as f32).sqrt() }, seed);
    }
}

#[test]
fn long_sequences_take_several_tiles() {
    check(&Attention::new(1, 530, 1, 16), 7);
    check(
        &Attention {
            keys: 700,
            ..Attention::new(1, 300, 1, 8)
        },
        8,
    );
}

#[test]
fn large_scores_do_not_overflow() {
    let shape = Attention {
        scale: 100.0,
        ..Attention::new(1, 20, 1, 8)
    };
    let x = random(160, 1);
    let (mut out, mut log_sums) = (poisoned(160), poisoned(20));
    let view = Matrix::new(&x, 8);
    shape
        .forward(
            view,
            view,
            view,
            MatrixMut::new(&mut out, 8),
            Some(&mut log_sums),
        )
        .unwrap();
    assert!(out.iter().chain(&log_sums).all(|x| x.is_finite()));
}

#[test]
fn impossible_shapes_are_refused() {
    let x = [0.0; 8];
    let view = Matrix::new(&x, 8);
    let mut y = [0.0; 8];
    let shapes = [
        Attention::new(1, 0, 1, 8),
        Attention::new(1, 2, 1, 8),
        Attention {
            scale: f32::NAN,
            ..Attention::new(1, 1, 1, 8)
        },
    ];
    for shape in shapes {
        assert!(
            shape
                .forward(view, view, view, MatrixMut::new(&mut y, 8), None)
                .is_err(),
            "{shape:?}"
        );
    }
    let one = Attention::new(1, 1, 1, 8);
    for (data, images) in [(&x[..2], 1), (&x[..2], 2), (&x[..0], 0)] {
        let bias = ScoreBias { data, images };
        let refused = one.forward_biased([view; 3], bias, MatrixMut::new(&mut y, 8));
        assert!(refused.is_err(), "{bias:?}");
    }
}
