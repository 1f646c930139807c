//! Weights on their way from the graph to the kernels.

use std::borrow::Cow;

use lenslet_graph::{Graph, GraphError, ValueId, reference};

/// A weight and the factor of each output channel that goes into it. The numbers are made when they are packed, one layer's at a
/// time.
#[derive(Debug)]
pub(crate) struct Weight {
    pub id: ValueId,
    pub scale: Option<Vec<f32>>,
    pub channels: WeightChannels,
}

/// Which output channel an element of a weight belongs to.
#[derive(Debug, Clone, Copy)]
pub(crate) enum WeightChannels {
    /// As many elements one after the other.
    Outer(usize),
    /// The last dimension, of this size.
    Inner(usize),
    /// A transposed convolution's: taps, output channels of a group, input channels of a group.
    Transposed([usize; 3]),
}

impl WeightChannels {
    fn of(self, at: usize) -> usize {
        match self {
            WeightChannels::Outer(elements) => at / elements,
            WeightChannels::Inner(n) => at % n,
            WeightChannels::Transposed([taps, out, inputs]) => {
                let (row, within) = (at / (out * taps), at / taps % out);
                row / inputs * out + within
            }
        }
    }
}

impl Weight {
    /// The numbers, in the weight's own order.
    pub fn numbers<'g>(&self, graph: &'g Graph) -> Result<Cow<'g, [f32]>, GraphError> {
        let value = graph.value(self.id);
        let mut numbers = match value.constant() {
            Some(constant) => constant.data.floats(value.len()),
            None => Cow::Owned(reference::constant(graph, self.id)?),
        };
        if let Some(scale) = &self.scale {
            for (at, number) in numbers.to_mut().iter_mut().enumerate() {
                *number *= scale[self.channels.of(at)];
            }
        }
        Ok(numbers)
    }
}
