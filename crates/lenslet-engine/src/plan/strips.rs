//! Depthwise convolutions that are computed together with the convolutions around them.

use std::collections::HashMap;

use lenslet_graph::ValueId;
use lenslet_kernels::{Algorithm, Conv2d, Pass, strip_chunks, takes_panels};

use super::{Planner, conv_shape, whole};
use crate::EngineError;
use crate::fuse::{Kind, Layer, Tail};
use crate::passes;
use crate::step::{self, Call, Packing, Stage};
use crate::view::{Place, View};

/// Layers that become one step, by their places in the list of all.
#[derive(Debug)]
pub(super) struct Block {
    expand: Option<usize>,
    depthwise: usize,
    project: Option<usize>,
}

/// The layers that become one step with others: a block at its last layer, nothing at the others, which are computed then.
pub(super) type Blocks = HashMap<usize, Option<Block>>;

/// Chunks that keep a few threads busy.
const CHUNKS: usize = 4;

/// Whether a depthwise convolution is computed in strips with its neighbours: where the map that it reads has `from` bytes in all images,
/// and enough chunks; always if `from` is 0.
fn pays(depthwise: &Conv2d, from: usize) -> bool {
    let Conv2d { n, h, w, c_in, .. } = *depthwise;
    let bytes = n * h * w * c_in * size_of::<f32>();
    from == 0 || bytes >= from && n * strip_chunks(n, depthwise, CHUNKS) >= CHUNKS
}

impl Planner<'_> {
    /// Finds the depthwise convolutions that are computed in strips with their neighbours.
    pub(super) fn find_blocks(&mut self, layers: &[Layer]) -> Blocks {
        let mut blocks = Blocks::new();
        let makes: HashMap<ValueId, usize> = (layers.iter().enumerate())
            .map(|(i, layer)| (layer.output, i))
            .collect();
        let mut reads: HashMap<ValueId, usize> = HashMap::new();
        for (i, layer) in layers.iter().enumerate() {
            if let Some((_, input, _)) = self.plain_conv(layer) {
                reads.insert(input, i);
            }
        }
        for (i, layer) in layers.iter().enumerate() {
            let Some((shape, input, tail)) = self.plain_conv(layer) else {
                continue;
            };
            let algorithm = self.options.algorithm(&shape, Pass::Forward);
            if algorithm != Algorithm::Depthwise || tail.residual.is_some() {
                continue;
            }
            let pointwise = |i: usize| {
                let (shape, _, tail) = self.plain_conv(&layers[i])?;
                let pointwise =
                    Conv2d::new([shape.n, shape.h, shape.w, shape.c_in], shape.c_out, [1, 1]);
                (shape == pointwise).then_some((i, tail))
            };
            let planes = |i: usize| match &layers[i].kind {
                Kind::Conv {
                    node,
                    gate: None,
                    tail,
                    ..
                } if self.over_planes(*node) => Some((i, tail)),
                _ => None,
            };
            let before = (makes.get(&input).filter(|_| self.read_once(input)))
                .and_then(|&i| pointwise(i).or_else(|| planes(i)))
                .filter(|(_, tail)| tail.residual.is_none());
            let behind = (reads
                .get(&layer.output)
                .filter(|_| self.read_once(layer.output)))
            .and_then(|&i| pointwise(i));
            let strips_from = self.options.strips_from;
            let by_panels = before.is_some_and(|(i, _)| pointwise(i).is_some())
                && takes_panels(&shape)
                && ![0, usize::MAX].contains(&strips_from);
            let behind = behind.filter(|_| !by_panels);
            if !by_panels && !pays(&shape, strips_from) {
                continue;
            }
            let [expand, project] = [before, behind].map(|found| found.map(|(i, _)| i));
            let members = [expand, Some(i), project].into_iter().flatten();
            if members.clone().count() == 1 || members.clone().any(|i| blocks.contains_key(&i)) {
                continue;
            }
            blocks.extend(members.map(|i| (i, None)));
            let block = Block {
                expand,
                depthwise: i,
                project,
            };
            blocks.insert(project.unwrap_or(i), Some(block));
            self.tally.add(passes::Pass::Strips);
        }
        blocks
    }

    /// A convolution without a gate: its shape, what it reads, what happens to its output.
    fn plain_conv<'l>(&self, layer: &'l Layer) -> Option<(Conv2d, ValueId, &'l Tail)> {
        let Kind::Conv {
            node,
            gate: None,
            tail,
            ..
        } = &layer.kind
        else {
            return None;
        };
        let node = &self.graph.nodes()[*node];
        Some((conv_shape(self.graph, node)?, node.inputs[0], tail))
    }

    fn read_once(&self, id: ValueId) -> bool {
        self.users[id.index()] == 1 && !self.graph.outputs().contains(&id)
    }

    /// The layers of a block as one step.
    pub(super) fn block(&mut self, block: &Block, layers: &[Layer]) -> Result<View, EngineError> {
        let [first, last] =
            [block.expand, block.project].map(|i| &layers[i.unwrap_or(block.depthwise)]);
        let expand = block
            .expand
            .map(|i| self.stage_of(&layers[i]))
            .transpose()?;
        let depthwise = self.stage_of(&layers[block.depthwise])?;
        let project = block
            .project
            .map(|i| self.stage_of(&layers[i]))
            .transpose()?;
        self.name.clone_from(&first.name);
        let [(_, input, _), (_, _, tail)] = [first, last].map(|layer| {
            self.plain_conv(layer)
                .expect("blocks are made of convolutions")
        });
        let n = self.shape(input)[0];
        let x = match expand.as_ref().map(|stage| &stage.packed) {
            Some(Packing::Planes(_)) => whole(&self.view(input)?),
            _ => self.pixels(input)?,
        };
        let residual = tail.residual.map(|id| self.pixels(id)).transpose()?;
        let reads: Vec<Place> = residual.iter().map(|r| r.place).chain([x.place]).collect();
        let last_is_depthwise = block.project.is_none();
        let (view, to, means) = self.map_with_means(last.output, &reads, last_is_depthwise);
        let block = step::Block {
            expand,
            depthwise,
            project,
        };
        let call = Call::Strips {
            block: Box::new(block),
            n,
            x,
            residual,
            means,
        };
        self.push(call, to);
        Ok(view)
    }

    fn stage_of(&mut self, layer: &Layer) -> Result<Stage, EngineError> {
        let Kind::Conv {
            node, weight, tail, ..
        } = &layer.kind
        else {
            unreachable!("blocks are made of convolutions")
        };
        self.name.clone_from(&layer.name);
        self.stage(*node, weight, tail)
    }
}
