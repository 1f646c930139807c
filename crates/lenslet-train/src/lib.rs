//! Training, evaluation and prediction with image models: loop, optimisers, metrics, and runs
//! that resume bit for bit.

mod compiled;
mod config;
pub mod detect;
mod ema;
mod error;
mod evaluate;
mod features;
mod files;
mod freeze;
mod golden;
mod gradients;
mod history;
mod loss;
mod measured;
mod metrics;
mod model_file;
mod optim;
mod predict;
mod pretrained;
mod report;
mod run;
mod schedule;
pub mod segment;
mod source;
mod step;
mod tally;
mod trainer;

pub use compiled::{EngineKind, Runner, compile, even_batch, outputs};
pub use config::{AugmentKind, OptimizerKind, TrainConfig, at_size, find_variant};
pub use ema::Ema;
pub use error::TrainError;
pub use evaluate::{TestTime, evaluate};
pub use features::FeatureSet;
pub use files::write_atomic;
pub use freeze::{Freeze, PartSize, Parts};
pub use golden::{Golden, record_golden, replay_golden};
pub use gradients::NamedGradients;
pub use history::{EpochRecord, GroupRates, curves_svg, history_csv};
pub use loss::{Criterion, Target, balanced_weights};
pub use measured::Measured;
pub use metrics::{ClassScore, Confusion, softmax, top_k};
pub use model_file::{
    FORMAT, ModelInfo, load_model, model_path, parse_model, save_model, save_model_f16,
};
pub use optim::{Optimizer, Rule};
pub use predict::{EachPicture, Predicting, Prediction, Predictor};
pub use pretrained::Pretrained;
pub use report::{ReportSource, write_report};
pub use run::{Checkpoint, Progress, RunConfig, RunDir};
pub use schedule::Schedule;
pub use source::{Data, DataSource, Files, Part, Split};
pub use step::{Backward, Input, Recipe, backward, train_step};
pub use tally::{Evaluation, Judged, SkippedFile};
pub use trainer::{FoundRate, Observer, Outcome, Summary, Trainer};
