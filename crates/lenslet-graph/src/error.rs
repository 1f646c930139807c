//! What can go wrong with a graph.

use burn::tensor::CaptureError;

/// Why a model could not be captured, or a graph not be run.
#[derive(Debug, thiserror::Error)]
pub enum GraphError {
    /// The model's forward pass panicked while it was recorded.
    #[error(
        "the model cannot run on an input of shape {input:?}: {message}; try a larger input, or one \
         with as many channels as the first layer takes"
    )]
    Forward {
        /// Shape of the input.
        input: Vec<usize>,
        /// What the panic said.
        message: String,
    },
    /// Burn could not record the forward pass.
    #[error("the forward pass could not be recorded: {0:?}")]
    Capture(CaptureError),
    /// A convolution or pooling whose window is larger than what it slides over.
    #[error(
        "node {node}: a window of length {span} does not fit into {padded}, padding included; use \
         a larger input"
    )]
    Window {
        /// The module that the operation belongs to, or its position.
        node: String,
        /// Length of the window.
        span: usize,
        /// Length of the padded input.
        padded: usize,
    },
    /// An output of the forward pass was not made of the input.
    #[error(
        "output {0} of the forward pass was not recorded; return tensors that were computed from \
         the input"
    )]
    Output(usize),
    /// An operation that graphs do not know.
    #[error(
        "node {node}: the operation {operation} is not known to graphs; write the layer with \
         operations that `lenslet_graph::Op` lists"
    )]
    Unknown {
        /// The module that the operation belongs to, or its position.
        node: String,
        /// What Burn calls it.
        operation: String,
    },
    /// An input that no operation known here has computed.
    #[error(
        "node {node}: {operation} reads a tensor that the graph does not hold (the second result \
         of an operation, or a tensor of another device)"
    )]
    Missing {
        /// The module that the operation belongs to, or its position.
        node: String,
        /// What Burn calls it.
        operation: String,
    },
    /// Inputs of another number or size than the graph takes.
    #[error("the graph takes {expected}, but got {found}")]
    Input {
        /// What it takes.
        expected: String,
        /// What it was given.
        found: String,
    },
    /// A graph that does not say what becomes of it at another size of the input.
    #[error("node {node}: {why}; capture the model at the other size, if it takes that")]
    Resize {
        /// The node.
        node: String,
        /// What stands in the way.
        why: String,
    },
    /// An index outside of what it points into.
    #[error("node {node}: index {index} is outside of a dimension of length {len}")]
    Index {
        /// The node.
        node: String,
        /// The index.
        index: i64,
        /// How many entries there are.
        len: usize,
    },
    /// No module of that name ran.
    #[error("no module called {name} runs in this model; {near}")]
    NoModule {
        /// The name asked for.
        name: String,
        /// Names that there are.
        near: String,
    },
    /// A value that depends on the input where a constant is needed.
    #[error("the value {0} depends on the graph's input, so it is no constant")]
    NotConstant(String),
}

impl GraphError {
    /// `ran` are the modules that did run.
    pub(crate) fn no_module<'a>(name: &str, ran: impl Iterator<Item = &'a str>) -> Self {
        let mut near: Vec<(f64, &str)> = ran
            .map(|path| (strsim::jaro_winkler(name, path), path))
            .collect();
        near.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
        near.dedup();
        let names: Vec<&str> = near.iter().take(4).map(|(_, path)| *path).collect();
        GraphError::NoModule {
            name: name.to_string(),
            near: match names.as_slice() {
                [] => "its children do not tell their names".to_string(),
                names => format!("near names are {}", names.join(", ")),
            },
        }
    }
}
