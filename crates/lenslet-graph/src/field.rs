//! Receptive fields: which pixels of the picture a position of a feature map depends on.
//!
//! Araujo, Norris and Sim, *Computing Receptive Fields of Convolutional Neural Networks*, Distill,
//! 2019 (<https://distill.pub/2019/computing-receptive-fields>). The field is the theoretical one, as
//! if the picture went on beyond its border. Factors and summands that are the same at every
//! position (squeeze-and-excitation gates, statistics of group norms) are left out, though they see
//! the whole picture.

use crate::{Graph, InterpolateMode, Node, Op, ValueId};

/// Positions along one axis of a feature map, and the pixels that each depends on. After every
/// `period` positions the pixels are the same, `shift` further on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Axis {
    /// First and last pixel for each of the positions of a period.
    spans: Vec<(i64, i64)>,
    shift: i64,
}

/// Longer periods (resizing by many odd factors one after the other) are given up.
const LONGEST_PERIOD: i64 = 1 << 16;

impl Axis {
    /// The picture itself.
    fn pixels() -> Self {
        Self {
            spans: vec![(0, 0)],
            shift: 1,
        }
    }

    /// First and last pixel that a position depends on; both can lie outside of the picture.
    pub fn at(&self, position: i64) -> (i64, i64) {
        let period = self.spans.len() as i64;
        let (first, last) = self.spans[position.rem_euclid(period) as usize];
        let moved = position.div_euclid(period) * self.shift;
        (first + moved, last + moved)
    }

    /// How many pixels a position depends on: at the position that sees most.
    pub fn size(&self) -> usize {
        let sizes = self.spans.iter().map(|(first, last)| last - first + 1);
        sizes.max().unwrap_or(1) as usize
    }

    /// Pixels between neighbouring positions.
    pub fn jump(&self) -> f64 {
        self.shift as f64 / self.spans.len() as f64
    }

    /// The axis of an output whose positions are `a / b` positions of this axis apart and read the
    /// positions from the first to the last that `reads` says.
    fn resampled(&self, a: usize, b: usize, reads: impl Fn(i64) -> (i64, i64)) -> Option<Self> {
        let period = self.spans.len() as i64;
        let (a, b) = (i64::try_from(a).ok()?, i64::try_from(b).ok()?);
        let whole = b.checked_mul(period)?;
        let new = whole / gcd(a, whole);
        if new > LONGEST_PERIOD {
            return None;
        }
        let spans = (0..new).map(|position| {
            let (first, last) = reads(position);
            (self.at(first).0, self.at(last).1)
        });
        Some(Self {
            spans: spans.collect(),
            shift: new * a / whole * self.shift,
        })
    }

    /// What depends on either of two axes with the same distance between positions.
    fn joined(&self, other: &Self) -> Option<Self> {
        let (a, b) = (self.spans.len() as i64, other.spans.len() as i64);
        let period = a / gcd(a, b) * b;
        let shift = period / a * self.shift;
        if shift != period / b * other.shift || period > LONGEST_PERIOD {
            return None;
        }
        let spans = (0..period).map(|position| {
            let (a, b) = (self.at(position), other.at(position));
            (a.0.min(b.0), a.1.max(b.1))
        });
        Some(Self {
            spans: spans.collect(),
            shift,
        })
    }
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// What a position of a value depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Field {
    /// Nothing: the value is the same for every picture.
    Fixed,
    /// A window of the picture, of rows and of columns.
    Window([Axis; 2]),
    /// The whole picture.
    Whole,
    /// Not known: positions are cut out and reordered (shifted windows), or are no longer a grid.
    Unknown,
}

impl Field {
    /// Rows and columns of the window.
    pub fn size(&self) -> Option<[usize; 2]> {
        match self {
            Field::Window([rows, columns]) => Some([rows.size(), columns.size()]),
            _ => None,
        }
    }

    /// Pixels from one position to the next.
    pub fn jump(&self) -> Option<[f64; 2]> {
        match self {
            Field::Window([rows, columns]) => Some([rows.jump(), columns.jump()]),
            _ => None,
        }
    }
}

/// A field, and in which dimensions of the value the positions lie.
#[derive(Debug, Clone)]
struct Place {
    field: Field,
    dims: Dims,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Dims {
    /// Rows and columns.
    Grid([usize; 2]),
    /// All positions one after the other, in one dimension with others.
    Row(usize),
    None,
}

impl Place {
    fn new(field: Field) -> Self {
        let dims = Dims::None;
        Self { field, dims }
    }
}

impl Graph {
    /// What the positions of every value depend on, parallel to [`Graph::values`]. The graph's
    /// inputs are pictures `[N, C, H, W]`.
    pub fn fields(&self) -> Vec<Field> {
        let mut places = vec![Place::new(Field::Fixed); self.values().len()];
        for input in self.inputs() {
            let grid = self.value(*input).shape.len() == 4;
            places[input.index()] = Place {
                field: match grid {
                    true => Field::Window([Axis::pixels(), Axis::pixels()]),
                    false => Field::Unknown,
                },
                dims: if grid { Dims::Grid([2, 3]) } else { Dims::None },
            };
        }
        for node in self.nodes() {
            places[node.output.index()] = self.place(node, &places);
        }
        places.into_iter().map(|place| place.field).collect()
    }

    fn place(&self, node: &Node, places: &[Place]) -> Place {
        let of = |id: &ValueId| &places[id.index()];
        let moving = || (node.inputs.iter()).filter(|id| of(id).field != Field::Fixed);
        let Some(first) = moving().next() else {
            return Place::new(Field::Fixed);
        };
        if moving().any(|id| of(id).field == Field::Unknown) {
            return Place::new(Field::Unknown);
        }
        let unknown = Place::new(Field::Unknown);
        match (&node.op, &of(first).field) {
            (op, _) if op.is_elementwise() || matches!(op, Op::Concat { .. }) => {
                self.joined(node, moving(), places).unwrap_or(unknown)
            }
            (_, Field::Whole) => Place::new(Field::Whole),
            (Op::Matmul | Op::Attention { .. }, _) if moving().count() > 1 => {
                Place::new(Field::Whole)
            }
            (_, Field::Window(axes)) => {
                (self.windowed(node, of(first).dims, axes, *first)).unwrap_or(unknown)
            }
            _ => unknown,
        }
    }

    /// Several values element by element or one after the other.
    fn joined<'a>(
        &self,
        node: &Node,
        moving: impl Iterator<Item = &'a ValueId>,
        places: &[Place],
    ) -> Option<Place> {
        let mut joined: Option<Place> = None;
        let mut whole = false;
        for id in moving {
            let place = &places[id.index()];
            let Field::Window(axes) = &place.field else {
                whole = true;
                // What is as large as the output is no gate.
                if self.value(*id).len() == self.value(node.output).len() {
                    return Some(Place::new(Field::Whole));
                }
                continue;
            };
            joined = match joined {
                None => Some(place.clone()),
                Some(Place {
                    field: Field::Window(known),
                    dims,
                }) if dims == place.dims => {
                    let rows = known[0].joined(&axes[0])?;
                    let columns = known[1].joined(&axes[1])?;
                    let field = Field::Window([rows, columns]);
                    Some(Place { field, dims })
                }
                Some(_) => return None,
            };
        }
        let joined = match joined {
            Some(joined) => joined,
            None if whole => return Some(Place::new(Field::Whole)),
            None => return None,
        };
        match (&node.op, joined.dims) {
            (Op::Concat { dim }, Dims::Grid(dims)) if dims.contains(dim) => None,
            (Op::Concat { .. }, _) if whole => None,
            _ => Some(joined),
        }
    }

    /// An operation on one value with windows.
    fn windowed(&self, node: &Node, dims: Dims, axes: &[Axis; 2], input: ValueId) -> Option<Place> {
        let from = &self.value(input).shape;
        let to = &self.value(node.output).shape;
        let same = |dims| {
            let field = Field::Window(axes.clone());
            Some(Place { field, dims })
        };
        let whole = || Some(Place::new(Field::Whole));
        let mixes = |dim: usize| match dims {
            Dims::Grid(grid) => grid.contains(&dim),
            Dims::Row(row) => row == dim,
            Dims::None => false,
        };
        match &node.op {
            Op::BatchNorm { .. } => same(dims),
            Op::LayerNorm { .. } | Op::Matmul if !mixes(from.len() - 1) => same(dims),
            Op::LayerNorm { .. } | Op::Matmul => whole(),
            Op::Softmax { dim } | Op::LogSoftmax { dim } if !mixes(*dim) => same(dims),
            Op::Softmax { .. } | Op::LogSoftmax { .. } => whole(),
            Op::Reduce { dims: over, .. } => match over.iter().any(|&dim| mixes(dim)) {
                true => whole(),
                false => same(dims),
            },
            Op::AdaptiveAvgPool2d if to[2..] == [1, 1] => whole(),
            Op::Expand | Op::Repeat { .. } if from.len() == to.len() => {
                let kept = (0..from.len()).all(|dim| !mixes(dim) || from[dim] == to[dim]);
                kept.then(|| same(dims))?
            }
            Op::Permute(order) => {
                let at = |dim: usize| order.iter().position(|&d| d == dim);
                same(match dims {
                    Dims::Grid([h, w]) => Dims::Grid([at(h)?, at(w)?]),
                    Dims::Row(row) => Dims::Row(at(row)?),
                    Dims::None => Dims::None,
                })
            }
            Op::Reshape => same(reshaped(dims, from, to)?),
            op => {
                let Dims::Grid(grid) = dims else {
                    return match op {
                        Op::Slice(_) => same(dims),
                        _ => None,
                    };
                };
                let weight = node
                    .inputs
                    .get(1)
                    .map(|id| self.value(*id).shape.as_slice());
                let axis = |i: usize| {
                    let sizes = [from[grid[i]], to[grid[i]]];
                    slid(op, weight, i, grid[i], sizes, &axes[i])
                };
                let field = Field::Window([axis(0)?, axis(1)?]);
                Some(Place { field, dims })
            }
        }
    }
}

/// What an operation with windows makes of axis `i` (0: rows, 1: columns), which is dimension `dim`.
fn slid(
    op: &Op,
    weight: Option<&[usize]>,
    i: usize,
    dim: usize,
    [from, to]: [usize; 2],
    axis: &Axis,
) -> Option<Axis> {
    let int = |n: usize| n as i64;
    let window = |kernel: usize, stride: usize, padding: usize, dilation: usize| {
        axis.resampled(stride, 1, |position| {
            let first = position * int(stride) - int(padding);
            (first, first + int((kernel - 1) * dilation))
        })
    };
    match op {
        Op::Conv2d {
            stride,
            padding,
            dilation,
            ..
        } => window(weight?[2 + i], stride[i], padding[i].0, dilation[i]),
        Op::MaxPool2d {
            kernel,
            stride,
            padding,
            dilation,
            ..
        } => window(kernel[i], stride[i], padding[i], dilation[i]),
        Op::AvgPool2d {
            kernel,
            stride,
            padding,
            ..
        } => window(kernel[i], stride[i], padding[i], 1),
        Op::ConvTranspose2d {
            stride,
            padding,
            dilation,
            ..
        } => {
            let (stride, padding) = (int(stride[i]), int(padding[i]));
            let reach = int((weight?[2 + i] - 1) * dilation[i]);
            axis.resampled(1, stride as usize, |position| {
                let last = (position + padding).div_euclid(stride);
                let first = -(reach - position - padding).div_euclid(stride);
                // A position between the kernel's taps reads nothing; its neighbours' does as well.
                (first.min(last), last)
            })
        }
        Op::AdaptiveAvgPool2d => axis.resampled(from, to, |position| {
            let first = (position * int(from)).div_euclid(int(to));
            let end = -(-(position + 1) * int(from)).div_euclid(int(to));
            (first, end - 1)
        }),
        Op::Interpolate {
            mode,
            align_corners,
        } => {
            // Positions in units of 1 / (2 * denominator).
            let (a, b) = match align_corners {
                true if to > 1 => (from - 1, to - 1),
                _ => (from, to),
            };
            if a == 0 {
                return None;
            }
            axis.resampled(a, b, |position| {
                let (a, b) = (int(a), int(b));
                let left = match (mode, align_corners) {
                    (InterpolateMode::Nearest, _) => {
                        let nearest = (position * int(from)).div_euclid(int(to));
                        return (nearest, nearest);
                    }
                    (_, true) => (position * a).div_euclid(b),
                    (_, false) => ((2 * position + 1) * a - b).div_euclid(2 * b),
                };
                match mode {
                    InterpolateMode::Bicubic => (left - 1, left + 2),
                    _ => (left, left + 1),
                }
            })
        }
        Op::Slice(spans) => {
            let span = spans.get(dim)?;
            let step = usize::try_from(span.step).ok().filter(|&step| step > 0)?;
            axis.resampled(step, 1, |position| {
                let at = int(span.start) + position * int(step);
                (at, at)
            })
        }
        Op::Pad { padding, .. } => {
            let before = int(padding.get(dim)?.0);
            axis.resampled(1, 1, |position| (position - before, position - before))
        }
        _ => None,
    }
}

/// Where positions lie after a change of shape.
fn reshaped(dims: Dims, from: &[usize], to: &[usize]) -> Option<Dims> {
    // The dimension of `to` with the same length and as many elements in front.
    let kept = |dim: usize| {
        let before: usize = from[..dim].iter().product();
        (0..to.len()).find(|&d| {
            to[..d].iter().product::<usize>() == before && to[d] == from[dim] && to[d] > 1
        })
    };
    // The dimension of `to` that takes in all of `from[first..=last]`.
    let merged = |first: usize, last: usize| {
        let before: usize = from[..first].iter().product();
        let through: usize = from[..=last].iter().product();
        (0..to.len()).find(|&d| {
            let start: usize = to[..d].iter().product();
            start <= before && start * to[d] >= through && to[d] > 1
        })
    };
    match dims {
        Dims::Grid([h, w]) => match (kept(h), kept(w)) {
            (Some(h), Some(w)) => Some(Dims::Grid([h, w])),
            _ => merged(h.min(w), h.max(w)).map(Dims::Row),
        },
        Dims::Row(row) => kept(row).or_else(|| merged(row, row)).map(Dims::Row),
        Dims::None => Some(Dims::None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upsampling_undoes_a_stride() {
        let pixels = Axis::pixels();
        let halved = pixels.resampled(2, 1, |p| (2 * p, 2 * p + 1)).unwrap();
        assert_eq!((halved.size(), halved.jump()), (2, 2.0));
        let back = halved
            .resampled(1, 2, |p| (p.div_euclid(2), p.div_euclid(2)))
            .unwrap();
        assert_eq!((back.size(), back.jump()), (2, 1.0));
        assert_eq!(
            [-1, 0, 1, 2].map(|p| back.at(p)),
            [(-2, -1), (0, 1), (0, 1), (2, 3)]
        );
        // Next to the map before the stride, a position sees its own pixel and its block.
        let joined = back.joined(&pixels).unwrap();
        assert_eq!([0, 1].map(|p| joined.at(p)), [(0, 1), (0, 1)]);
        assert_eq!(halved.joined(&pixels), None);
    }

    #[test]
    fn positions_are_followed_through_shapes() {
        let grid = Dims::Grid([2, 3]);
        let to = |shape: &[usize]| reshaped(grid, &[2, 3, 4, 5], shape);
        assert_eq!(to(&[2, 3, 20]), Some(Dims::Row(2)));
        assert_eq!(to(&[2, 60]), Some(Dims::Row(1)));
        assert_eq!(to(&[6, 4, 5]), Some(Dims::Grid([1, 2])));
        assert_eq!(to(&[2, 3, 2, 2, 5]), None);
    }
}
