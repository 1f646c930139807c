//! Training, evaluation and prediction with image models: loop, optimisers, metrics, and runs
//! that resume bit for bit.

mod compiled;
mod config;
mod error;
mod evaluate;
mod files;
mod golden;
mod history;
mod loss;
mod metrics;
mod model_file;
mod optim;
mod predict;
mod run;
mod schedule;
mod step;
mod trainer;

pub use compiled::compile;
pub use config::{DataSource, OptimizerKind, Split, TrainConfig, find_variant};
pub use error::TrainError;
pub use evaluate::{Evaluation, evaluate};
pub use files::write_atomic;
pub use golden::{Golden, record_golden, replay_golden};
pub use history::{EpochRecord, GroupRates, curves_svg, history_csv};
pub use loss::cross_entropy;
pub use metrics::{ClassScore, Confusion, softmax, top_k};
pub use model_file::{
    FORMAT, ModelInfo, load_model, model_path, parse_model, save_model, save_model_f16,
};
pub use optim::{Optimizer, Rule, global_norm};
pub use predict::{Prediction, Predictor};
pub use run::{Progress, RunConfig, RunDir};
pub use schedule::Schedule;
pub use step::{Recipe, Stepped, train_step};
pub use trainer::{Observer, Outcome, Summary, Trainer};
