//! Pictures with a class for every pixel.
//!
//! Read are
//!
//! - `DIR/images/` and `DIR/masks/` (undivided), or `DIR/train/images/`, `DIR/train/masks/` and the same under `DIR/val/` or
//!   `DIR/test/`; a mask has its picture's name with `.png`. Classes are listed in `DIR/classes.csv` (`name`, or
//!   `name,red,green,blue` where masks are coloured; `ignore` or `void` there is no class) or `DIR/classes.txt` (a name a line); without either they are counted
//!   and numbered.
//! - PASCAL VOC: `JPEGImages/`, `SegmentationClass/`, `ImageSets/Segmentation/train.txt` and `val.txt`.
//!
//! The class 255 is no class ([`IGNORE`]).

mod layout;
mod palette;
mod samples;

pub use layout::{MaskSplits, open};
pub(crate) use layout::{check_names, class_list, missing, picture_called};
pub use palette::{Coding, IGNORE, Mask, read_mask, voc_palette};
pub use samples::MaskSamples;

use crate::transform::Masked;
use crate::{DataError, Fingerprint, decode};
use std::path::PathBuf;

/// A picture and its mask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MaskFile {
    /// The picture.
    pub image: PathBuf,
    /// Its mask.
    pub mask: PathBuf,
    /// What it is called in reports.
    pub name: String,
}

/// Pictures with masks.
#[derive(Clone, Debug)]
pub struct MaskSet {
    files: Vec<MaskFile>,
    classes: Vec<String>,
    coding: Coding,
}

impl MaskSet {
    /// The files, in the order of the samples.
    pub fn files(&self) -> &[MaskFile] {
        &self.files
    }

    /// The names of the classes, in the order of their numbers.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// Picture `index` with its mask.
    ///
    /// # Errors
    /// When either cannot be read, they differ in size, or the mask has classes that there are not.
    pub fn get(&self, index: usize) -> Result<Masked, DataError> {
        let file = self.files.get(index).ok_or(DataError::Index {
            index,
            len: self.files.len(),
        })?;
        let image = decode::read(&file.image)?.image;
        let mask = self.mask(index)?;
        if (mask.width, mask.height) != (image.width(), image.height()) {
            return Err(DataError::annotation(
                &file.mask,
                format!(
                    "is {} x {}, but its picture {} is {} x {}; give the mask the picture's size",
                    mask.width,
                    mask.height,
                    file.image.display(),
                    image.width(),
                    image.height()
                ),
            ));
        }
        Ok(Masked {
            image,
            mask: mask.classes,
        })
    }

    /// The mask of picture `index`.
    ///
    /// # Errors
    /// When it cannot be read, or has classes that there are not.
    pub fn mask(&self, index: usize) -> Result<Mask, DataError> {
        let file = self.files.get(index).ok_or(DataError::Index {
            index,
            len: self.files.len(),
        })?;
        let mask = read_mask(&file.mask, &self.coding)?;
        let known = self.classes.len();
        let unknown = |&&class: &&u8| usize::from(class) >= known && class != IGNORE;
        match mask.classes.iter().find(unknown) {
            None => Ok(mask),
            Some(class) => Err(DataError::annotation(
                &file.mask,
                format!(
                    "has pixels of class {class}, but there are {known} classes (0 to {}; 255 is no class). List all \
                     classes in classes.csv or classes.txt, or correct the mask",
                    known - 1
                ),
            )),
        }
    }

    /// Pixels of each class in all masks that can be read.
    pub fn pixel_counts(&self) -> Vec<u64> {
        let each = crate::split::in_parallel(self.files.len(), |i| {
            let mut counts = vec![0u64; self.classes.len()];
            if let Ok(mask) = self.mask(i) {
                for class in mask.classes {
                    if let Some(count) = counts.get_mut(usize::from(class)) {
                        *count += 1;
                    }
                }
            }
            counts
        });
        each.into_iter()
            .fold(vec![0; self.classes.len()], |sum, counts| {
                sum.iter().zip(counts).map(|(a, b)| a + b).collect()
            })
    }

    /// A text that changes when files or classes do. No file is read.
    pub fn fingerprint(&self) -> String {
        let mut print = Fingerprint::default();
        for class in &self.classes {
            print.add(class.as_bytes());
        }
        let length = |path: &PathBuf| std::fs::metadata(path).map_or(u64::MAX, |m| m.len());
        for file in &self.files {
            print.add(file.name.as_bytes());
            print.add(&length(&file.image).to_le_bytes());
            print.add(&length(&file.mask).to_le_bytes());
        }
        print.text()
    }

    fn part(&self, chosen: impl Fn(usize) -> bool) -> Self {
        let files = self.files.iter().enumerate();
        let files = files.filter(|(i, _)| chosen(*i)).map(|(_, f)| f.clone());
        Self {
            files: files.collect(),
            ..self.clone()
        }
    }

    /// Divides the pictures into a training part and one to validate on, which gets the fraction `val_split`. They are
    /// drawn by their content and `seed`.
    ///
    /// # Errors
    /// When `val_split` is no fraction, or there are fewer than two different pictures.
    pub fn split(&self, val_split: f64, seed: u64) -> Result<(Self, Self), DataError> {
        let paths: Vec<_> = self.files.iter().map(|f| f.image.as_path()).collect();
        let held = crate::split::held_out(&paths, val_split, seed)?;
        Ok((self.part(|i| !held[i]), self.part(|i| held[i])))
    }

    /// The same pictures for a model that knows `classes`.
    ///
    /// # Errors
    /// [`DataError::UnknownClasses`] when they are not the same in the same order.
    pub fn with_classes(self, classes: &[String], named: bool) -> Result<Self, DataError> {
        let fits = if named {
            self.classes == classes
        } else {
            self.classes.len() <= classes.len()
        };
        if fits {
            return Ok(Self {
                classes: classes.to_vec(),
                ..self
            });
        }
        Err(DataError::UnknownClasses {
            found: self.classes.join(", "),
            known: classes.join(", "),
        })
    }
}
