//! The random numbers of shuffling and augmentation.
//!
//! A run is resumed bit for bit, so the sequence behind a seed is a contract. It is therefore defined here
//! (xoshiro256++, seeded through SplitMix64; Blackman and Vigna 2021, "Scrambled Linear Pseudorandom Number
//! Generators") and not left to a crate whose derived draws may change with its version. A generator is keyed by what
//! it is for, the seed, the epoch and the sample, and is cheap to make: each sample gets its own, so that what happens
//! to a picture does not depend on which worker prepared it, or when.

/// What a stream of random numbers is used for. Streams of different purposes are independent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The order of the samples in an epoch.
    Shuffle,
    /// The augmentation of one sample.
    Augment,
    /// The mixing of one batch (mixup, cutmix).
    Mix,
    /// The division of a dataset into training and validation parts.
    Split,
    /// The drawing of one scene.
    Scene,
}

/// A seeded generator: xoshiro256++.
#[derive(Clone, Debug)]
pub struct Rng {
    state: [u64; 4],
}

/// One step of SplitMix64: advances `state` and returns the next value.
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Rng {
    /// The generator of one `purpose` under `seed`, for one `epoch` and one `item` (a sample's index in its dataset,
    /// or a batch's number; 0 where there is none).
    pub fn keyed(seed: u64, purpose: Purpose, epoch: u64, item: u64) -> Self {
        let mut key = seed;
        for word in [purpose as u64 + 1, epoch, item] {
            key = split_mix(&mut key) ^ word;
        }
        let mut state = [0; 4];
        for s in &mut state {
            *s = split_mix(&mut key);
        }
        Self { state }
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        let s = &mut self.state;
        let result = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// A number in `0..bound`, without bias (Lemire 2019); 0 when `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 {
            return 0;
        }
        let threshold = bound.wrapping_neg() % bound;
        loop {
            let wide = u128::from(self.next_u64()) * u128::from(bound);
            if wide as u64 >= threshold {
                return (wide >> 64) as u64;
            }
        }
    }

    /// A number in `[0, 1)`, with 53 random bits.
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// A number in `[low, high)`; `low` when the two are equal.
    pub fn range(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// True with probability `p`.
    pub fn chance(&mut self, p: f64) -> bool {
        self.unit() < p
    }

    /// A number from Beta(`alpha`, `alpha`), `alpha` above 0: the share of one of two equal gamma variates.
    pub fn beta(&mut self, alpha: f64) -> f64 {
        // Logarithms, since both variates underflow for small alpha.
        let (a, b) = (self.ln_gamma_variate(alpha), self.ln_gamma_variate(alpha));
        1.0 / (1.0 + (b - a).exp())
    }

    /// The logarithm of a number from Gamma(`shape`, 1) (Marsaglia and Tsang 2000; shapes below 1 by their boost).
    fn ln_gamma_variate(&mut self, shape: f64) -> f64 {
        if shape < 1.0 {
            let boost = (1.0 - self.unit()).ln() / shape;
            return self.ln_gamma_variate(shape + 1.0) + boost;
        }
        let d = shape - 1.0 / 3.0;
        let c = 1.0 / (9.0 * d).sqrt();
        loop {
            let x = self.normal();
            let v = (1.0 + c * x).powi(3);
            let u = 1.0 - self.unit();
            if v > 0.0 && u.ln() < 0.5 * x * x + d - d * v + d * v.ln() {
                return (d * v).ln();
            }
        }
    }

    /// A number from the standard normal distribution (Marsaglia's polar method).
    fn normal(&mut self) -> f64 {
        loop {
            let (x, y) = (self.range(-1.0, 1.0), self.range(-1.0, 1.0));
            let r = x * x + y * y;
            if r > 0.0 && r < 1.0 {
                return x * (-2.0 * r.ln() / r).sqrt();
            }
        }
    }

    /// Puts `items` in random order (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            let j = self.below(i as u64 + 1) as usize;
            items.swap(i, j);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Purpose, Rng, split_mix};
    use proptest::prelude::*;

    /// The values that the authors' C programs print.
    #[test]
    fn published_vectors() {
        let mut s = 1_234_567;
        let first: Vec<u64> = (0..3).map(|_| split_mix(&mut s)).collect();
        assert_eq!(
            first,
            [
                6_457_827_717_110_365_317,
                3_203_168_211_198_807_973,
                9_817_491_932_198_370_423
            ]
        );
        let mut rng = Rng {
            state: [1, 2, 3, 4],
        };
        let first: Vec<u64> = (0..5).map(|_| rng.next_u64()).collect();
        assert_eq!(
            first,
            [
                41_943_041,
                58_720_359,
                3_588_806_011_781_223,
                3_591_011_842_654_386,
                9_228_616_714_210_784_205
            ]
        );
    }

    /// The contract: these orders stay as they are, or runs made before cannot be resumed.
    #[test]
    fn the_order_behind_a_seed_is_fixed() {
        let mut order: Vec<u32> = (0..10).collect();
        Rng::keyed(42, Purpose::Shuffle, 3, 0).shuffle(&mut order);
        assert_eq!(order, FIXED_ORDER);
    }
    const FIXED_ORDER: [u32; 10] = [5, 6, 4, 0, 9, 7, 8, 2, 3, 1];

    #[test]
    fn every_part_of_the_key_counts() {
        let base = Rng::keyed(1, Purpose::Augment, 2, 3).next_u64();
        for other in [
            Rng::keyed(2, Purpose::Augment, 2, 3),
            Rng::keyed(1, Purpose::Shuffle, 2, 3),
            Rng::keyed(1, Purpose::Augment, 3, 3),
            Rng::keyed(1, Purpose::Augment, 3, 2),
            Rng::keyed(1, Purpose::Augment, 2, 4),
        ] {
            assert_ne!(base, other.clone().next_u64());
        }
    }

    proptest! {
        #[test]
        fn draws_stay_in_range(seed: u64, bound in 1u64.., low in -10.0..10.0, width in 0.0..10.0) {
            let mut rng = Rng::keyed(seed, Purpose::Augment, 0, 0);
            prop_assert!(rng.below(bound) < bound);
            let x = rng.range(low, low + width);
            prop_assert!(x >= low && x <= low + width);
        }

        #[test]
        fn shuffling_permutes(seed: u64, n in 0usize..200) {
            let mut items: Vec<usize> = (0..n).collect();
            Rng::keyed(seed, Purpose::Shuffle, 0, 0).shuffle(&mut items);
            items.sort_unstable();
            prop_assert_eq!(items, (0..n).collect::<Vec<_>>());
        }
    }
}
