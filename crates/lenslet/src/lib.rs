//! Image models from LeNet-5 to the Vision Transformer, without Python: the crates of Lenslet under
//! one name. The command line `lenslet` is built on the same interface.

pub use lenslet_data as data;
pub use lenslet_engine as engine;
pub use lenslet_graph as graph;
pub use lenslet_models as models;
pub use lenslet_nn as nn;
pub use lenslet_train as train;
pub use lenslet_weights as weights;
