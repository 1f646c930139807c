//! Arrays in NumPy's `.npy` files.
//!
//! The format is a magic number, a version, and one line that is a Python dictionary with the element
//! type, the order and the shape; then the numbers
//! (<https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>).

use std::path::{Path, PathBuf};

use half::f16;

const MAGIC: &[u8] = b"\x93NUMPY";

/// Numbers in row-major order.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    /// Its dimensions; none for a single number.
    pub shape: Vec<usize>,
    /// The numbers.
    pub data: Vec<f32>,
    /// What they were in the file.
    pub kind: ElementKind,
}

/// What the elements of a file are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ElementKind {
    /// 32-bit floating point, `<f4`.
    F32,
    /// 64-bit floating point, `<f8`: rounded to 32 bits.
    F64,
    /// 16-bit floating point, `<f2`: the same numbers in 32 bits.
    F16,
    /// Bytes, `|u1`: the numbers from 0 to 255 as they are, neither scaled nor normalised.
    U8,
}

impl ElementKind {
    fn size(self) -> usize {
        match self {
            ElementKind::F32 => 4,
            ElementKind::F64 => 8,
            ElementKind::F16 => 2,
            ElementKind::U8 => 1,
        }
    }
}

/// Why an array was not read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NpyError {
    /// The system says no.
    #[error("{path}: cannot be {action}: {cause}")]
    Io {
        /// The file.
        path: PathBuf,
        /// "read" or "written".
        action: &'static str,
        /// What the system said.
        cause: std::io::Error,
    },
    /// The file is something else.
    #[error("{path}: is not a NumPy .npy file ({reason}); write it with numpy.save")]
    NotNpy {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Elements that are not read.
    #[error(
        "{path}: holds elements of type {found}; float32, float64, float16 and uint8 are read, little-endian: \
         save x.astype(numpy.float32)"
    )]
    Kind {
        /// The file.
        path: PathBuf,
        /// The type in NumPy's notation.
        found: String,
    },
    /// Fewer or more bytes than the header announces.
    #[error(
        "{path}: a shape of {shape:?} needs {expected} bytes, but {found} follow the header; the file is truncated or \
         damaged, save it again"
    )]
    Length {
        /// The file.
        path: PathBuf,
        /// What the header says.
        shape: Vec<usize>,
        /// Bytes that should follow.
        expected: u128,
        /// Bytes that do.
        found: usize,
    },
}

/// Reads an array.
///
/// # Errors
/// When the file cannot be read, is no `.npy` file, is truncated, or its elements are none of
/// [`ElementKind`].
pub fn read(path: &Path) -> Result<Array, NpyError> {
    let bytes = std::fs::read(path).map_err(|cause| NpyError::Io {
        path: path.to_path_buf(),
        action: "read",
        cause,
    })?;
    parse(&bytes, path)
}

/// Reads an array of a file's bytes; `path` is for errors only.
///
/// # Errors
/// As [`read`].
pub fn parse(bytes: &[u8], path: &Path) -> Result<Array, NpyError> {
    let not_npy = |reason: &str| NpyError::NotNpy {
        path: path.to_path_buf(),
        reason: reason.to_string(),
    };
    let rest = bytes.strip_prefix(MAGIC);
    let rest = rest.ok_or_else(|| not_npy("it does not begin as one"))?;
    let cut = || not_npy("its header is cut off");
    let (&[version, _], rest) = rest.split_first_chunk::<2>().ok_or_else(cut)?;
    let length_bytes = match version {
        1 => 2,
        2 | 3 => 4,
        _ => return Err(not_npy(&format!("its version is {version}"))),
    };
    let (length, rest) = rest.split_at_checked(length_bytes).ok_or_else(cut)?;
    let length = length
        .iter()
        .rev()
        .fold(0, |n, &byte| n << 8 | usize::from(byte));
    let (header, numbers) = rest.split_at_checked(length).ok_or_else(cut)?;
    let header = std::str::from_utf8(header).map_err(|_| not_npy("its header is no text"))?;
    let header = Header::parse(header).ok_or_else(|| not_npy("its header is malformed"))?;

    let kind = match header.descr {
        "<f4" => ElementKind::F32,
        "<f8" => ElementKind::F64,
        "<f2" => ElementKind::F16,
        "|u1" | "<u1" => ElementKind::U8,
        other => {
            return Err(NpyError::Kind {
                path: path.to_path_buf(),
                found: other.to_string(),
            });
        }
    };
    let sides = header.shape.iter().map(|&n| n as u128);
    let expected = sides.fold(kind.size() as u128, u128::saturating_mul);
    if numbers.len() as u128 != expected {
        return Err(NpyError::Length {
            path: path.to_path_buf(),
            shape: header.shape,
            expected,
            found: numbers.len(),
        });
    }
    let data = widened(numbers, kind);
    let data = match header.fortran_order {
        true => row_major(&data, &header.shape),
        false => data,
    };
    Ok(Array {
        shape: header.shape,
        data,
        kind,
    })
}

/// An array as the bytes of a file of 32-bit floating-point numbers.
///
/// # Panics
/// When `data` has another number of elements than `shape`.
pub fn to_bytes(shape: &[usize], data: &[f32]) -> Vec<u8> {
    assert_eq!(shape.iter().product::<usize>(), data.len());
    let sides: Vec<String> = shape.iter().map(|n| format!("{n},")).collect();
    let sides = match sides.as_slice() {
        [one] => one.clone(),
        several => several.join(" ").trim_end_matches(',').to_string(),
    };
    let mut header =
        format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({sides}), }}").into_bytes();
    // The numbers begin at a multiple of 64; the line ends with a line feed.
    let before = MAGIC.len() + 4;
    let whole = (before + header.len() + 1).next_multiple_of(64);
    header.resize(whole - before - 1, b' ');
    header.push(b'\n');
    let mut bytes = MAGIC.to_vec();
    bytes.extend([1, 0]);
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header);
    bytes.extend(data.iter().flat_map(|v| v.to_le_bytes()));
    bytes
}

fn widened(bytes: &[u8], kind: ElementKind) -> Vec<f32> {
    match kind {
        ElementKind::F32 => numbers(bytes, f32::from_le_bytes),
        ElementKind::F64 => numbers(bytes, |b| f64::from_le_bytes(b) as f32),
        ElementKind::F16 => numbers(bytes, |b| f16::from_le_bytes(b).to_f32()),
        ElementKind::U8 => bytes.iter().map(|&b| f32::from(b)).collect(),
    }
}

fn numbers<const N: usize>(bytes: &[u8], read: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    let (whole, _) = bytes.as_chunks::<N>();
    whole.iter().map(|&chunk| read(chunk)).collect()
}

/// Numbers whose first index runs fastest, brought into the order in which the last one does.
fn row_major(data: &[f32], shape: &[usize]) -> Vec<f32> {
    let mut strides = vec![1; shape.len()];
    for d in 1..shape.len() {
        strides[d] = strides[d - 1] * shape[d - 1];
    }
    let mut index = vec![0; shape.len()];
    let mut at = 0;
    let next = |_| {
        let value = data[at];
        for d in (0..shape.len()).rev() {
            index[d] += 1;
            at += strides[d];
            if index[d] < shape[d] {
                break;
            }
            at -= strides[d] * shape[d];
            index[d] = 0;
        }
        value
    };
    (0..data.len()).map(next).collect()
}

/// What the line at the head of a file says.
struct Header<'a> {
    descr: &'a str,
    fortran_order: bool,
    shape: Vec<usize>,
}

impl<'a> Header<'a> {
    /// A dictionary of exactly these three entries, in any order.
    fn parse(text: &'a str) -> Option<Self> {
        let text = text.trim().strip_prefix('{')?.strip_suffix('}')?;
        let (mut descr, mut fortran_order, mut shape) = (None, None, None);
        let mut rest = text.trim_start();
        while !rest.is_empty() {
            let (key, value) = quoted(rest)?;
            let value = value.trim_start().strip_prefix(':')?.trim_start();
            rest = match key {
                "descr" if descr.is_none() => {
                    // A structured type is a list instead of a name.
                    let (name, rest) = quoted(value).or_else(|| {
                        let end = value.find(']')? + 1;
                        Some(value.split_at(end))
                    })?;
                    descr = Some(name);
                    rest
                }
                "fortran_order" if fortran_order.is_none() => {
                    let end = value.find(|c: char| !c.is_alphabetic());
                    let end = end.unwrap_or(value.len());
                    let (word, rest) = value.split_at(end);
                    fortran_order = Some(match word {
                        "True" => true,
                        "False" => false,
                        _ => return None,
                    });
                    rest
                }
                "shape" if shape.is_none() => {
                    let (sides, rest) = value.strip_prefix('(')?.split_once(')')?;
                    shape = Some(tuple(sides)?);
                    rest
                }
                _ => return None,
            };
            rest = rest.trim_start();
            rest = match rest.strip_prefix(',') {
                Some(rest) => rest.trim_start(),
                None if rest.is_empty() => rest,
                None => return None,
            };
        }
        Some(Self {
            descr: descr?,
            fortran_order: fortran_order?,
            shape: shape?,
        })
    }
}

/// A quoted word, and what follows it.
fn quoted(text: &str) -> Option<(&str, &str)> {
    let quote = text.chars().next().filter(|c| "'\"".contains(*c))?;
    text[1..].split_once(quote)
}

/// `3, 4` or `3,` or nothing.
fn tuple(text: &str) -> Option<Vec<usize>> {
    let text = text.trim();
    if text.is_empty() {
        return Some(Vec::new());
    }
    let sides = text.strip_suffix(',').unwrap_or(text).split(',');
    sides.map(|side| side.trim().parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, numbers: &[u8]) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend([1, 0]);
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend(numbers);
        bytes
    }

    fn parsed(bytes: &[u8]) -> Result<Array, String> {
        parse(bytes, Path::new("x.npy")).map_err(|e| e.to_string())
    }

    #[test]
    fn what_is_written_is_read() {
        for shape in [vec![], vec![5], vec![2, 3], vec![1, 3, 4, 2], vec![0, 3]] {
            let count = shape.iter().product();
            let data: Vec<f32> = (0..count).map(|i| i as f32 - 0.3).collect();
            let bytes = to_bytes(&shape, &data);
            assert_eq!((bytes.len() - 4 * count) % 64, 0);
            let kind = ElementKind::F32;
            assert_eq!(parsed(&bytes), Ok(Array { shape, data, kind }));
        }
    }

    /// As NumPy saves `numpy.asfortranarray([[1, 2, 3], [4, 5, 6]])` of type `<f2`.
    #[test]
    fn fortran_order_is_turned() {
        let mut numbers = Vec::new();
        for value in [1.0, 4.0, 2.0, 5.0, 3.0, 6.0] {
            numbers.extend(f16::from_f32(value).to_le_bytes());
        }
        let header = "{'descr': '<f2', 'fortran_order': True, 'shape': (2, 3), }          \n";
        let array = parsed(&file(header, &numbers)).unwrap();
        assert_eq!(array.data, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert_eq!(array.kind, ElementKind::F16);
    }

    #[test]
    fn every_kind_becomes_32_bits() {
        let numbers = [0.1f64, -2.5].map(f64::to_le_bytes).concat();
        let header = "{'shape': (2,), 'descr': '<f8', 'fortran_order': False}\n";
        assert_eq!(parsed(&file(header, &numbers)).unwrap().data, [0.1, -2.5]);
        let header = "{\"descr\": \"|u1\", \"fortran_order\": False, \"shape\": (1, 2)}\n";
        assert_eq!(parsed(&file(header, &[0, 255])).unwrap().data, [0.0, 255.0]);
    }

    #[test]
    fn others_are_refused() {
        let good = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }\n";
        let refused = |bytes: &[u8], word: &str| {
            let error = parsed(bytes).unwrap_err();
            assert!(error.contains(word), "{error}");
        };
        refused(b"PK\x03\x04", "does not begin as one");
        refused(&file(good, &[0; 7]), "needs 8 bytes, but 7 follow");
        refused(&file(good, &[0; 9]), "damaged");
        refused(&file(good, &[0; 8])[..40], "cut off");
        for kind in ["<i8", ">f4", "|O", "<c8"] {
            refused(&file(&good.replace("<f4", kind), &[0; 8]), kind);
        }
        let structured = good.replace("'<f4'", "[('a', '<f4')]");
        refused(&file(&structured, &[0; 8]), "[('a', '<f4')]");
        for (from, to) in [
            ("False", "Maybe"),
            ("(2,)", "(2"),
            ("(2,)", "(-2,)"),
            ("(2,)", "(2,,)"),
            ("'shape'", "'size'"),
            ("{", "["),
            ("'descr': '<f4', ", ""),
        ] {
            refused(&file(&good.replace(from, to), &[0; 8]), "malformed");
        }
        let huge = good.replace("(2,)", "(99999999999999999999,)");
        refused(&file(&huge, &[0; 8]), "malformed");
        let huge = good.replace("(2,)", "(18446744073709551615, 18446744073709551615)");
        refused(&file(&huge, &[0; 8]), "truncated");
    }
}
