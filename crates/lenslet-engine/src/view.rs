//! How a value lies in memory.

/// Which memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    /// What the caller gives.
    Input(usize),
    /// A weight or another fixed tensor.
    Constant(usize),
    /// A buffer of the session.
    Buffer(usize),
}

/// A tensor in some memory: element `i` of dimension `d` is `strides[d] * i` floats further.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct View {
    pub place: Place,
    pub offset: usize,
    pub shape: Vec<usize>,
    pub strides: Vec<usize>,
}

/// Rows of floats that lie `ld` apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rows {
    pub place: Place,
    pub offset: usize,
    pub rows: usize,
    pub cols: usize,
    pub ld: usize,
}

/// The strides of a tensor in row-major order.
pub(crate) fn row_major(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i] * shape[i].max(1);
    }
    strides
}

impl View {
    pub fn dense(place: Place, shape: &[usize]) -> Self {
        Self {
            place,
            offset: 0,
            shape: shape.to_vec(),
            strides: row_major(shape),
        }
    }

    /// A feature map `[N, C, H, W]` whose pixels lie `ld` floats apart, channels first in each.
    pub fn pixels(place: Place, offset: usize, shape: &[usize], ld: usize) -> Self {
        let [_, _, h, w] = shape else {
            unreachable!("a feature map has four dimensions")
        };
        Self {
            place,
            offset,
            shape: shape.to_vec(),
            strides: vec![h * w * ld, 1, w * ld, ld],
        }
    }

    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    pub fn permuted(&self, axes: &[usize]) -> Self {
        Self {
            shape: axes.iter().map(|&a| self.shape[a]).collect(),
            strides: axes.iter().map(|&a| self.strides[a]).collect(),
            ..*self
        }
    }

    /// Strides in a tensor of so many dimensions in which this one repeats: along its dimensions of length 1, and new ones in front.
    pub fn repeated(&self, rank: usize) -> Vec<usize> {
        let mut strides = vec![0; rank - self.shape.len()];
        let own = self.shape.iter().zip(&self.strides);
        strides.extend(own.map(|(&size, &stride)| if size == 1 { 0 } else { stride }));
        strides
    }

    /// The same elements in another shape, where strides can say it.
    pub fn reshaped(&self, shape: &[usize]) -> Option<Self> {
        // Runs of dimensions that follow one another in memory, each cut up again on its own.
        let mut strides = vec![0; shape.len()];
        let dims: Vec<(usize, usize)> = (self.shape.iter().copied())
            .zip(self.strides.iter().copied())
            .filter(|(size, _)| *size != 1)
            .collect();
        let mut new = 0;
        let mut old = 0;
        while old < dims.len() {
            let (mut size, mut stride) = dims[old];
            old += 1;
            let mut taken = 1;
            let start = new;
            loop {
                while taken < size && new < shape.len() {
                    taken *= shape[new];
                    new += 1;
                }
                if taken == size {
                    break;
                }
                let &(next, next_stride) = dims.get(old)?;
                if stride != next * next_stride || taken < size {
                    return None;
                }
                (size, stride) = (size * next, next_stride);
                old += 1;
            }
            let mut step = stride;
            for i in (start..new).rev() {
                strides[i] = step;
                step *= shape[i];
            }
        }
        if shape[new..].iter().any(|&size| size != 1) {
            return None;
        }
        Some(Self {
            shape: shape.to_vec(),
            strides,
            ..*self
        })
    }

    /// Whether stride `d` is `want`, or does not matter.
    fn steps(&self, d: usize, want: usize) -> bool {
        self.shape[d] == 1 || self.strides[d] == want
    }

    /// The pixels of a feature map `[N, C, H, W]` as rows of channels.
    pub fn as_pixels(&self) -> Option<Rows> {
        let &[n, c, h, w] = &self.shape[..] else {
            return None;
        };
        let ld = match (w, h, n) {
            (2.., _, _) => self.strides[3],
            (_, 2.., _) => self.strides[2],
            (_, _, 2..) => self.strides[0],
            _ => c,
        };
        let fits = self.steps(1, 1)
            && self.steps(3, ld)
            && self.steps(2, w * ld)
            && self.steps(0, h * w * ld)
            && ld >= c;
        fits.then_some(Rows {
            place: self.place,
            offset: self.offset,
            rows: n * h * w,
            cols: c,
            ld,
        })
    }

    /// Everything but the last dimension as rows.
    pub fn as_rows(&self) -> Option<Rows> {
        let (&cols, outer) = self.shape.split_last()?;
        if !self.steps(outer.len(), 1) {
            return None;
        }
        let rows = outer.iter().product();
        let mut ld = None;
        let mut expected = 0;
        for d in (0..outer.len()).rev() {
            if outer[d] == 1 {
                continue;
            }
            let first = ld.is_none();
            ld.get_or_insert(self.strides[d]);
            if !first && self.strides[d] != expected {
                return None;
            }
            expected = self.strides[d] * outer[d];
        }
        let ld = ld.unwrap_or(cols);
        (ld >= cols).then_some(Rows {
            place: self.place,
            offset: self.offset,
            rows,
            cols,
            ld,
        })
    }

    /// Whether the elements lie without gaps, in whatever order.
    pub fn is_dense(&self) -> bool {
        let mut dims: Vec<(usize, usize)> = (self.strides.iter().copied())
            .zip(self.shape.iter().copied())
            .filter(|(_, size)| *size != 1)
            .collect();
        dims.sort_unstable();
        let mut expected = 1;
        dims.into_iter().all(|(stride, size)| {
            let fits = stride == expected;
            expected *= size;
            fits
        })
    }

    /// Whether the elements lie without gaps in row-major order.
    pub fn is_row_major(&self) -> bool {
        let mut expected = 1;
        (0..self.shape.len()).rev().all(|d| {
            let fits = self.steps(d, expected);
            expected *= self.shape[d].max(1);
            fits
        })
    }

    /// Whether elements of both lie at the same places.
    pub fn lies_like(&self, other: &View) -> bool {
        self.shape == other.shape && (0..self.shape.len()).all(|d| self.steps(d, other.strides[d]))
    }
}

/// Copies every element of a view to the same index of another.
pub(crate) fn copy(from: &View, source: &[f32], to: &View, target: &mut [f32]) {
    // The longest run in the target goes innermost.
    let mut dims: Vec<[usize; 3]> = (0..to.shape.len())
        .map(|d| [to.shape[d], from.strides[d], to.strides[d]])
        .filter(|[size, ..]| *size != 1)
        .collect();
    dims.sort_by_key(|[_, _, stride]| std::cmp::Reverse(*stride));
    copy_dims(&dims, &source[from.offset..], &mut target[to.offset..]);
}

fn copy_dims(dims: &[[usize; 3]], from: &[f32], to: &mut [f32]) {
    match dims {
        [] => to[0] = from[0],
        [[size, 1, 1]] => to[..*size].copy_from_slice(&from[..*size]),
        [[size, a, b]] => (0..*size).for_each(|i| to[i * b] = from[i * a]),
        [[size, a, b], rest @ ..] => {
            (0..*size).for_each(|i| copy_dims(rest, &from[i * a..], &mut to[i * b..]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place = Place::Buffer(0);

    #[test]
    fn pixels_become_tokens_without_a_copy() {
        let map = View::pixels(PLACE, 0, &[2, 5, 3, 4], 5);
        let tokens = map.permuted(&[0, 2, 3, 1]).reshaped(&[2, 12, 5]).unwrap();
        assert_eq!(tokens.strides, [60, 5, 1]);
        assert_eq!(tokens.as_rows().unwrap().rows, 24);
        let flat = map.permuted(&[0, 2, 3, 1]).reshaped(&[24, 5]).unwrap();
        assert_eq!(flat.strides, [5, 1]);
        // In PyTorch's order the channels would have to come first.
        assert_eq!(map.reshaped(&[2, 60]), None);
        let pooled = View::pixels(PLACE, 0, &[2, 5, 1, 1], 5);
        assert_eq!(pooled.reshaped(&[2, 5]).unwrap().strides, [5, 1]);
    }

    #[test]
    fn heads_are_views_of_the_joined_projection() {
        let qkv = View::dense(PLACE, &[2, 7, 24]);
        let keys = View {
            offset: 8,
            shape: vec![2, 7, 8],
            ..qkv
        };
        let heads = keys
            .reshaped(&[2, 7, 2, 4])
            .unwrap()
            .permuted(&[0, 2, 1, 3]);
        assert_eq!(heads.strides, [168, 4, 24, 1]);
    }

    #[test]
    fn a_slice_of_channels_has_rows_apart() {
        let part = View::pixels(PLACE, 3, &[1, 2, 4, 4], 9);
        let rows = part.as_pixels().unwrap();
        assert_eq!((rows.offset, rows.rows, rows.cols, rows.ld), (3, 16, 2, 9));
        assert!(!part.is_dense());
        assert!(View::pixels(PLACE, 0, &[1, 2, 4, 4], 2).is_dense());
        assert_eq!(View::dense(PLACE, &[1, 2, 4, 4]).as_pixels(), None);
        assert!(View::dense(PLACE, &[1, 1, 4, 4]).as_pixels().is_some());
    }
}
