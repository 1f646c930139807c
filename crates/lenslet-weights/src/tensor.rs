//! Tensors as a file holds them.

use std::collections::HashMap;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// The values of a tensor, row-major.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// Parameters and running statistics.
    F32(Vec<f32>),
    /// Tables of indices.
    I64(Vec<i64>),
}

impl Values {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(v) => v.len(),
            Self::I64(v) => v.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A named tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// The dotted name, `layer1.0.conv1.weight`.
    pub name: String,
    /// Extents, outermost first; empty for a single value.
    pub shape: Vec<usize>,
    /// As many values as the shape says.
    pub values: Values,
}

/// The tensors of a file, in order of name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Weights {
    /// The tensors.
    pub tensors: Vec<Tensor>,
    /// What a `.safetensors` says about itself; empty for other files.
    pub metadata: HashMap<String, String>,
}

impl Weights {
    /// The tensor of that name.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.iter().find(|t| t.name == name)
    }
}

/// The types in which files store values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Stored {
    F64,
    F32,
    F16,
    Bf16,
    I64,
    I32,
    I16,
    I8,
    U8,
    Bool,
}

/// Little-endian bytes of a file as values. Bytes behind the last whole value are not looked at;
/// both formats have checked the length.
pub(crate) fn decode(bytes: &[u8], stored: Stored) -> Values {
    fn each<const N: usize, T>(bytes: &[u8], value: impl Fn([u8; N]) -> T) -> Vec<T> {
        bytes.as_chunks::<N>().0.iter().map(|b| value(*b)).collect()
    }
    let halves = |bytes| each(bytes, u16::from_le_bytes);
    match stored {
        Stored::F64 => Values::F32(each(bytes, |b| f64::from_le_bytes(b) as f32)),
        Stored::F32 => Values::F32(each(bytes, f32::from_le_bytes)),
        Stored::F16 => {
            let halves: Vec<f16> = halves(bytes).into_iter().map(f16::from_bits).collect();
            Values::F32(halves.to_f32_vec())
        }
        Stored::Bf16 => {
            let halves: Vec<bf16> = halves(bytes).into_iter().map(bf16::from_bits).collect();
            Values::F32(halves.to_f32_vec())
        }
        Stored::I64 => Values::I64(each(bytes, i64::from_le_bytes)),
        Stored::I32 => Values::I64(each(bytes, |b| i64::from(i32::from_le_bytes(b)))),
        Stored::I16 => Values::I64(each(bytes, |b| i64::from(i16::from_le_bytes(b)))),
        Stored::I8 => Values::I64(each(bytes, |b| i64::from(i8::from_le_bytes(b)))),
        Stored::U8 | Stored::Bool => Values::I64(bytes.iter().map(|&b| i64::from(b)).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_widens_to_what_it_stands_for() {
        let floats = |bytes: &[u8], stored| match decode(bytes, stored) {
            Values::F32(v) => v,
            other => panic!("{other:?}"),
        };
        assert_eq!(floats(&1.5f64.to_le_bytes(), Stored::F64), [1.5]);
        assert_eq!(floats(&(-2.25f32).to_le_bytes(), Stored::F32), [-2.25]);
        // 0x3E00 is 1.5 in f16, 0x3FC0 in bf16; 0x0001 the smallest f16 above zero.
        assert_eq!(
            floats(&[0x00, 0x3E, 0x01, 0x00], Stored::F16),
            [1.5, 2f32.powi(-24)]
        );
        assert_eq!(floats(&[0xC0, 0x3F], Stored::Bf16), [1.5]);
        for (bytes, stored) in [
            (&(-3i64).to_le_bytes()[..], Stored::I64),
            (&(-3i32).to_le_bytes(), Stored::I32),
            (&(-3i16).to_le_bytes(), Stored::I16),
            (&(-3i8).to_le_bytes(), Stored::I8),
        ] {
            assert_eq!(decode(bytes, stored), Values::I64(vec![-3]));
        }
        assert_eq!(decode(&[200, 1], Stored::U8), Values::I64(vec![200, 1]));
    }
}
