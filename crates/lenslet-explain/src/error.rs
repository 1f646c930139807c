//! What can go wrong.

use std::path::PathBuf;

use lenslet_data::DataError;
use lenslet_graph::GraphError;

/// Why a picture could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExplainError {
    /// A picture could not be read or prepared.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The model cannot run on such a picture.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// A file of numbers that is none.
    #[error("{path}: {reason}; write rows of numbers with commas between, as many in every row")]
    Matrix {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A convolution that cannot be.
    #[error("{0}")]
    Convolution(String),
    /// No module of that name ran, or it gives no maps.
    #[error("{layer} {reason}; {near}")]
    Layer {
        /// The module asked for.
        layer: String,
        /// What is wrong with it.
        reason: &'static str,
        /// Names that would do.
        near: String,
    },
}

impl ExplainError {
    /// `known` are the names of layers that would do.
    pub(crate) fn layer(layer: &str, reason: &'static str, known: &[String]) -> Self {
        let mut near: Vec<(f64, &str)> = known
            .iter()
            .map(|name| (strsim::jaro_winkler(layer, name), name.as_str()))
            .collect();
        near.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
        near.dedup();
        let names: Vec<&str> = near.iter().take(4).map(|(_, name)| *name).collect();
        ExplainError::Layer {
            layer: layer.to_string(),
            reason,
            near: match names.as_slice() {
                [] => "the model has none".to_string(),
                names => format!("near names are {}", names.join(", ")),
            },
        }
    }
}
