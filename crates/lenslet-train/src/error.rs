//! What can go wrong, with the cure.

use std::path::PathBuf;

/// Why a run, an evaluation or a prediction could not go on.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A setting that makes no sense.
    #[error("{setting} is {found}, but {expected}")]
    Setting {
        /// Its name on the command line.
        setting: &'static str,
        /// What was given.
        found: String,
        /// What it must be.
        expected: &'static str,
    },
    /// No model has that name.
    #[error("no model is called {name}{}", if near.is_empty() { String::new() } else { format!("; did you mean {}?", near.join(" or ")) })]
    UnknownModel {
        /// The name given.
        name: String,
        /// Names that are close to it.
        near: Vec<&'static str>,
    },
    /// The data do not suit the model.
    #[error("{0}")]
    Mismatch(String),
    /// A file or folder could not be read or written.
    #[error("cannot {doing} {}: {source}{}", path.display(), cure(source))]
    Io {
        /// "read", "write", "create".
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A model file or checkpoint that is not one.
    #[error("{} is not a {kind}: {reason}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What it should be.
        kind: &'static str,
        /// What is wrong with it and what to do.
        reason: String,
    },
    /// Tensors that do not fit the model they claim to be.
    #[error("{}: {source}", path.display())]
    Weights {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        source: lenslet_nn::LoadError,
    },
    /// Weights to start from that do not fit the model.
    #[error("the weights {origin} do not fit: {source}")]
    Pretrained {
        /// Where they come from.
        origin: String,
        /// What does not fit.
        source: Box<lenslet_models::ModelError>,
    },
    /// A run that cannot be resumed.
    #[error("cannot resume {}: {reason}", run.display())]
    Resume {
        /// The run's folder.
        run: PathBuf,
        /// Why, and what to do.
        reason: String,
    },
    /// The loss is no number any more.
    #[error(
        "the {what} became {value} in epoch {epoch}, batch {batch}: training has diverged. Lower --lr or set \
         --clip-grad-norm. The last good checkpoint is kept in {}",
        run.display()
    )]
    Diverged {
        /// "loss" or "gradient norm".
        what: &'static str,
        /// NaN or infinity.
        value: f64,
        /// Counted from 1.
        epoch: usize,
        /// Counted from 1.
        batch: usize,
        /// The run's folder.
        run: PathBuf,
    },
    /// A model that cannot be compiled.
    #[error("{0}. Layer by layer it may run: --engine eager")]
    Engine(#[from] lenslet_engine::EngineError),
    /// From the data.
    #[error(transparent)]
    Data(#[from] lenslet_data::DataError),
    /// A curve could not be drawn.
    #[error("cannot draw {}: {reason}", path.display())]
    Draw {
        /// The picture's file.
        path: PathBuf,
        /// What the drawing library said.
        reason: String,
    },
}

fn cure(error: &std::io::Error) -> &'static str {
    use std::io::ErrorKind::*;
    match error.kind() {
        StorageFull | QuotaExceeded => "; free some space or choose another place with --output",
        PermissionDenied | ReadOnlyFilesystem => {
            "; check its permissions or choose another place with --output"
        }
        NotFound => "; check the path",
        NotADirectory => "; a part of that path is a file, choose another place with --output",
        _ => "",
    }
}

impl TrainError {
    pub(crate) fn io(
        doing: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| TrainError::Io {
            doing,
            path,
            source,
        }
    }
}
