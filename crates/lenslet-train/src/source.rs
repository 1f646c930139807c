//! Where labelled pictures come from.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use lenslet_data::boxes::{self, BoxSet};
use lenslet_data::masks::{self, MaskSet};
use lenslet_data::{DataError, Dataset, FileDataset, Fingerprint, folder, mnist, table};
use lenslet_models::Task;
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
    /// A folder of pictures with masks.
    Masks(Files),
    /// A folder of pictures with boxes.
    Boxes(Files),
}

/// What a source holds: a training part, and one that is held out.
pub enum Data {
    /// Pictures of a class each.
    Classes(Split),
    /// Pictures with masks.
    Masks([MaskSet; 2]),
    /// Pictures with boxes.
    Boxes([BoxSet; 2]),
}

impl Data {
    /// The names of the classes, in order.
    pub fn classes(&self) -> &[String] {
        match self {
            Self::Classes(split) => split.train.class_names(),
            Self::Masks([train, _]) => train.classes(),
            Self::Boxes([train, _]) => train.classes(),
        }
    }

    /// A text that changes when the data do.
    ///
    /// # Errors
    /// When data cannot be read.
    pub fn fingerprint(&self) -> Result<String, DataError> {
        let parts = match self {
            Self::Classes(split) => return split.fingerprint(),
            Self::Masks(sets) => sets.each_ref().map(MaskSet::fingerprint),
            Self::Boxes(sets) => sets.each_ref().map(BoxSet::fingerprint),
        };
        let mut print = Fingerprint::default();
        parts.iter().for_each(|part| print.add(part.as_bytes()));
        Ok(print.text())
    }
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

    /// The source of pictures with masks or with boxes in the folder `path`.
    ///
    /// # Errors
    /// When it is no folder, or `task` is classification.
    pub fn for_task(
        task: Task,
        path: &Path,
        val_split: Option<f64>,
        seed: u64,
    ) -> Result<Self, TrainError> {
        let meta = std::fs::metadata(path).map_err(TrainError::io("read", path))?;
        let files = Files {
            path: path.to_path_buf(),
            val_split,
            seed,
        };
        match task {
            Task::Classification => Self::at(path, val_split, seed),
            _ if !meta.is_dir() => Err(TrainError::Mismatch(format!(
                "{} is a file; name the folder of pictures with masks or boxes",
                path.display()
            ))),
            Task::Segmentation => Ok(Self::Masks(files)),
            Task::Detection => Ok(Self::Boxes(files)),
        }
    }

    /// What is to be learnt of it.
    pub fn task(&self) -> Task {
        match self {
            Self::Masks(_) => Task::Segmentation,
            Self::Boxes(_) => Task::Detection,
            _ => Task::Classification,
        }
    }

    /// Opens the training and the validation part, whatever the task.
    ///
    /// # Errors
    /// As [`DataSource::open`].
    pub fn data(&self) -> Result<Data, TrainError> {
        match self {
            Self::Masks(files) => {
                let splits = masks::open(&files.path)?;
                files.refuse_share(splits.val.is_some())?;
                Ok(Data::Masks(match splits.val {
                    Some(val) => [splits.train, val],
                    None => splits.train.split(files.share(), files.seed)?.into(),
                }))
            }
            Self::Boxes(files) => {
                let splits = boxes::open(&files.path)?;
                files.refuse_share(splits.val.is_some())?;
                Ok(Data::Boxes(match splits.val {
                    Some(val) => [splits.train, val],
                    None => splits.train.split(files.share(), files.seed)?.into(),
                }))
            }
            _ => Ok(Data::Classes(self.open()?)),
        }
    }

    /// Opens one part of pictures with masks, with the classes of a trained model.
    ///
    /// # Errors
    /// As [`DataSource::open`], and when the data have other classes than the model.
    pub fn masks(&self, part: Part, classes: &[String]) -> Result<MaskSet, TrainError> {
        let Self::Masks(files) = self else {
            return Err(self.wrong_task());
        };
        let splits = masks::open(&files.path)?;
        let named = splits.named;
        let whole = (splits.train, splits.val, splits.test);
        let set = files.choose(part, whole, |set| set.split(files.share(), files.seed))?;
        Ok(set.with_classes(classes, named)?)
    }

    /// Opens one part of pictures with boxes, with the classes of a trained model.
    ///
    /// # Errors
    /// As [`DataSource::open`], and when the data have classes that the model does not.
    pub fn boxes(&self, part: Part, classes: &[String]) -> Result<BoxSet, TrainError> {
        let Self::Boxes(files) = self else {
            return Err(self.wrong_task());
        };
        let splits = boxes::open(&files.path)?;
        let whole = (splits.train, splits.val, splits.test);
        let set = files.choose(part, whole, |set| set.split(files.share(), files.seed))?;
        Ok(set.with_classes(classes)?)
    }

    fn wrong_task(&self) -> TrainError {
        TrainError::Mismatch(format!("{self} is not for this model's task"))
    }

    /// Whether the pictures are files of their own.
    pub fn is_files(&self) -> bool {
        !matches!(self, Self::Embedded | Self::Idx(_))
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
            Self::Masks(_) | Self::Boxes(_) => Err(self.wrong_task()),
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
            Self::Masks(_) | Self::Boxes(_) => return Err(self.wrong_task()),
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
            Self::Masks(files) => Self::Masks(settle(files)),
            Self::Boxes(files) => Self::Boxes(settle(files)),
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
            Self::Masks(files) => masks::open(&files.path)?.val.is_some(),
            Self::Boxes(files) => boxes::open(&files.path)?.val.is_some(),
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
    fn share(&self) -> f64 {
        self.val_split.unwrap_or(HELD_OUT)
    }

    /// A share to hold out makes no sense where the data are divided.
    fn refuse_share(&self, divided: bool) -> Result<(), TrainError> {
        match self.val_split {
            Some(share) if divided => Err(TrainError::Setting {
                setting: "--val-split",
                found: share.to_string(),
                expected: "the data are divided already; leave it out",
            }),
            _ => Ok(()),
        }
    }

    /// One part of data that may be divided; of undivided data what the run held out, or all of them
    /// where it held nothing of them out.
    fn choose<T>(
        &self,
        part: Part,
        (train, val, test): (T, Option<T>, Option<T>),
        split: impl FnOnce(&T) -> Result<(T, T), DataError>,
    ) -> Result<T, TrainError> {
        let missing = || {
            TrainError::Mismatch(format!(
                "{} has no such part; measure another one with --split",
                self.path.display()
            ))
        };
        match (part, val) {
            (Part::Test, _) => test.ok_or_else(missing),
            (Part::Train, Some(_)) => Ok(train),
            (Part::Val, Some(val)) => Ok(val),
            (_, None) if self.val_split.is_none() => Ok(train),
            (part, None) => {
                let (train, val) = split(&train)?;
                Ok(if part == Part::Val { val } else { train })
            }
        }
    }

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
            DataSource::Folder(files)
            | DataSource::Table(files)
            | DataSource::Masks(files)
            | DataSource::Boxes(files) => {
                write!(f, "{}", files.path.display())
            }
        }
    }
}
