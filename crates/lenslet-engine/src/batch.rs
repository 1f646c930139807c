//! How many images are computed together.

use lenslet_graph::{Graph, Value};

/// Bytes that are taken to stay in the last level of the caches.
const CACHE: usize = 32 << 20;

/// How many of the images that a graph was captured for are best computed together. All of them share the reading of the weights; but
/// where the weights and an image's feature maps fit into the caches, and those of all images do not, fewer at a time are faster.
pub(crate) fn images_at_once(graph: &Graph) -> usize {
    let batch = match graph.inputs() {
        [input] => graph.value(*input).shape.first().copied().unwrap_or(1),
        _ => 1,
    };
    let bytes = |value: &Value| value.len() * size_of::<f32>();
    let weights: usize = graph.weights().map(|(_, value)| bytes(value)).sum();
    // What the largest operation reads and writes.
    let maps = graph.nodes().iter().map(|node| {
        let all = node.inputs.iter().chain([&node.output]);
        let moving = all
            .map(|&id| graph.value(id))
            .filter(|v| v.constant().is_none());
        moving.map(bytes).sum::<usize>()
    });
    let maps = maps.max().unwrap_or(0);
    let image = (maps / batch.max(1)).max(1);
    if weights + maps <= CACHE || weights + image > CACHE || graph.outputs().len() > 1 {
        return batch;
    }
    let fitting = (CACHE - weights) / image;
    // Equal parts: a batch that is not full takes as long as a full one.
    let parts = (1..=fitting.min(batch)).rev();
    { parts }.find(|n| batch.is_multiple_of(*n)).unwrap_or(1)
}
