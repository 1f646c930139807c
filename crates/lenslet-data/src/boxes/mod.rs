//! Pictures with labelled boxes.
//!
//! Read are
//!
//! - COCO: `annotations/*.json`, of which one has `train` and one `val` or `test` in its name, or one file for everything;
//! - PASCAL VOC: `Annotations/*.xml`, `JPEGImages/`, `ImageSets/Main/train.txt` and `val.txt`;
//! - YOLO: `images/train/`, `images/val/` and `labels/` alike with a text file a picture, classes in `data.yaml` or
//!   `classes.txt`; also undivided.
//!
//! Boxes that make no sense are left out and listed ([`BoxSet::faults`]), by file.

mod coco;
mod layout;
mod samples;
mod voc;
mod yolo;

pub use layout::{BoxSplits, open};
pub use samples::{BoxSamples, BoxTarget};

use crate::transform::Boxed;
use crate::{DataError, Fingerprint, decode};
use lenslet_boxes::Rect;
use serde::Serialize;
use std::path::PathBuf;

/// A labelled box.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BoxLabel {
    /// The class, an index into the names.
    pub class: u32,
    /// Where, in the picture's pixels.
    pub rect: Rect,
    /// Whether it stands for a crowd (COCO's `iscrowd`) or is too hard to count (VOC's `difficult`): it is not learnt,
    /// and need not be found.
    pub crowd: bool,
}

/// A picture and its boxes.
#[derive(Clone, Debug, PartialEq)]
pub struct BoxFile {
    /// The picture.
    pub image: PathBuf,
    /// What it is called in reports.
    pub name: String,
    /// Its boxes.
    pub boxes: Vec<BoxLabel>,
    /// Whether they are in fractions of the picture, not in pixels.
    pub relative: bool,
}

/// A box that was left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BoxFault {
    /// The file of annotations, with the line or number of the box in it.
    pub place: String,
    /// What is wrong.
    pub reason: String,
}

/// Pictures with boxes.
#[derive(Clone, Debug)]
pub struct BoxSet {
    files: Vec<BoxFile>,
    classes: Vec<String>,
    faults: Vec<BoxFault>,
}

impl BoxSet {
    /// The files, in the order of the samples.
    pub fn files(&self) -> &[BoxFile] {
        &self.files
    }

    /// The names of the classes, in order.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// Boxes that were left out, and why.
    pub fn faults(&self) -> &[BoxFault] {
        &self.faults
    }

    /// Picture `index` with its boxes.
    ///
    /// # Errors
    /// When the picture cannot be read.
    pub fn get(&self, index: usize) -> Result<Boxed, DataError> {
        let file = self.files.get(index).ok_or(DataError::Index {
            index,
            len: self.files.len(),
        })?;
        let image = decode::read(&file.image)?.image;
        let mut boxes = file.boxes.clone();
        let size = [image.width() as f64, image.height() as f64];
        for label in &mut boxes {
            if file.relative {
                label.rect = label.rect.mapped(size, [0.0; 2]);
            }
            // What the annotations say of the picture's size may be wrong.
            label.rect = label.rect.clamped(size[0], size[1]);
        }
        boxes.retain(|label| label.rect.is_sound());
        Ok(Boxed { image, boxes })
    }

    /// A text that changes when files, boxes or classes do. No picture is read.
    pub fn fingerprint(&self) -> String {
        let mut print = Fingerprint::default();
        for class in &self.classes {
            print.add(class.as_bytes());
        }
        for file in &self.files {
            print.add(file.name.as_bytes());
            let length = std::fs::metadata(&file.image).map_or(u64::MAX, |m| m.len());
            print.add(&length.to_le_bytes());
            for label in &file.boxes {
                print.add(&label.class.to_le_bytes());
                print.add(&[u8::from(label.crowd)]);
                for v in label.rect.corner() {
                    print.add(&v.to_le_bytes());
                }
            }
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

    /// The same boxes with the classes of a trained model, in its order.
    ///
    /// # Errors
    /// [`DataError::UnknownClasses`] when there are boxes of classes that `classes` does not have.
    pub fn with_classes(mut self, classes: &[String]) -> Result<Self, DataError> {
        let to: Vec<Option<u32>> = self
            .classes
            .iter()
            .map(|own| classes.iter().position(|c| c == own).map(|at| at as u32))
            .collect();
        let mut unknown = Vec::new();
        for label in self.files.iter_mut().flat_map(|f| &mut f.boxes) {
            match to[label.class as usize] {
                Some(class) => label.class = class,
                None => unknown.push(self.classes[label.class as usize].clone()),
            }
        }
        unknown.sort();
        unknown.dedup();
        if !unknown.is_empty() {
            return Err(DataError::UnknownClasses {
                found: unknown.join(", "),
                known: classes.join(", "),
            });
        }
        self.classes = classes.to_vec();
        Ok(self)
    }
}

/// Sorts boxes into sound ones and faults. Boxes that reach over the picture's edge by up to `slack`, as rounding makes
/// them, are cut.
pub(crate) struct Sorter<'a> {
    pub size: Option<[f64; 2]>,
    pub slack: f64,
    pub faults: &'a mut Vec<BoxFault>,
}

impl Sorter<'_> {
    /// The box, if it makes sense.
    pub fn sound(&mut self, place: impl FnOnce() -> String, rect: Rect) -> Option<Rect> {
        let slack = self.slack;
        let [left, top, right, bottom] = [rect.left, rect.top, rect.right, rect.bottom];
        let reason = if ![left, top, right, bottom].iter().all(|v| v.is_finite()) {
            "its edges are no finite numbers".to_string()
        } else if !rect.is_sound() {
            format!("it has no area: from {left}, {top} to {right}, {bottom}")
        } else if let Some([width, height]) = self.size
            && (left < -slack || top < -slack || right > width + slack || bottom > height + slack)
        {
            format!(
                "it reaches from {left}, {top} to {right}, {bottom}, but the picture is {width} x {height}"
            )
        } else {
            return Some(match self.size {
                Some([width, height]) => rect.clamped(width, height),
                None => rect,
            });
        };
        self.fault(place(), reason);
        None
    }

    /// Lists a fault.
    pub fn fault(&mut self, place: String, reason: String) {
        self.faults.push(BoxFault { place, reason });
    }
}
