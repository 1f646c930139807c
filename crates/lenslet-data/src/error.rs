//! What can go wrong with data.

use std::path::PathBuf;

/// An error in reading, decoding or transforming data. The message names the file or the value, what was expected, what
/// was found and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// A file or folder could not be read.
    #[error("{path}: cannot be read: {source}. Check the path and its permissions")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },

    /// A path names something else than a regular file.
    #[error("{path}: is not a regular file; give the path of an image or data file")]
    NotAFile {
        /// The path.
        path: PathBuf,
    },

    /// One of the four MNIST files is not in the folder.
    #[error(
        "{dir}: has no {what} (looked for {tried}, each also with .gz). Put all four IDX files of the dataset into this folder"
    )]
    IdxMissing {
        /// The folder.
        dir: PathBuf,
        /// Which of the four.
        what: &'static str,
        /// The names that were tried.
        tried: String,
    },

    /// The first four bytes are not those of the expected kind of IDX file.
    #[error(
        "{path}: is not an IDX file of {what}: it begins with 0x{found:08x}, expected 0x{expected:08x}. Check that images and labels are not swapped, or download the file again"
    )]
    IdxMagic {
        /// The file.
        path: PathBuf,
        /// Images or labels.
        what: &'static str,
        /// The number at its start.
        found: u32,
        /// The number that belongs there.
        expected: u32,
    },

    /// A header with a dimension of zero, or with more data than is ever read.
    #[error(
        "{path}: its header says {count} x {rows} x {cols}; every figure must be at least 1 and their product at most {limit}. Download the file again"
    )]
    IdxHeader {
        /// The file.
        path: PathBuf,
        /// Number of items.
        count: u32,
        /// Rows of an image (1 in a file of labels).
        rows: u32,
        /// Columns of an image (1 in a file of labels).
        cols: u32,
        /// Largest accepted product.
        limit: u64,
    },

    /// The file ends before the data that its header announces.
    #[error(
        "{path}: is truncated: {found} bytes where {expected} were expected. Download the file again"
    )]
    IdxTruncated {
        /// The file.
        path: PathBuf,
        /// Bytes that are there (after decompression).
        found: u64,
        /// Bytes that should be there.
        expected: u64,
    },

    /// The file goes on after the data that its header announces.
    #[error(
        "{path}: is too long: more than the {expected} bytes that its header announces. Download the file again"
    )]
    IdxOverlong {
        /// The file.
        path: PathBuf,
        /// Bytes that should be there (after decompression).
        expected: u64,
    },

    /// Gzip data that does not decompress.
    #[error(
        "{path}: its gzip data is damaged after {read} bytes: {reason}. Download the file again"
    )]
    IdxGzip {
        /// The file.
        path: PathBuf,
        /// Bytes that could be decompressed.
        read: u64,
        /// What the decompressor said.
        reason: String,
    },

    /// Images and labels do not belong together.
    #[error(
        "{images_path} has {images} images but {labels_path} has {labels} labels; use files of the same split"
    )]
    IdxCounts {
        /// The file of images.
        images_path: PathBuf,
        /// Number of images.
        images: usize,
        /// The file of labels.
        labels_path: PathBuf,
        /// Number of labels.
        labels: usize,
    },

    /// The splits of one dataset have images of different sizes.
    #[error("{train_path} has images of {} x {} but {test_path} of {} x {}; use files of the same dataset", .train.0, .train.1, .test.0, .test.1)]
    IdxSizes {
        /// The training images.
        train_path: PathBuf,
        /// Their rows and columns.
        train: (usize, usize),
        /// The test images.
        test_path: PathBuf,
        /// Their rows and columns.
        test: (usize, usize),
    },

    /// A label that is no class.
    #[error("{path}: label {index} is {label}, but there are {classes} classes (0 to {}). Check that the file belongs to this dataset", .classes - 1)]
    IdxLabel {
        /// The file of labels.
        path: PathBuf,
        /// Position of the label.
        index: usize,
        /// The label.
        label: u8,
        /// Number of classes.
        classes: usize,
    },

    /// The content is no image in a format that is read here.
    #[error(
        "{path}: {found}; PNG, JPEG, BMP, WebP and GIF are read. Convert the file or remove it"
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// What it seems to be.
        found: String,
    },

    /// An image with more pixels, or a file with more bytes, than the stated limit.
    #[error(
        "{path}: {found} {unit} are over the limit of {limit}. Reduce the image, or raise the limit"
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Size of it.
        found: u64,
        /// Pixels or bytes.
        unit: &'static str,
        /// The limit.
        limit: u64,
    },

    /// An image file that ends early.
    #[error(
        "{path}: is truncated: the {format} data ends early ({bytes} bytes). Copy or download the file again"
    )]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: &'static str,
        /// Its length.
        bytes: u64,
    },

    /// An image file that its decoder refuses.
    #[error(
        "{path}: cannot be decoded as {format}: {reason}. Save it again with an image editor, or remove it"
    )]
    Decode {
        /// The file.
        path: PathBuf,
        /// Its format by content.
        format: &'static str,
        /// What the decoder said.
        reason: String,
    },

    /// Sides, channels and number of samples that do not fit together.
    #[error(
        "an image of {width} x {height} x {channels} (channels 1, 3 or 4) cannot have {found} samples"
    )]
    ImageShape {
        /// Columns.
        width: usize,
        /// Rows.
        height: usize,
        /// Channels.
        channels: usize,
        /// Number of samples given.
        found: usize,
    },

    /// A sample's index past the end.
    #[error("sample {index} does not exist: the dataset has {len}")]
    Index {
        /// The index asked for.
        index: usize,
        /// Number of samples.
        len: usize,
    },

    /// A preprocessing or augmentation that makes no sense.
    #[error("{setting} is {found}; {expected}")]
    Setting {
        /// Its name.
        setting: &'static str,
        /// Its value.
        found: String,
        /// What it must be.
        expected: &'static str,
    },

    /// The output buffer has another length than the preprocessing produces.
    #[error("the output buffer holds {found} values; this preprocessing writes {expected}")]
    Buffer {
        /// Its length.
        found: usize,
        /// Channels x height x width.
        expected: usize,
    },

    /// A dataset without samples.
    #[error("{what}: has no samples; check the path and the split")]
    Empty {
        /// The dataset.
        what: String,
    },

    /// A folder, or table, without at least two classes.
    #[error(
        "{dir}: has {found}; training needs at least two classes. Put the images of each class into a folder of its own, named after the class (or list them in a CSV as path,label)"
    )]
    NoClasses {
        /// The folder or table.
        dir: PathBuf,
        /// What is there instead.
        found: String,
    },

    /// Two class folders whose names differ by case only.
    #[error(
        "{dir}: the classes \"{a}\" and \"{b}\" differ by case only; merge them, or rename one"
    )]
    ClassesByCase {
        /// The folder.
        dir: PathBuf,
        /// One of them.
        a: String,
        /// The other.
        b: String,
    },

    /// Class folders without images.
    #[error("{dir}: no images in the class folders {classes}; add some, or remove the folders")]
    EmptyClasses {
        /// The split's folder.
        dir: PathBuf,
        /// Their names.
        classes: String,
    },

    /// Classes of one split that another does not have.
    #[error(
        "{dir}: has no folder for the classes {classes}, which another split has; every split needs images of every class"
    )]
    MissingClasses {
        /// The split's folder.
        dir: PathBuf,
        /// Their names.
        classes: String,
    },

    /// Two folders that mean the same split.
    #[error("{dir}: has two folders for the split \"{split}\"; merge them, or rename one")]
    TwoSplits {
        /// The folder.
        dir: PathBuf,
        /// The split.
        split: &'static str,
    },

    /// Files of classes that a model does not know.
    #[error(
        "the data has the classes {found}, which the model does not know; it knows {known}. Rename or remove them"
    )]
    UnknownClasses {
        /// The unknown ones.
        found: String,
        /// The model's.
        known: String,
    },

    /// Classes that cannot be in training and in validation both.
    #[error(
        "the classes {classes} have fewer than two different images of their own, so they cannot be divided into training and validation; add images, or provide folders train/ and val/"
    )]
    CannotSplit {
        /// Their names.
        classes: String,
    },

    /// A row of a CSV that is no path and label.
    #[error("{path}, line {line}: {reason}; every row needs a path and a label")]
    CsvRow {
        /// The table.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// What is wrong.
        reason: String,
    },

    /// Files that a CSV names and that are not there.
    #[error("{path}: {count} of {rows} files do not exist:\n  {}\nPaths are relative to the CSV's folder", .examples.join("\n  "))]
    CsvMissing {
        /// The table.
        path: PathBuf,
        /// How many.
        count: usize,
        /// Rows in all.
        rows: usize,
        /// The first ten.
        examples: Vec<String>,
    },

    /// A mask, or a file of masks' classes or of boxes, that does not say what it should.
    #[error("{path}: {reason}")]
    Annotation {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it and what to do.
        reason: String,
    },

    /// More images could not be read than the run accepts.
    #[error("{count} of {samples} images cannot be read, over the limit of {} %:\n  {}\nRepair or remove them, or raise the limit", .limit * 100.0, .list.join("\n  "))]
    TooManyUnreadable {
        /// How many.
        count: usize,
        /// Size of the dataset.
        samples: usize,
        /// Accepted fraction.
        limit: f64,
        /// One message an image.
        list: Vec<String>,
    },

    /// A worker failed in a way that is a defect of the program.
    #[error(
        "{what}: the reader failed unexpectedly ({reason}). Remove the file, and please report it"
    )]
    Internal {
        /// The sample.
        what: String,
        /// The message of the panic.
        reason: String,
    },
}

impl DataError {
    pub(crate) fn annotation(path: impl Into<PathBuf>, reason: impl Into<String>) -> Self {
        Self::Annotation {
            path: path.into(),
            reason: reason.into(),
        }
    }

    pub(crate) fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::Io {
            path: path.into(),
            source,
        }
    }
}
