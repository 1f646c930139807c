use super::*;

/// Applies every operation to lanes of `a`, `b`, `c` and compares with scalar arithmetic.
struct Arithmetic;

impl Kernel for Arithmetic {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let a: Vec<f32> = (0..S::LANES).map(|i| i as f32 * 1.25 - 3.0).collect();
        let b: Vec<f32> = (0..S::LANES)
            .map(|i| 2.5 - i as f32 * 0.5 + 0.125)
            .collect();
        let c: Vec<f32> = (0..S::LANES).map(|i| i as f32).collect();
        let (va, vb, vc) = (s.load_slice(&a), s.load_slice(&b), s.load_slice(&c));
        let check = |name: &str, v: S::V, want: &dyn Fn(f32, f32, f32) -> f32| {
            let mut out = vec![f32::NAN; S::LANES];
            s.store_slice(&mut out, v);
            for i in 0..S::LANES {
                assert_eq!(
                    out[i],
                    want(a[i], b[i], c[i]),
                    "{name}, lane {i}, {}",
                    S::ISA
                );
            }
        };
        check("add", s.add(va, vb), &|a, b, _| a + b);
        check("sub", s.sub(va, vb), &|a, b, _| a - b);
        check("mul", s.mul(va, vb), &|a, b, _| a * b);
        check("div", s.div(va, vb), &|a, b, _| a / b);
        // The inputs are short binary fractions, so fused and unfused agree.
        check("mul_add", s.mul_add(va, vb, vc), &|a, b, c| a * b + c);
        check("neg_mul_add", s.neg_mul_add(va, vb, vc), &|a, b, c| {
            c - a * b
        });
        check("max", s.max(va, vb), &|a, b, _| a.max(b));
        check("min", s.min(va, vb), &|a, b, _| a.min(b));
        check("sqrt", s.sqrt(vc), &|_, _, c| c.sqrt());
        check("abs", s.abs(va), &|a, _, _| a.abs());
        check("neg", s.neg(va), &|a, _, _| -a);
        check("scale", s.scale_by_pow2(va, vc), &|a, _, c| a * c.exp2());
        check(
            "scale down",
            s.scale_by_pow2(va, s.splat(-130.0)),
            &|a, _, _| (a as f64 * (-130f64).exp2()) as f32,
        );
        check("select", s.select(s.lt(va, vb), va, vc), &|a, b, c| {
            if a < b { a } else { c }
        });
        check(
            "eq",
            s.select(s.eq(va, s.splat(a[1])), va, vc),
            &|v, _, c| if v == a[1] { v } else { c },
        );
        assert_eq!(s.reduce_add(vc), c.iter().sum::<f32>());
        assert_eq!(s.reduce_max(va), a.iter().copied().fold(f32::MIN, f32::max));
        assert_eq!(s.reduce_min(vb), b.iter().copied().fold(f32::MAX, f32::min));
        let nan = s.splat(f32::NAN);
        check(
            "max keeps NaN",
            s.select(s.eq(s.max(s.zero(), nan), s.zero()), va, vb),
            &|_, b, _| b,
        );
        for n in 0..=S::LANES {
            let v = s.load_slice(&a[..n]);
            let mut out = vec![7.0; S::LANES];
            s.store_slice(&mut out, v);
            let want: Vec<f32> = (0..S::LANES)
                .map(|i| if i < n { a[i] } else { 0.0 })
                .collect();
            assert_eq!(out, want);
            let mut out = vec![7.0; S::LANES];
            s.store_slice(&mut out[..n], va);
            let want: Vec<f32> = (0..S::LANES)
                .map(|i| if i < n { a[i] } else { 7.0 })
                .collect();
            assert_eq!(out, want);
        }
        let block: Vec<f32> = (0..S::LANES * (S::LANES + 3)).map(|i| i as f32).collect();
        let mut turned = vec![0.0; S::LANES * (S::LANES + 1)];
        // SAFETY: both hold LANES rows with these strides.
        unsafe {
            s.transpose(
                block.as_ptr(),
                S::LANES + 3,
                turned.as_mut_ptr(),
                S::LANES + 1,
            )
        };
        for i in 0..S::LANES {
            for j in 0..S::LANES {
                assert_eq!(
                    turned[j * (S::LANES + 1) + i],
                    block[i * (S::LANES + 3) + j]
                );
            }
        }
        let mut out = vec![0.0; 3 * S::LANES];
        for start in 0..S::LANES {
            // SAFETY: `out` holds three vectors.
            unsafe { s.store_stream(out.as_mut_ptr().add(start), va) };
            s.fence();
            assert_eq!(out[start..start + S::LANES], a[..]);
        }
    }
}

#[test]
fn arithmetic_on_every_set() {
    for isa in Isa::available() {
        dispatch_on(isa, Arithmetic);
    }
}

#[test]
fn names_round_trip() {
    for isa in Isa::ALL {
        assert_eq!(Isa::from_name(isa.name()), Some(isa));
    }
    assert_eq!(Isa::from_name("sse2"), None);
    assert_eq!(Isa::best_up_to(Isa::Portable), Isa::Portable);
    assert!(Isa::available().contains(&isa()));
}
