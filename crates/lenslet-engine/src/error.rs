//! What can go wrong.

use lenslet_graph::GraphError;
use lenslet_kernels::KernelError;

/// Why a model could not be compiled, or a session not run.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The model could not be captured as a graph.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// A kernel does not serve a node's shape.
    #[error("node {node}: {source}")]
    Kernel {
        /// The node.
        node: String,
        /// What the kernel says.
        source: KernelError,
    },
    /// An input of another size than the session was compiled for.
    #[error(
        "the session takes images of shape {expected:?} one after the other, but got {found} \
         numbers; compile another session for another size"
    )]
    Input {
        /// The shape of one image.
        expected: Vec<usize>,
        /// How many numbers were given.
        found: usize,
    },
}
