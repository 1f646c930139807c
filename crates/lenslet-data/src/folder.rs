//! Folders with one folder a class.
//!
//! Either `DIR/CLASS/…`, or `DIR/train/CLASS/…` with `DIR/val/CLASS/…` (also `valid`, `validation`) and `DIR/test/CLASS/…`.
//! Images may lie in folders below their class. The order of the classes is the natural order of their names. Hidden
//! files and what systems leave behind (`.DS_Store`, `.ipynb_checkpoints`, `Thumbs.db`) are passed over.

use crate::files::{entries, natural_order, walk};
use crate::{DataError, Dataset, FileDataset, FileEntry};
use std::path::{Path, PathBuf};

/// What a folder holds, before anything is demanded of it.
#[derive(Clone, Debug)]
pub struct Scan {
    /// The folder.
    pub dir: PathBuf,
    /// Its splits; one, called "all", when it has class folders only.
    pub splits: Vec<ScannedSplit>,
    /// Files that are no images, and images outside the class folders.
    pub others: Vec<String>,
}

/// One split of a folder.
#[derive(Clone, Debug)]
pub struct ScannedSplit {
    /// "train", "val", "test" or "all".
    pub name: &'static str,
    /// Its folder.
    pub dir: PathBuf,
    /// Its classes with their image files: path, and name below the dataset's folder.
    pub classes: Vec<(String, Vec<(PathBuf, String)>)>,
}

/// A folder's dataset, divided as the folder divides it.
#[derive(Clone, Debug)]
pub struct FolderSplits {
    /// What is trained on; the whole when the folder has class folders only.
    pub train: FileDataset,
    /// What is validated on: `val`, or else `test`; `None` when the folder has neither (see [`FileDataset::split`]).
    pub val: Option<FileDataset>,
    /// A test split beside `val`.
    pub test: Option<FileDataset>,
}

/// Which split a folder's name means.
fn split_name(folder: &str) -> Option<&'static str> {
    match folder.to_lowercase().as_str() {
        "train" | "training" => Some("train"),
        "val" | "valid" | "validation" => Some("val"),
        "test" => Some("test"),
        _ => None,
    }
}

/// Reads what lies in `dir`.
///
/// # Errors
/// [`DataError::Io`] for a folder that cannot be read; [`DataError::TwoSplits`].
pub fn scan(dir: &Path) -> Result<Scan, DataError> {
    let top = entries(dir)?;
    let folders: Vec<_> = top.iter().filter(|(_, _, is_dir)| *is_dir).collect();
    let named: Vec<Option<&'static str>> =
        folders.iter().map(|(name, ..)| split_name(name)).collect();
    // A class may be called "train"; but then others beside it are not called like splits.
    let divided = named.iter().all(Option::is_some) && named.contains(&Some("train"));
    let mut others: Vec<String> = top
        .iter()
        .filter(|(_, _, is_dir)| !is_dir)
        .map(|(name, ..)| name.clone())
        .collect();
    let mut splits: Vec<ScannedSplit> = Vec::new();
    if divided {
        for ((folder, path, _), name) in folders.into_iter().zip(named) {
            let name = name.unwrap_or("train");
            if splits.iter().any(|s| s.name == name) {
                return Err(DataError::TwoSplits {
                    dir: dir.into(),
                    split: name,
                });
            }
            splits.push(scan_split(path, name, &format!("{folder}/"), &mut others)?);
        }
        let rank = |name| ["train", "val", "test"].iter().position(|n| *n == name);
        splits.sort_by_key(|s| rank(s.name));
    } else {
        others.clear();
        splits.push(scan_split(dir, "all", "", &mut others)?);
    }
    Ok(Scan {
        dir: dir.into(),
        splits,
        others,
    })
}

fn scan_split(
    dir: &Path,
    name: &'static str,
    prefix: &str,
    others: &mut Vec<String>,
) -> Result<ScannedSplit, DataError> {
    let mut classes = Vec::new();
    for (class, path, is_dir) in entries(dir)? {
        let label = format!("{prefix}{class}");
        if is_dir {
            let found = walk(&path, &label)?;
            others.extend(found.others);
            classes.push((class, found.images));
        } else {
            others.push(label);
        }
    }
    Ok(ScannedSplit {
        name,
        dir: dir.into(),
        classes,
    })
}

impl Scan {
    /// The names of all classes, in natural order.
    pub fn class_names(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .splits
            .iter()
            .flat_map(|s| s.classes.iter().map(|(c, _)| c.clone()))
            .collect();
        names.sort_by(|a, b| natural_order(a, b));
        names.dedup();
        names
    }

    /// Everything that keeps the folder from being trained on.
    pub fn problems(&self) -> Vec<DataError> {
        let mut problems = Vec::new();
        let names = self.class_names();
        if names.len() < 2 {
            let found = match names.first() {
                Some(only) => format!("one class folder (\"{only}\")"),
                None => format!("no class folders ({} files)", self.others.len()),
            };
            return vec![DataError::NoClasses {
                dir: self.dir.clone(),
                found,
            }];
        }
        problems.extend(differing_by_case(&self.dir, &names));
        for split in &self.splits {
            let empty: Vec<_> = split
                .classes
                .iter()
                .filter(|(_, files)| files.is_empty())
                .map(|(c, _)| c.clone())
                .collect();
            if !empty.is_empty() {
                problems.push(DataError::EmptyClasses {
                    dir: split.dir.clone(),
                    classes: empty.join(", "),
                });
            }
            let missing: Vec<_> = names
                .iter()
                .filter(|n| !split.classes.iter().any(|(c, _)| c == *n))
                .cloned()
                .collect();
            if !missing.is_empty() {
                problems.push(DataError::MissingClasses {
                    dir: split.dir.clone(),
                    classes: missing.join(", "),
                });
            }
        }
        problems
    }

    /// The split of this name as a dataset, with the classes of all splits.
    pub fn dataset(&self, split: &str) -> Option<FileDataset> {
        let names = self.class_names();
        let scanned = self.splits.iter().find(|s| s.name == split)?;
        let mut files = Vec::new();
        for (class, found) in &scanned.classes {
            let label = names.iter().position(|n| n == class)? as u32;
            files.extend(found.iter().map(|(path, name)| FileEntry {
                path: path.clone(),
                name: name.clone(),
                label,
            }));
        }
        Some(FileDataset::new(files, names))
    }
}

/// The names of `names`, which are in natural order, that only their case tells apart.
pub(crate) fn differing_by_case(dir: &Path, names: &[String]) -> Vec<DataError> {
    let same = names
        .windows(2)
        .filter(|w| w[0].to_lowercase() == w[1].to_lowercase());
    same.map(|w| DataError::ClassesByCase {
        dir: dir.into(),
        a: w[0].clone(),
        b: w[1].clone(),
    })
    .collect()
}

/// Opens a folder of class folders, divided or not.
///
/// # Errors
/// The first of [`Scan::problems`]: no or one class, names that differ by case only, empty classes, classes that one split
/// does not have; and those of [`scan`].
pub fn open(dir: &Path) -> Result<FolderSplits, DataError> {
    let scan = scan(dir)?;
    if let Some(problem) = scan.problems().into_iter().next() {
        return Err(problem);
    }
    let train = scan.dataset("train").or_else(|| scan.dataset("all"));
    let train = train
        .filter(|t| !t.is_empty())
        .ok_or_else(|| DataError::Empty {
            what: dir.display().to_string(),
        })?;
    match (scan.dataset("val"), scan.dataset("test")) {
        (None, test) => Ok(FolderSplits {
            train,
            val: test,
            test: None,
        }),
        (val, test) => Ok(FolderSplits { train, val, test }),
    }
}
