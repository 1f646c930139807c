//! IDX files, the format of MNIST and its successors (LeCun, Cortes and Burges), gzipped or not.

use crate::{DataError, Dataset, Image, Sample};
use flate2::read::MultiGzDecoder;
use std::fs::File;
use std::io::{BufReader, Cursor, ErrorKind, Read};
use std::path::{Path, PathBuf};

/// Unsigned bytes, three dimensions.
const IMAGES_MAGIC: u32 = 0x0803;
/// Unsigned bytes, one dimension.
const LABELS_MAGIC: u32 = 0x0801;
/// Largest number of bytes a file may announce (2 GiB; MNIST has 47 MB).
const MAX_BYTES: u64 = 2 << 30;

/// The images of an IDX file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdxImages {
    /// Number of images.
    pub count: usize,
    /// Rows of each.
    pub rows: usize,
    /// Columns of each.
    pub cols: usize,
    /// The grey values, `[count, rows, cols]`.
    pub pixels: Vec<u8>,
}

impl IdxImages {
    /// Reads the file `path`, gzipped or not (told by content).
    ///
    /// # Errors
    /// [`DataError::Io`], and the `Idx…` errors for a wrong magic number, an impossible header, and a truncated or overlong
    /// file.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        Self::from_bytes(&raw(path)?, path)
    }

    /// Reads the content of a file that errors call `name`.
    ///
    /// # Errors
    /// As [`IdxImages::open`].
    pub fn from_bytes(bytes: &[u8], name: &Path) -> Result<Self, DataError> {
        let mut file = IdxReader::new(bytes, name);
        file.magic(IMAGES_MAGIC, "images")?;
        let [count, rows, cols] = file.dims()?;
        let pixels = file.body([count, rows, cols])?;
        Ok(Self {
            count: count as usize,
            rows: rows as usize,
            cols: cols as usize,
            pixels,
        })
    }
}

/// Reads the labels of the file `path`, gzipped or not, which must all be below `classes`.
///
/// # Errors
/// As [`IdxImages::open`], and [`DataError::IdxLabel`].
pub fn open_labels(path: &Path, classes: usize) -> Result<Vec<u8>, DataError> {
    labels_from_bytes(&raw(path)?, path, classes)
}

/// Reads labels from the content of a file that errors call `name`; they must all be below `classes`.
///
/// # Errors
/// As [`open_labels`].
pub fn labels_from_bytes(bytes: &[u8], name: &Path, classes: usize) -> Result<Vec<u8>, DataError> {
    let mut file = IdxReader::new(bytes, name);
    file.magic(LABELS_MAGIC, "labels")?;
    let [count] = file.dims()?;
    let labels = file.body([count, 1, 1])?;
    match labels.iter().position(|&l| usize::from(l) >= classes) {
        Some(index) => Err(DataError::IdxLabel {
            path: name.into(),
            index,
            label: labels[index],
            classes,
        }),
        None => Ok(labels),
    }
}

/// The content of `path` as it is on disk.
fn raw(path: &Path) -> Result<Vec<u8>, DataError> {
    let io = |e| DataError::io(path, e);
    if !std::fs::metadata(path).map_err(io)?.is_file() {
        return Err(DataError::NotAFile { path: path.into() });
    }
    let mut bytes = Vec::new();
    File::open(path)
        .map_err(io)?
        .take(MAX_BYTES + 17)
        .read_to_end(&mut bytes)
        .map_err(io)?;
    Ok(bytes)
}

/// Reads the parts of an IDX file in order and knows how far it got.
struct IdxReader<'a> {
    name: &'a Path,
    stream: Box<dyn Read + 'a>,
    read: u64,
}

impl<'a> IdxReader<'a> {
    fn new(bytes: &'a [u8], name: &'a Path) -> Self {
        let plain = Cursor::new(bytes);
        let stream: Box<dyn Read + 'a> = if bytes.starts_with(&[0x1f, 0x8b]) {
            Box::new(BufReader::with_capacity(
                1 << 16,
                MultiGzDecoder::new(plain),
            ))
        } else {
            Box::new(plain)
        };
        Self {
            name,
            stream,
            read: 0,
        }
    }

    /// Reads up to `n` bytes; fewer at the end of the file, also when gzip data ends early.
    fn up_to(&mut self, n: u64) -> Result<Vec<u8>, DataError> {
        let mut bytes = Vec::new();
        let result = (&mut self.stream).take(n).read_to_end(&mut bytes);
        self.read += bytes.len() as u64;
        match result {
            Err(e) if e.kind() != ErrorKind::UnexpectedEof => Err(DataError::IdxGzip {
                path: self.name.into(),
                read: self.read,
                reason: e.to_string(),
            }),
            _ => Ok(bytes),
        }
    }

    fn truncated(&self, expected: u64) -> DataError {
        DataError::IdxTruncated {
            path: self.name.into(),
            found: self.read,
            expected,
        }
    }

    fn word(&mut self) -> Result<u32, DataError> {
        let expected = self.read + 4;
        let bytes = self.up_to(4)?;
        let word = <[u8; 4]>::try_from(bytes).map_err(|_| self.truncated(expected))?;
        Ok(u32::from_be_bytes(word))
    }

    fn magic(&mut self, expected: u32, what: &'static str) -> Result<(), DataError> {
        match self.word()? {
            found if found == expected => Ok(()),
            found => Err(DataError::IdxMagic {
                path: self.name.into(),
                what,
                found,
                expected,
            }),
        }
    }

    fn dims<const N: usize>(&mut self) -> Result<[u32; N], DataError> {
        let mut dims = [0; N];
        for d in &mut dims {
            *d = self.word()?;
        }
        Ok(dims)
    }

    /// The data, which must be exactly as long as the three dimensions say.
    fn body(&mut self, [count, rows, cols]: [u32; 3]) -> Result<Vec<u8>, DataError> {
        let size = [rows, cols]
            .iter()
            .try_fold(u64::from(count), |n, &d| n.checked_mul(d.into()));
        let Some(size) = size.filter(|n| (1..=MAX_BYTES).contains(n)) else {
            return Err(DataError::IdxHeader {
                path: self.name.into(),
                count,
                rows,
                cols,
                limit: MAX_BYTES,
            });
        };
        let expected = self.read + size;
        let mut data = self.up_to(size + 1)?;
        match (data.len() as u64).cmp(&size) {
            std::cmp::Ordering::Less => Err(self.truncated(expected)),
            std::cmp::Ordering::Greater => Err(DataError::IdxOverlong {
                path: self.name.into(),
                expected,
            }),
            std::cmp::Ordering::Equal => {
                data.shrink_to_fit();
                Ok(data)
            }
        }
    }
}

/// Images and labels of two IDX files as a dataset of grey pictures.
#[derive(Clone, Debug)]
pub struct IdxDataset {
    name: PathBuf,
    images: IdxImages,
    labels: Vec<u8>,
    class_names: Vec<String>,
}

impl IdxDataset {
    /// Opens a file of images and its file of labels.
    ///
    /// # Errors
    /// As [`IdxImages::open`] and [`open_labels`]; [`DataError::IdxCounts`] when they are of different number.
    pub fn open(images: &Path, labels: &Path, class_names: Vec<String>) -> Result<Self, DataError> {
        let (images_file, labels_file) = (raw(images)?, raw(labels)?);
        Self::from_bytes((&images_file, images), (&labels_file, labels), class_names)
    }

    /// The same from the files' contents, each with the name that errors call it.
    ///
    /// # Errors
    /// As [`IdxDataset::open`].
    pub fn from_bytes(
        images: (&[u8], &Path),
        labels: (&[u8], &Path),
        class_names: Vec<String>,
    ) -> Result<Self, DataError> {
        let (images, images_path) = (IdxImages::from_bytes(images.0, images.1)?, images.1);
        let (labels, labels_path) = (
            labels_from_bytes(labels.0, labels.1, class_names.len())?,
            labels.1,
        );
        if images.count != labels.len() {
            return Err(DataError::IdxCounts {
                images_path: images_path.into(),
                images: images.count,
                labels_path: labels_path.into(),
                labels: labels.len(),
            });
        }
        Ok(Self {
            name: images_path.into(),
            images,
            labels,
            class_names,
        })
    }

    /// Rows and columns of every image.
    pub fn size(&self) -> (usize, usize) {
        (self.images.rows, self.images.cols)
    }

    /// What errors call the file of images.
    pub fn name(&self) -> &Path {
        &self.name
    }
}

impl Dataset for IdxDataset {
    fn len(&self) -> usize {
        self.images.count
    }

    fn class_names(&self) -> &[String] {
        &self.class_names
    }

    fn label(&self, index: usize) -> Option<u32> {
        self.labels.get(index).map(|&l| l.into())
    }

    fn id(&self, index: usize) -> String {
        format!("{}#{index}", self.name.display())
    }

    fn get(&self, index: usize) -> Result<Sample, DataError> {
        let missing = DataError::Index {
            index,
            len: self.len(),
        };
        let label = self.label(index).ok_or(missing)?;
        let size = self.images.rows * self.images.cols;
        let pixels = self.images.pixels[index * size..(index + 1) * size].to_vec();
        Ok(Sample {
            image: Image::new(self.images.cols, self.images.rows, 1, pixels)?,
            label,
        })
    }
}

#[cfg(test)]
mod tests;
