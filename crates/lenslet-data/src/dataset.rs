//! What a dataset is.

use crate::{DataError, Fingerprint, Image};
use std::sync::Arc;

/// One labelled picture.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The picture as decoded, before any transform.
    pub image: Image,
    /// The class, an index into [`Dataset::class_names`].
    pub label: u32,
}

/// A set of labelled pictures that workers read at random.
///
/// The order of samples and of classes is fixed when the dataset is opened: `get(i)` always means the same picture.
pub trait Dataset: Send + Sync {
    /// Number of samples.
    fn len(&self) -> usize;

    /// True when there are no samples.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The names of the classes, in the order of the labels.
    fn class_names(&self) -> &[String];

    /// The label of sample `index`, without decoding it; `None` past the end.
    fn label(&self, index: usize) -> Option<u32>;

    /// What a person would call sample `index`: its path, or its number in a file.
    fn id(&self, index: usize) -> String;

    /// Sample `index`, decoded.
    ///
    /// # Errors
    /// [`DataError::Index`] past the end; otherwise whatever reading or decoding the sample reports.
    fn get(&self, index: usize) -> Result<Sample, DataError>;

    /// A text that changes when classes, samples or labels do.
    ///
    /// # Errors
    /// Whatever reading a sample reports.
    fn fingerprint(&self) -> Result<String, DataError> {
        let mut print = Fingerprint::default();
        for class in self.class_names() {
            print.add(class.as_bytes());
        }
        for index in 0..self.len() {
            let sample = self.get(index)?;
            print.add(&sample.label.to_le_bytes());
            print.add(sample.image.data());
        }
        Ok(print.text())
    }
}

/// Some samples of another dataset, in a given order.
#[derive(Clone)]
pub struct Subset {
    inner: Arc<dyn Dataset>,
    indices: Vec<usize>,
}

impl Subset {
    /// The samples of `inner` that `indices` names.
    ///
    /// # Errors
    /// [`DataError::Index`] when one of them is past the end of `inner`.
    pub fn new(inner: Arc<dyn Dataset>, indices: Vec<usize>) -> Result<Self, DataError> {
        match indices.iter().find(|&&i| i >= inner.len()) {
            Some(&index) => Err(DataError::Index {
                index,
                len: inner.len(),
            }),
            None => Ok(Self { inner, indices }),
        }
    }
}

impl Dataset for Subset {
    fn len(&self) -> usize {
        self.indices.len()
    }

    fn class_names(&self) -> &[String] {
        self.inner.class_names()
    }

    fn label(&self, index: usize) -> Option<u32> {
        self.inner.label(*self.indices.get(index)?)
    }

    fn id(&self, index: usize) -> String {
        self.indices
            .get(index)
            .map_or_else(|| format!("sample {index}"), |&i| self.inner.id(i))
    }

    fn get(&self, index: usize) -> Result<Sample, DataError> {
        let inner = self.indices.get(index).ok_or(DataError::Index {
            index,
            len: self.len(),
        })?;
        self.inner.get(*inner)
    }
}

/// Number of samples of each class, in the order of the labels.
pub fn class_counts(dataset: &dyn Dataset) -> Vec<usize> {
    let mut counts = vec![0; dataset.class_names().len()];
    for label in (0..dataset.len()).filter_map(|i| dataset.label(i)) {
        if let Some(n) = counts.get_mut(label as usize) {
            *n += 1;
        }
    }
    counts
}
