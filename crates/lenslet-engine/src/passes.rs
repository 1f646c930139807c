//! What compiling changes, by name.

/// A change that compiling makes to a graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Pass {
    FoldConstants,
    FoldNorms,
    RecogniseLinear,
    RecogniseActivations,
    RecogniseAttention,
    RecogniseNorms,
    FuseActivations,
    FuseResiduals,
    FuseGates,
    ConcatInPlace,
    Strips,
    RowMeans,
    PermuteAsView,
}

/// Names and descriptions, in the order of [`Pass`].
const ALL: [(&str, &str); 13] = [
    (
        "fold-constants",
        "nodes that do not depend on the input are computed once",
    ),
    (
        "fold-norms",
        "batch norms, factors and summands of channels go into the weights before them",
    ),
    (
        "recognise-linear",
        "products with a fixed matrix become linear layers with packed weights",
    ),
    (
        "recognise-activations",
        "x * sigmoid(x) becomes SiLU, x * hard_sigmoid(x) hard swish, the pieces of GELU's tanh form one function",
    ),
    (
        "recognise-attention",
        "softmax(q k^T * scale + bias) v is one step that never holds all scores",
    ),
    (
        "recognise-norms",
        "x / (k + alpha * mean of neighbouring channels' squares)^beta is one step",
    ),
    (
        "fuse-activations",
        "activations are applied before a result is written",
    ),
    (
        "fuse-residuals",
        "residuals are added before a result is written",
    ),
    (
        "fuse-gates",
        "squeeze-and-excitation multiplies the weights of the 1 x 1 convolution behind it",
    ),
    (
        "concat-in-place",
        "layers write into their slice of the concatenation behind them",
    ),
    (
        "strips",
        "depthwise convolutions and the 1 x 1 or first convolutions beside them are computed a few rows or channels at a time",
    ),
    (
        "row-means",
        "depthwise convolutions write the means of their rows of pixels, of which an average over the map is made",
    ),
    (
        "permute-as-view",
        "a new order of dimensions is another way to read the same memory",
    ),
];

/// How often each pass changed something.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally([usize; ALL.len()]);

impl Tally {
    pub fn add(&mut self, pass: Pass) {
        self.0[pass as usize] += 1;
    }

    pub fn list(&self) -> Vec<PassInfo> {
        let info = |(&(name, what), &changes): (&(&'static str, &'static str), &usize)| PassInfo {
            name,
            what,
            changes,
        };
        ALL.iter().zip(&self.0).map(info).collect()
    }
}

/// What a pass of the compiler does, and how often it did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassInfo {
    /// Its name.
    pub name: &'static str,
    /// What it changes.
    pub what: &'static str,
    /// How many nodes it changed.
    pub changes: usize,
}
