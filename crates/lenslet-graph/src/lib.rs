//! Shapes, costs and receptive fields of image models.

mod arithmetic;

pub use arithmetic::{
    ArithmeticError, Conv, ConvCost, FieldStep, Separable, Window, conv_cost, output_size,
    receptive_field, separable_cost,
};
