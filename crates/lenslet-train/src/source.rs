//! Where labelled pictures come from.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use lenslet_data::{DataError, Dataset, FileDataset, Fingerprint, folder, mnist, table};
use serde::{Deserialize, Serialize};

use crate::TrainError;

/// The share of the pictures that is held out where the data do not say which.
const HELD_OUT: f64 = 0.2;

/// Where labelled pictures come from, and how a part of them is held out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DataSource {
    /// The MNIST sample inside the program.
    Embedded,
    /// A folder with the four IDX files of MNIST and its like.
    Idx(PathBuf),
    /// A folder of class folders, or of `train/` and `val/` or `test/` with class folders in them.
    Folder(Files),
    /// A CSV of paths and classes.
    Table(Files),
}

/// Picture files and how some of them are held out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Files {
    /// The folder or the table.
    pub path: PathBuf,
    /// The share that is held out, where the data are not divided.
    pub val_split: Option<f64>,
    /// Decides which pictures are held out.
    pub seed: u64,
}

/// A part of a source's pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
pub enum Part {
    /// What was, or would be, trained on.
    Train,
    /// What is held out.
    Val,
    /// The folder `test/`, or the test files of MNIST.
    Test,
}

/// Training and validation parts of a source.
#[derive(Clone)]
pub struct Split {
    /// What is trained on.
    pub train: Arc<dyn Dataset>,
    /// What is held out.
    pub val: Arc<dyn Dataset>,
}

impl Split {
    /// A text that changes when the data do.
    ///
    /// # Errors
    /// When data cannot be read.
    pub fn fingerprint(&self) -> Result<String, DataError> {
        let mut print = Fingerprint::default();
        print.add(self.train.fingerprint()?.as_bytes());
        print.add(self.val.fingerprint()?.as_bytes());
        Ok(print.text())
    }
}

impl DataSource {
    /// The source that `path` is: a file is a table, a folder with IDX files is MNIST's like, any
    /// other folder has class folders. `val_split` is the share to hold out, if it was given.
    ///
    /// # Errors
    /// When there is nothing at `path`, or `val_split` is given for data that are divided.
    pub fn at(path: &Path, val_split: Option<f64>, seed: u64) -> Result<Self, TrainError> {
        let meta = std::fs::metadata(path).map_err(TrainError::io("read", path))?;
        let files = Files {
            path: path.to_path_buf(),
            val_split,
            seed,
        };
        if meta.is_file() {
            return Ok(Self::Table(files));
        }
        if !mnist::is_in(path) {
            return Ok(Self::Folder(files));
        }
        match val_split {
            None => Ok(Self::Idx(path.to_path_buf())),
            Some(share) => Err(TrainError::Setting {
                setting: "--val-split",
                found: share.to_string(),
                expected: "the IDX files are divided already; leave it out",
            }),
        }
    }

    /// Whether the pictures are files of their own.
    pub fn is_files(&self) -> bool {
        matches!(self, Self::Folder(_) | Self::Table(_))
    }

    /// Opens the training and the validation part.
    ///
    /// # Errors
    /// When files are missing, damaged or do not fit each other, or classes cannot be divided.
    pub fn open(&self) -> Result<Split, TrainError> {
        let digits = |digits: mnist::Mnist| Split {
            train: Arc::new(digits.train),
            val: Arc::new(digits.test),
        };
        match self {
            Self::Embedded => Ok(digits(mnist::embedded()?)),
            Self::Idx(dir) => Ok(digits(mnist::open(dir)?)),
            Self::Folder(files) => {
                let splits = folder::open(&files.path)?;
                match (splits.val, files.val_split) {
                    (Some(_), Some(share)) => Err(TrainError::Setting {
                        setting: "--val-split",
                        found: share.to_string(),
                        expected: "the folder is divided already into train/ and val/ or test/; leave it out",
                    }),
                    (Some(val), None) => Ok(Split {
                        train: Arc::new(splits.train),
                        val: Arc::new(val),
                    }),
                    (None, _) => files.divide(&splits.train),
                }
            }
            Self::Table(files) => files.divide(&table::open(&files.path)?),
        }
    }

    /// Opens one part, with the classes of a trained model, which `classes` are in their order.
    ///
    /// # Errors
    /// As [`DataSource::open`], and when the data have classes that the model does not.
    pub fn part(&self, part: Part, classes: &[String]) -> Result<Arc<dyn Dataset>, TrainError> {
        let missing = |what: &str| {
            TrainError::Mismatch(format!(
                "{self} has no {what} part; measure another one with --split"
            ))
        };
        let (files, folder) = match self {
            Self::Embedded | Self::Idx(_) => {
                let split = self.open()?;
                if split.val.class_names() != classes {
                    return Err(TrainError::Mismatch(format!(
                        "the classes of {self} are not those of the model: it has {}, the data {}",
                        classes.join(", "),
                        split.val.class_names().join(", ")
                    )));
                }
                return Ok(match part {
                    Part::Train => split.train,
                    Part::Val | Part::Test => split.val,
                });
            }
            Self::Folder(files) => (files, true),
            Self::Table(files) => (files, false),
        };
        let all = if folder {
            let scan = folder::scan(&files.path)?;
            let divided = scan.dataset("all").is_none();
            let named = match (part, divided) {
                (Part::Train, true) => scan.dataset("train"),
                (Part::Val, true) => scan.dataset("val").or_else(|| scan.dataset("test")),
                (Part::Test, _) => Some(scan.dataset("test").ok_or_else(|| missing("test"))?),
                (_, false) => None,
            };
            match named {
                Some(part) => return Ok(Arc::new(known(part, classes, &files.path)?)),
                None if divided => return Err(missing("validation")),
                None => scan.dataset("all").ok_or_else(|| missing("labelled"))?,
            }
        } else {
            table::open(&files.path)?
        };
        let chosen = match part {
            // What the run held out; all of the data where it held nothing of them out.
            Part::Val | Part::Train if files.val_split.is_some() => {
                let (train, val) = all.split(files.val_split.unwrap_or(HELD_OUT), files.seed)?;
                if part == Part::Val { val } else { train }
            }
            Part::Test => return Err(missing("test")),
            _ => all,
        };
        Ok(Arc::new(known(chosen, classes, &files.path)?))
    }

    /// The same source with the share that is held out written down where it was left open.
    pub fn settled(&self, divided: bool) -> Self {
        let settle = |files: &Files| Files {
            val_split: files.val_split.or((!divided).then_some(HELD_OUT)),
            ..files.clone()
        };
        match self {
            Self::Folder(files) => Self::Folder(settle(files)),
            Self::Table(files) => Self::Table(settle(files)),
            other => other.clone(),
        }
    }

    /// Whether the data themselves say what is held out.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn is_divided(&self) -> Result<bool, TrainError> {
        Ok(match self {
            Self::Embedded | Self::Idx(_) => true,
            Self::Folder(files) => folder::scan(&files.path)?.dataset("all").is_none(),
            Self::Table(_) => false,
        })
    }
}

/// The files under a model's classes.
fn known(files: FileDataset, classes: &[String], path: &Path) -> Result<FileDataset, TrainError> {
    if files.is_empty() {
        return Err(DataError::Empty {
            what: path.display().to_string(),
        }
        .into());
    }
    Ok(files.with_class_names(classes)?)
}

impl Files {
    fn divide(&self, all: &FileDataset) -> Result<Split, TrainError> {
        let (train, val) = all.split(self.val_split.unwrap_or(HELD_OUT), self.seed)?;
        Ok(Split {
            train: Arc::new(train),
            val: Arc::new(val),
        })
    }
}

impl std::fmt::Display for DataSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DataSource::Embedded => f.write_str("the embedded MNIST sample"),
            DataSource::Idx(path) => write!(f, "{}", path.display()),
            DataSource::Folder(files) | DataSource::Table(files) => {
                write!(f, "{}", files.path.display())
            }
        }
    }
}
