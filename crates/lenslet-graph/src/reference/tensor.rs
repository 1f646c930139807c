//! Tensors of the reference execution.

use crate::Floats;

/// Numbers in row-major order. Integers and truth values (0 and 1) are numbers as well.
#[derive(Debug, Clone)]
pub(super) struct Tensor {
    pub shape: Vec<usize>,
    data: Floats,
}

impl Tensor {
    pub fn new(shape: Vec<usize>, numbers: Vec<f32>) -> Self {
        Self::shared(shape, numbers.into())
    }

    pub fn shared(shape: Vec<usize>, data: Floats) -> Self {
        debug_assert_eq!(shape.iter().product::<usize>(), data.len());
        Self { shape, data }
    }

    /// The tensor with `number(index)` at every index.
    pub fn from_fn(shape: &[usize], mut number: impl FnMut(&[usize]) -> f64) -> Self {
        let len = shape.iter().product();
        let mut numbers = Vec::with_capacity(len);
        let mut index = vec![0; shape.len()];
        for _ in 0..len {
            numbers.push(number(&index) as f32);
            for (i, &size) in index.iter_mut().zip(shape).rev() {
                *i += 1;
                if *i < size {
                    break;
                }
                *i = 0;
            }
        }
        Self::new(shape.to_vec(), numbers)
    }

    pub fn numbers(&self) -> &[f32] {
        &self.data
    }

    pub fn reshaped(&self, shape: Vec<usize>) -> Self {
        Self::shared(shape, self.data.clone())
    }

    /// The number at an index.
    pub fn at(&self, index: &[usize]) -> f64 {
        let sizes = self.shape.iter().zip(index);
        f64::from(self.data[sizes.fold(0, |offset, (size, i)| offset * size + i)])
    }

    /// The number at an index of a tensor that this one broadcasts to: dimensions are aligned at
    /// the end, those of length 1 are repeated.
    pub fn broadcast(&self, index: &[usize]) -> f64 {
        let extra = index.len() - self.shape.len();
        let sizes = self.shape.iter().zip(&index[extra..]);
        let offset = sizes.fold(0, |offset, (&size, &i)| {
            offset * size + if size == 1 { 0 } else { i }
        });
        f64::from(self.data[offset])
    }

    /// The sizes of a tensor of rank 4.
    pub fn dims4(&self) -> [usize; 4] {
        [self.shape[0], self.shape[1], self.shape[2], self.shape[3]]
    }
}
