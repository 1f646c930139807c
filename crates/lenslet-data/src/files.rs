//! Datasets of image files.

use crate::decode::{self, Format, Limits};
use crate::{DataError, Dataset, Fingerprint, Sample};
use std::cmp::Ordering;
use std::collections::HashSet;
use std::io::Read;
use std::path::{Path, PathBuf};

/// One image file and its class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileEntry {
    /// Where it is.
    pub path: PathBuf,
    /// What it is called in reports: its path below the dataset's folder, with `/` between the parts.
    pub name: String,
    /// Its class.
    pub label: u32,
}

/// Image files with their classes. Files are decoded when they are asked for.
#[derive(Clone, Debug)]
pub struct FileDataset {
    files: Vec<FileEntry>,
    class_names: Vec<String>,
    limits: Limits,
}

impl FileDataset {
    /// A dataset of these files; their labels are indices into `class_names`.
    pub(crate) fn new(files: Vec<FileEntry>, class_names: Vec<String>) -> Self {
        Self {
            files,
            class_names,
            limits: Limits::default(),
        }
    }

    /// Files of unknown class, for prediction: one class without a name.
    pub fn unlabelled(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        let entry = |path: PathBuf| FileEntry {
            name: path.display().to_string(),
            path,
            label: 0,
        };
        Self::new(paths.into_iter().map(entry).collect(), vec![String::new()])
    }

    /// The files, in the order of the samples.
    pub fn files(&self) -> &[FileEntry] {
        &self.files
    }

    /// The same dataset under other limits.
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// The same files with the classes of a trained model, in its order.
    ///
    /// # Errors
    /// [`DataError::UnknownClasses`] when there are files of a class that `class_names` does not have.
    pub fn with_class_names(self, class_names: &[String]) -> Result<Self, DataError> {
        let to: Vec<Option<u32>> = self
            .class_names
            .iter()
            .map(|own| {
                class_names
                    .iter()
                    .position(|c| c == own)
                    .map(|at| at as u32)
            })
            .collect();
        let mut unknown = Vec::new();
        let mut files = self.files;
        for file in &mut files {
            let old = file.label as usize;
            match to.get(old).copied().flatten() {
                Some(label) => file.label = label,
                None => unknown.extend(self.class_names.get(old).cloned()),
            }
        }
        unknown.dedup();
        if unknown.is_empty() {
            Ok(Self {
                files,
                class_names: class_names.to_vec(),
                limits: self.limits,
            })
        } else {
            Err(DataError::UnknownClasses {
                found: unknown.join(", "),
                known: class_names.join(", "),
            })
        }
    }

    /// Some of the files.
    pub(crate) fn part(&self, indices: &[usize]) -> Self {
        let files = indices
            .iter()
            .filter_map(|&i| self.files.get(i).cloned())
            .collect();
        Self {
            files,
            class_names: self.class_names.clone(),
            limits: self.limits,
        }
    }
}

impl Dataset for FileDataset {
    fn len(&self) -> usize {
        self.files.len()
    }

    fn class_names(&self) -> &[String] {
        &self.class_names
    }

    fn label(&self, index: usize) -> Option<u32> {
        self.files.get(index).map(|f| f.label)
    }

    fn id(&self, index: usize) -> String {
        self.files.get(index).map_or_else(
            || format!("sample {index}"),
            |f| f.path.display().to_string(),
        )
    }

    fn get(&self, index: usize) -> Result<Sample, DataError> {
        let file = self.files.get(index).ok_or(DataError::Index {
            index,
            len: self.len(),
        })?;
        let decoded = decode::read_within(&file.path, self.limits)?;
        Ok(Sample {
            image: decoded.image,
            label: file.label,
        })
    }

    /// Of names below the folder, labels and lengths: moving the folder changes nothing, and no file is read.
    fn fingerprint(&self) -> Result<String, DataError> {
        let mut print = Fingerprint::default();
        for class in &self.class_names {
            print.add(class.as_bytes());
        }
        for file in &self.files {
            print.add(file.name.as_bytes());
            print.add(&file.label.to_le_bytes());
            // A file that cannot be looked at is no error here: it will be one where it is read.
            let length = std::fs::metadata(&file.path).map_or(u64::MAX, |meta| meta.len());
            print.add(&length.to_le_bytes());
        }
        Ok(print.text())
    }
}

/// The order in which people number things: digits by their value, letters without regard to case.
pub fn natural_order(a: &str, b: &str) -> Ordering {
    let (mut left, mut right) = (a.chars().peekable(), b.chars().peekable());
    loop {
        let order = match (left.peek(), right.peek()) {
            (Some(x), Some(y)) if x.is_ascii_digit() && y.is_ascii_digit() => {
                let number = |chars: &mut std::iter::Peekable<std::str::Chars>| {
                    let mut digits = String::new();
                    while let Some(d) = chars.next_if(char::is_ascii_digit) {
                        digits.push(d);
                    }
                    let significant = digits.trim_start_matches('0').len();
                    (significant, digits.split_off(digits.len() - significant))
                };
                number(&mut left).cmp(&number(&mut right))
            }
            (Some(x), Some(y)) => {
                let order = x.to_lowercase().cmp(y.to_lowercase());
                left.next();
                right.next();
                order
            }
            // Equal but for case or zeros in front: some fixed order.
            (None, None) => return a.cmp(b),
            (x, y) => return x.is_some().cmp(&y.is_some()),
        };
        if order != Ordering::Equal {
            return order;
        }
    }
}

/// True for what systems and tools leave behind: names that begin with a dot, and a few others.
pub(crate) fn is_hidden(name: &str) -> bool {
    name.starts_with('.')
        || ["Thumbs.db", "desktop.ini", "__MACOSX", "@eaDir"]
            .iter()
            .any(|h| name.eq_ignore_ascii_case(h))
}

/// Extensions of images, also of formats that are not read here: better an error that says so than a file passed over.
const EXTENSIONS: [&str; 20] = [
    "jpg", "jpeg", "jpe", "jfif", "png", "bmp", "webp", "gif", "tif", "tiff", "heic", "heif",
    "avif", "jxl", "jp2", "ico", "tga", "ppm", "pgm", "dib",
];

/// True when a file is taken for an image: by its extension, or else by its first bytes.
fn is_image(path: &Path) -> bool {
    let extension = path
        .extension()
        .map(|e| e.to_string_lossy().to_ascii_lowercase());
    if extension.is_some_and(|e| EXTENSIONS.contains(&e.as_str())) {
        return true;
    }
    let mut start = Vec::new();
    let read = std::fs::File::open(path).and_then(|f| f.take(32).read_to_end(&mut start));
    read.is_ok() && Format::of(&start).is_some()
}

/// The image files below a folder.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Path, and name below the folder at which the search began.
    pub images: Vec<(PathBuf, String)>,
    /// Names of files that are no images.
    pub others: Vec<String>,
}

/// The entries of `dir` that are not hidden, in natural order: name, path, and whether it is a folder.
pub(crate) fn entries(dir: &Path) -> Result<Vec<(String, PathBuf, bool)>, DataError> {
    let io = |e| DataError::io(dir, e);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let name = path
            .file_name()
            .map(|n| n.to_string_lossy().into_owned())
            .unwrap_or_default();
        if !is_hidden(&name) {
            let is_dir = path.is_dir();
            found.push((name, path, is_dir));
        }
    }
    found.sort_by(|a, b| natural_order(&a.0, &b.0));
    Ok(found)
}

/// Finds the image files in `dir` and below, each folder once however many links lead to it. Links to folders above
/// `dir` are not followed: there lie the other classes.
pub(crate) fn walk(dir: &Path, prefix: &str) -> Result<Found, DataError> {
    let (mut found, mut seen) = (Found::default(), HashSet::new());
    let resolve = |place: &Path| place.canonicalize().map_err(|e| DataError::io(place, e));
    let own = resolve(dir)?;
    seen.extend(own.ancestors().skip(1).map(Path::to_path_buf));
    // The folder that holds a class may be another than the one above it, when the class is a link.
    if let Some(above) = dir.parent().filter(|p| !p.as_os_str().is_empty()) {
        seen.extend(resolve(above)?.ancestors().map(Path::to_path_buf));
    }
    seen.remove(&own);
    walk_into(dir, prefix, &mut seen, &mut found)?;
    Ok(found)
}

fn walk_into(
    dir: &Path,
    prefix: &str,
    seen: &mut HashSet<PathBuf>,
    found: &mut Found,
) -> Result<(), DataError> {
    // A link that leads upwards, or to a folder that was read already, is not followed.
    if !seen.insert(dir.canonicalize().map_err(|e| DataError::io(dir, e))?) {
        return Ok(());
    }
    for (name, path, is_dir) in entries(dir)? {
        let name = if prefix.is_empty() {
            name
        } else {
            format!("{prefix}/{name}")
        };
        if is_dir {
            walk_into(&path, &name, seen, found)?;
        } else if is_image(&path) {
            found.images.push((path, name));
        } else {
            found.others.push(name);
        }
    }
    Ok(())
}

/// The image files in the folder `dir` and below it, in natural order; hidden ones are left out.
///
/// # Errors
/// [`DataError::Io`] for a folder that cannot be read.
pub fn images_in(dir: &Path) -> Result<Vec<PathBuf>, DataError> {
    Ok(walk(dir, "")?
        .images
        .into_iter()
        .map(|(path, _)| path)
        .collect())
}
