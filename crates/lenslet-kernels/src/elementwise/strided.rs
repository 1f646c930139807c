//! Functions of every element, and of all elements along some dimensions, of tensors that lie in memory in any order.

use crate::error::KernelError;
use crate::pool::{SharedMut, parallel_for};

/// Elements that a task reads at least, where there are so many.
const GRAIN: usize = 8 << 10;
/// Outputs of a reduction that are computed at once.
const BLOCK: usize = 16;

/// A dimension that `T` tensors have together: its length, and the floats from one element to the next in each of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Dim<const T: usize> {
    len: usize,
    strides: [usize; T],
}

/// Dimensions, the outermost first.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Dims<const T: usize>(Vec<Dim<T>>);

impl<const T: usize> Dims<T> {
    /// The dimensions of a shape, in the order in which the last tensor lies in memory; those that follow one another in every tensor
    /// are one.
    fn new(shape: &[usize], strides: [&[usize]; T]) -> Result<Self, KernelError> {
        if strides.iter().any(|strides| strides.len() != shape.len()) {
            return Err(refusal(format!("strides {strides:?} of {shape:?}")));
        }
        let dim = |d: usize| Dim {
            len: shape[d],
            strides: strides.map(|strides| strides[d]),
        };
        let mut dims: Vec<Dim<T>> = (0..shape.len()).map(dim).collect();
        dims.retain(|dim| dim.len != 1);
        dims.sort_by_key(|dim| std::cmp::Reverse(dim.strides[T - 1]));
        let mut joined: Vec<Dim<T>> = Vec::new();
        for dim in dims {
            match joined.last_mut() {
                Some(outer) if outer.strides == dim.strides.map(|s| s.saturating_mul(dim.len)) => {
                    outer.len *= dim.len;
                    outer.strides = dim.strides;
                }
                _ => joined.push(dim),
            }
        }
        Ok(Self(joined))
    }

    fn is_empty(&self) -> bool {
        self.0.iter().any(|dim| dim.len == 0)
    }

    fn count(&self) -> usize {
        self.0.iter().map(|dim| dim.len).product()
    }

    /// Floats from the first to behind the last element of tensor `t`.
    fn reach(&self, t: usize) -> usize {
        if self.is_empty() {
            return 0;
        }
        let ends = (self.0.iter()).map(|dim| (dim.len - 1).saturating_mul(dim.strides[t]));
        ends.fold(1, usize::saturating_add)
    }

    /// Whether no two elements of the last tensor are one.
    fn lie_apart(&self) -> bool {
        (0..self.0.len())
            .all(|d| self.0[d].strides[T - 1] >= Dims(self.0[d + 1..].to_vec()).reach(T - 1))
    }

    /// Where the `i`th combination of places lies in each of the tensors.
    fn offsets(&self, mut i: usize) -> [usize; T] {
        let mut offsets = [0; T];
        for dim in self.0.iter().rev() {
            for (offset, stride) in offsets.iter_mut().zip(dim.strides) {
                *offset += i % dim.len * stride;
            }
            i /= dim.len;
        }
        offsets
    }

    /// The dimensions but the last one, and that.
    fn split(mut self) -> (Self, Dim<T>) {
        let last = self.0.pop().unwrap_or(Dim {
            len: 1,
            strides: [1; T],
        });
        (self, last)
    }
}

fn refusal(why: String) -> KernelError {
    KernelError::Shape {
        what: "strided tensors",
        why,
    }
}

fn expect(what: &'static str, found: usize, expected: usize) -> Result<(), KernelError> {
    if found < expected {
        return Err(KernelError::Length {
            what,
            expected,
            found,
        });
    }
    Ok(())
}

/// A function of two tensors element by element: the loops over tensors of given strides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ElementMap {
    outer: Dims<3>,
    inner: Dim<3>,
    reach: [usize; 3],
}

impl ElementMap {
    /// For tensors `a`, `b` and `y` of a shape, whose neighbouring elements lie so many floats apart in each dimension; 0 repeats one.
    ///
    /// # Errors
    ///
    /// If there is not a stride for every dimension, or elements of `y` lie at the same place.
    pub fn new(shape: &[usize], strides: [&[usize]; 3]) -> Result<Self, KernelError> {
        let dims = Dims::new(shape, strides)?;
        if !dims.lie_apart() {
            return Err(refusal(format!(
                "strides {:?} of {shape:?} overlap",
                strides[2]
            )));
        }
        let reach = [0, 1, 2].map(|t| dims.reach(t));
        let (outer, inner) = dims.split();
        Ok(Self {
            outer,
            inner,
            reach,
        })
    }

    /// y = f(a, b).
    ///
    /// # Errors
    ///
    /// If a slice ends before the last element.
    pub fn run(
        &self,
        a: &[f32],
        b: &[f32],
        y: &mut [f32],
        f: impl Fn(f32, f32) -> f32 + Sync,
    ) -> Result<(), KernelError> {
        for (what, len, reach) in [
            ("first operand", a.len(), self.reach[0]),
            ("second operand", b.len(), self.reach[1]),
            ("result", y.len(), self.reach[2]),
        ] {
            expect(what, len, reach)?;
        }
        let Dim { len, strides } = self.inner;
        let outer = self.outer.count();
        if len * outer == 0 {
            return Ok(());
        }
        // A task takes a piece of the inner dimension or several whole ones.
        let pieces = len.div_ceil(GRAIN);
        let whole = (GRAIN / len).max(1);
        let y = SharedMut::new(y);
        parallel_for(outer.div_ceil(whole) * pieces, |task| {
            let (first, piece) = (task / pieces * whole, task % pieces);
            let start = piece * GRAIN;
            let n = GRAIN.min(len - start);
            for i in first..(first + whole).min(outer) {
                let [from_a, from_b, to] = self.outer.offsets(i);
                let [a, b] = [
                    &a[from_a + start * strides[0]..],
                    &b[from_b + start * strides[1]..],
                ];
                let to = to + start * strides[2];
                if strides[2] == 1 {
                    // SAFETY: elements lie apart and every task has its own.
                    let y = unsafe { y.slice(to, n) };
                    run_of(strides, a, b, y, &f);
                } else {
                    for j in 0..n {
                        // SAFETY: as above; inside of `y` as its reach is.
                        unsafe {
                            let value = f(a[j * strides[0]], b[j * strides[1]]);
                            *y.as_mut_ptr().add(to + j * strides[2]) = value;
                        }
                    }
                }
            }
        });
        Ok(())
    }
}

/// Elements that follow one another in `y`.
fn run_of(strides: [usize; 3], a: &[f32], b: &[f32], y: &mut [f32], f: &impl Fn(f32, f32) -> f32) {
    match strides {
        [1, 1, _] => {
            for ((y, &a), &b) in y.iter_mut().zip(a).zip(b) {
                *y = f(a, b);
            }
        }
        [1, 0, _] => {
            let b = b[0];
            y.iter_mut().zip(a).for_each(|(y, &a)| *y = f(a, b));
        }
        [0, 1, _] => {
            let a = a[0];
            y.iter_mut().zip(b).for_each(|(y, &b)| *y = f(a, b));
        }
        [of_a, of_b, _] => {
            for (j, y) in y.iter_mut().enumerate() {
                *y = f(a[j * of_a], b[j * of_b]);
            }
        }
    }
}

/// One number of all elements along some dimensions: the loops over tensors of given strides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reduce {
    outer: Dims<2>,
    inner: Dim<2>,
    along: Dims<1>,
    reach: [usize; 2],
}

impl Reduce {
    /// For `x` of a shape and `y`, which has length 1 in the dimensions `along`, with the floats between neighbouring elements of both.
    ///
    /// # Errors
    ///
    /// If there is not a stride for every dimension, or elements of `y` lie at the same place.
    pub fn new(
        shape: &[usize],
        along: &[usize],
        [x, y]: [&[usize]; 2],
    ) -> Result<Self, KernelError> {
        let is_along = |d: &usize| along.contains(d);
        let (gone, kept): (Vec<usize>, Vec<usize>) = (0..shape.len()).partition(is_along);
        let pick = |from: &[usize], dims: &[usize]| -> Vec<usize> {
            dims.iter().filter_map(|&d| from.get(d).copied()).collect()
        };
        let kept_dims = Dims::new(&pick(shape, &kept), [&pick(x, &kept), &pick(y, &kept)])?;
        let along = Dims::new(&pick(shape, &gone), [&pick(x, &gone)])?;
        if !kept_dims.lie_apart() {
            return Err(refusal(format!("strides {y:?} of {shape:?} overlap")));
        }
        let of_x = match kept_dims.is_empty() || along.is_empty() {
            true => 0,
            false => kept_dims.reach(0).saturating_add(along.reach(0) - 1),
        };
        let reach = [of_x, kept_dims.reach(1)];
        let (outer, inner) = kept_dims.split();
        Ok(Self {
            outer,
            inner,
            along,
            reach,
        })
    }

    /// How many elements become one.
    pub fn count(&self) -> usize {
        self.along.count()
    }

    /// y = end(step(… step(step(start, x0), x1) …)), in the order in which the elements lie in memory.
    ///
    /// # Errors
    ///
    /// If a slice ends before the last element.
    pub fn run(
        &self,
        x: &[f32],
        y: &mut [f32],
        start: f64,
        step: impl Fn(f64, f64) -> f64 + Sync,
        end: impl Fn(f64) -> f64 + Sync,
    ) -> Result<(), KernelError> {
        expect("reduced tensor", x.len(), self.reach[0])?;
        expect("result", y.len(), self.reach[1])?;
        let Dim { len, strides } = self.inner;
        let (outer, each) = (self.outer.count(), self.along.count());
        let blocks = len.div_ceil(BLOCK) * outer;
        if blocks == 0 {
            return Ok(());
        }
        let at_once = (GRAIN / (each * BLOCK.min(len)).max(1)).max(1);
        let y = SharedMut::new(y);
        parallel_for(blocks.div_ceil(at_once), |task| {
            for block in task * at_once..((task + 1) * at_once).min(blocks) {
                let (i, first) = (block % outer, block / outer * BLOCK);
                let n = BLOCK.min(len - first);
                let [from, to] = self.outer.offsets(i);
                let (from, to) = (from + first * strides[0], to + first * strides[1]);
                let mut sums = [start; BLOCK];
                walk(&self.along.0, from, &mut |at| {
                    for j in 0..n {
                        sums[j] = step(sums[j], f64::from(x[at + j * strides[0]]));
                    }
                });
                for j in 0..n {
                    // SAFETY: elements lie apart, every block has its own, and all lie inside of `y` as its reach does.
                    unsafe { *y.as_mut_ptr().add(to + j * strides[1]) = end(sums[j]) as f32 };
                }
            }
        });
        Ok(())
    }
}

/// Visits every place of some dimensions.
fn walk(dims: &[Dim<1>], at: usize, visit: &mut impl FnMut(usize)) {
    match dims {
        [] => visit(at),
        [last] => (0..last.len).for_each(|i| visit(at + i * last.strides[0])),
        [dim, rest @ ..] => (0..dim.len).for_each(|i| walk(rest, at + i * dim.strides[0], visit)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{poisoned, random};
    use proptest::prelude::*;

    /// Strides of a tensor whose dimensions lie in memory in the order of `keys`, with a gap of some floats behind each row.
    fn strides(shape: &[usize], keys: &[usize], gap: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..shape.len()).collect();
        order.sort_by_key(|&d| keys[d]);
        let mut strides = vec![0; shape.len()];
        let mut next = 1;
        for &d in &order {
            strides[d] = next;
            next = next * shape[d] + gap;
        }
        strides
    }

    fn places(shape: &[usize]) -> Vec<Vec<usize>> {
        let mut all = vec![vec![]];
        for &len in shape {
            all = (all.iter())
                .flat_map(|place| (0..len).map(|i| [&place[..], &[i]].concat()))
                .collect();
        }
        all
    }

    fn at(place: &[usize], strides: &[usize]) -> usize {
        place.iter().zip(strides).map(|(i, s)| i * s).sum()
    }

    fn shapes() -> impl Strategy<Value = (Vec<usize>, [Vec<usize>; 3], Vec<bool>, [usize; 2])> {
        (0usize..5).prop_flat_map(|rank| {
            let keys = || prop::collection::vec(0usize..9, rank);
            (
                prop::collection::vec(1usize..7, rank),
                [keys(), keys(), keys()],
                prop::collection::vec(any::<bool>(), rank),
                [0usize..3, 0usize..3],
            )
        })
    }

    proptest! {
        #[test]
        fn maps_are_the_function_of_every_element((shape, keys, repeated, gaps) in shapes(), swap: bool) {
            let mut of_a = strides(&shape, &keys[0], gaps[0]);
            let of_b = strides(&shape, &keys[1], 0);
            for (stride, _) in of_a.iter_mut().zip(&repeated).filter(|(_, repeated)| **repeated) {
                *stride = 0;
            }
            let of_y = strides(&shape, &keys[2], gaps[1]);
            let operands = if swap { [&of_b, &of_a] } else { [&of_a, &of_b] };
            let map = ElementMap::new(&shape, [operands[0], operands[1], &of_y]).unwrap();
            let [a, b] = [0, 1].map(|t| random(map.reach[t], t as u64 + 1));
            let mut y = poisoned(map.reach[2]);
            map.run(&a, &b, &mut y, |a, b| a - 2.0 * b).unwrap();
            let mut written = 0;
            for place in places(&shape) {
                let (a, b) = (a[at(&place, operands[0])], b[at(&place, operands[1])]);
                prop_assert_eq!(y[at(&place, &of_y)], a - 2.0 * b);
                written += 1;
            }
            prop_assert_eq!(y.iter().filter(|y| !y.is_nan()).count(), written);
        }

        #[test]
        fn reductions_are_the_sums_along_dimensions((shape, keys, gone, gaps) in shapes()) {
            let along: Vec<usize> = (0..shape.len()).filter(|&d| gone[d]).collect();
            let left: Vec<usize> = (0..shape.len()).map(|d| if gone[d] { 1 } else { shape[d] }).collect();
            let of_x = strides(&shape, &keys[0], gaps[0]);
            let of_y = strides(&left, &keys[1], gaps[1]);
            let reduce = Reduce::new(&shape, &along, [&of_x, &of_y]).unwrap();
            let x = random(reduce.reach[0], 3);
            let mut y = poisoned(reduce.reach[1]);
            reduce.run(&x, &mut y, 0.0, |sum, x| sum + x, |sum| sum / 2.0).unwrap();
            for place in places(&left) {
                let inside = |other: &&Vec<usize>| (0..shape.len()).all(|d| gone[d] || other[d] == place[d]);
                let all = places(&shape);
                let sum: f64 = all.iter().filter(inside).map(|p| f64::from(x[at(p, &of_x)])).sum();
                let found = f64::from(y[at(&place, &of_y)]);
                // A rounding to 32 bits of sums of at most 1296 numbers below 1.
                prop_assert!((found - sum / 2.0).abs() < 1e-4, "{} is not {}", found, sum / 2.0);
            }
        }
    }

    #[test]
    fn long_rows_are_cut_for_threads() {
        let n = 3 * GRAIN + 5;
        let (a, b) = (random(n, 1), random(n, 2));
        let map = ElementMap::new(&[1, n], [&[n, 1], &[0, 1], &[n, 1]]).unwrap();
        let mut y = poisoned(n);
        map.run(&a, &b, &mut y, |a, b| a * b).unwrap();
        assert!((0..n).all(|i| y[i] == a[i] * b[i]));
        let reduce = Reduce::new(&[40, n], &[1], [&[0, 1], &[1, 1]]).unwrap();
        let mut most = poisoned(40);
        let largest = a.iter().copied().fold(f32::MIN, f32::max);
        reduce
            .run(&a, &mut most, f64::MIN, f64::max, |x| x)
            .unwrap();
        assert!(most.iter().all(|&x| x == largest));
        assert_eq!(reduce.count(), n);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert!(ElementMap::new(&[2, 3], [&[3, 1], &[3], &[3, 1]]).is_err());
        assert!(ElementMap::new(&[2, 3], [&[3, 1], &[3, 1], &[2, 1]]).is_err());
        assert!(Reduce::new(&[2, 3], &[0], [&[3, 1], &[0, 0]]).is_err());
        let map = ElementMap::new(&[2, 3], [&[3, 1], &[0, 0], &[3, 1]]).unwrap();
        assert!(map.run(&[0.0; 5], &[0.0], &mut [0.0; 6], f32::max).is_err());
        assert!(map.run(&[0.0; 6], &[], &mut [0.0; 6], f32::max).is_err());
        assert!(map.run(&[0.0; 6], &[0.0], &mut [0.0; 5], f32::max).is_err());
        let none = ElementMap::new(&[0, 3], [&[3, 1], &[0, 0], &[3, 1]]).unwrap();
        assert!(none.run(&[], &[], &mut [], f32::max).is_ok());
    }
}
