//! Image models as graphs: capture, shapes, costs and receptive fields.
//!
//! [`Graph::capture`] records the forward pass of any Burn module, without running it, as a small
//! graph of named nodes with concrete shapes; [`Graph::resized`] takes it to another size of input.
//! Whatever needs to know a model's structure reads that graph. [`mod@reference`] runs it, plainly
//! and slowly.

mod arithmetic;
mod builder;
mod capture;
mod compose;
mod costs;
mod data;
mod draw;
mod error;
mod field;
mod graph;
mod layers;
mod op;
pub mod reference;
mod resized;

pub use arithmetic::{
    ArithmeticError, Conv, ConvCost, FieldStep, Separable, Window, conv_cost, output_size,
    receptive_field, separable_cost,
};
pub use capture::Outputs;
pub use costs::{Macs, Memory};
pub use data::{Data, Floats, Kind};
pub use draw::DrawOptions;
pub use error::GraphError;
pub use field::{Axis, Field};
pub use graph::{Constant, Graph, Node, Source, Value, ValueId};
pub use layers::Layer;
pub use op::{Binary, Comparison, InterpolateMode, Op, PadMode, Reduction, Span, Unary};
