//! MNIST and the datasets in its file layout (Fashion-MNIST, KMNIST), and the sample of it that is built in.

use crate::{DataError, IdxDataset};
use std::path::{Path, PathBuf};

/// A dataset in MNIST's four files: ten classes, grey.
#[derive(Clone, Debug)]
pub struct Mnist {
    /// The training split.
    pub train: IdxDataset,
    /// The test split.
    pub test: IdxDataset,
}

/// One of the four files.
struct Part {
    what: &'static str,
    stem: &'static str,
    kind: &'static str,
}

const PARTS: [Part; 4] = [
    Part {
        what: "training images",
        stem: "train-images",
        kind: "idx3-ubyte",
    },
    Part {
        what: "training labels",
        stem: "train-labels",
        kind: "idx1-ubyte",
    },
    Part {
        what: "test images",
        stem: "t10k-images",
        kind: "idx3-ubyte",
    },
    Part {
        what: "test labels",
        stem: "t10k-labels",
        kind: "idx1-ubyte",
    },
];

impl Part {
    /// The names in use, without `.gz`.
    fn names(&self) -> [String; 2] {
        [
            format!("{}-{}", self.stem, self.kind),
            format!("{}.{}", self.stem, self.kind),
        ]
    }

    fn find(&self, dir: &Path) -> Option<PathBuf> {
        let names = self
            .names()
            .into_iter()
            .flat_map(|n| [n.clone(), format!("{n}.gz")]);
        names.map(|n| dir.join(n)).find(|p| p.is_file())
    }
}

/// The names of the ten classes, "0" to "9".
pub fn class_names() -> Vec<String> {
    (0..10).map(|d| d.to_string()).collect()
}

/// True when `dir` holds at least one of the four files, so that it is meant as such a dataset.
pub fn is_in(dir: &Path) -> bool {
    PARTS.iter().any(|p| p.find(dir).is_some())
}

/// Opens the four IDX files in `dir`, each gzipped or not: `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`,
/// `t10k-images-idx3-ubyte`, `t10k-labels-idx1-ubyte`, also with `.` in place of the last `-` before `idx`.
///
/// # Errors
/// [`DataError::IdxMissing`] naming the file that is not there, [`DataError::IdxSizes`] when the splits differ in size,
/// and those of [`IdxDataset::open`].
pub fn open(dir: &Path) -> Result<Mnist, DataError> {
    std::fs::read_dir(dir).map_err(|e| DataError::io(dir, e))?;
    let find = |part: &Part| {
        part.find(dir).ok_or_else(|| DataError::IdxMissing {
            dir: dir.into(),
            what: part.what,
            tried: part.names().join(", "),
        })
    };
    let [train_images, train_labels, test_images, test_labels] = PARTS.each_ref().map(find);
    let train = IdxDataset::open(&train_images?, &train_labels?, class_names())?;
    let test = IdxDataset::open(&test_images?, &test_labels?, class_names())?;
    if train.size() != test.size() {
        return Err(DataError::IdxSizes {
            train_path: train.name().into(),
            train: train.size(),
            test_path: test.name().into(),
            test: test.size(),
        });
    }
    Ok(Mnist { train, test })
}

/// The sample of MNIST that is built in: 8,000 training and 2,000 test digits of 28 x 28. Unpacking takes some tens of
/// milliseconds.
///
/// # Errors
/// None in a sound build.
pub fn embedded() -> Result<Mnist, DataError> {
    macro_rules! asset {
        ($name:literal) => {
            (
                include_bytes!(concat!("../assets/mnist-10k/", $name)).as_slice(),
                Path::new(concat!("embedded:", $name)),
            )
        };
    }
    Ok(Mnist {
        train: IdxDataset::from_bytes(
            asset!("train-images-idx3-ubyte.gz"),
            asset!("train-labels-idx1-ubyte.gz"),
            class_names(),
        )?,
        test: IdxDataset::from_bytes(
            asset!("t10k-images-idx3-ubyte.gz"),
            asset!("t10k-labels-idx1-ubyte.gz"),
            class_names(),
        )?,
    })
}
