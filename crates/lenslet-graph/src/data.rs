//! The numbers of a graph's constants.

use std::borrow::Cow;
use std::ops::Deref;
use std::sync::Arc;

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::tensor::{DType, Tensor, TensorData};

/// What the elements of a value are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// 32-bit floating point.
    Float,
    /// Integers.
    Integer,
    /// True or false.
    Boolean,
}

impl From<DType> for Kind {
    fn from(dtype: DType) -> Self {
        if dtype.is_int() || dtype.is_uint() {
            Kind::Integer
        } else if dtype.is_bool() {
            Kind::Boolean
        } else {
            Kind::Float
        }
    }
}

/// A constant's numbers, in row-major order. Cloning shares them.
#[derive(Debug, Clone)]
pub enum Data {
    /// One number for each element.
    Floats(Floats),
    /// One integer for each element.
    Integers(Arc<[i64]>),
    /// One truth value for each element.
    Booleans(Arc<[bool]>),
    /// The same number everywhere. This is also what the weights of a model without values are.
    Splat(f64),
}

impl Data {
    /// Takes over a tensor's numbers. Those of a contiguous 32-bit tensor on the CPU are shared,
    /// all others copied once.
    pub(crate) fn from_tensor<const D: usize>(tensor: Tensor<D>) -> Self {
        if tensor.dtype() == DType::F32
            && let Ok(tensor) = tensor.clone().try_into_primitive::<Flex>()
        {
            return Data::Floats(Floats::from_flex(tensor));
        }
        Self::from_data(&tensor.into_data())
    }

    /// Copies a tensor's numbers.
    pub(crate) fn from_data(data: &TensorData) -> Self {
        match Kind::from(data.dtype()) {
            Kind::Float => Data::Floats(data.iter::<f32>().collect::<Vec<_>>().into()),
            Kind::Integer => Data::Integers(data.iter::<i64>().collect()),
            Kind::Boolean => Data::Booleans(data.iter::<bool>().collect()),
        }
    }

    /// The first `len` numbers as 32-bit ones; integers beyond 2^24 are rounded.
    pub fn floats(&self, len: usize) -> Cow<'_, [f32]> {
        match self {
            Data::Floats(values) => Cow::Borrowed(values),
            Data::Integers(values) => values.iter().map(|&v| v as f32).collect(),
            Data::Booleans(values) => values.iter().map(|&v| f32::from(u8::from(v))).collect(),
            Data::Splat(value) => Cow::Owned(vec![*value as f32; len]),
        }
    }
}

/// Numbers that are shared and never change.
#[derive(Debug, Clone)]
pub struct Floats(Storage);

#[derive(Debug, Clone)]
enum Storage {
    /// A contiguous tensor of 32-bit numbers, such as a model's own weight.
    Tensor(FlexTensor),
    Vector(Arc<Vec<f32>>),
}

impl Floats {
    fn from_flex(tensor: FlexTensor) -> Self {
        Self(Storage::Tensor(tensor.to_contiguous()))
    }
}

impl From<Vec<f32>> for Floats {
    fn from(values: Vec<f32>) -> Self {
        Self(Storage::Vector(Arc::new(values)))
    }
}

impl Deref for Floats {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &self.0 {
            Storage::Tensor(tensor) => tensor
                .as_slice()
                .expect("made contiguous, of 32-bit numbers, when it came in"),
            Storage::Vector(values) => values,
        }
    }
}
