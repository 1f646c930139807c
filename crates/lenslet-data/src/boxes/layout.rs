//! Where pictures and boxes lie.

use super::{BoxFault, BoxFile, BoxSet, coco, voc, yolo};
use crate::files::{entries, walk};
use crate::masks::{class_list, missing, picture_called};
use crate::split::in_parallel;
use crate::{DataError, natural_order};
use std::path::{Path, PathBuf};

/// Pictures with boxes, divided as their folder divides them.
#[derive(Clone, Debug)]
pub struct BoxSplits {
    /// What is trained on; everything where the folder is not divided.
    pub train: BoxSet,
    /// What is validated on: `val`, or else `test`.
    pub val: Option<BoxSet>,
    /// A test part beside `val`.
    pub test: Option<BoxSet>,
}

/// Opens a folder of pictures and boxes.
///
/// # Errors
/// [`DataError::Annotation`] when it has none of the layouts, pictures are missing, or a file of annotations is damaged;
/// [`DataError::Io`]; [`DataError::Empty`].
pub fn open(dir: &Path) -> Result<BoxSplits, DataError> {
    let names: Vec<String> = entries(dir)?.into_iter().map(|(name, ..)| name).collect();
    let has = |name: &str| names.iter().any(|n| n == name);
    let splits = if has("Annotations") {
        open_voc(dir)?
    } else if has("annotations") {
        open_coco(dir)?
    } else if has("labels") {
        open_yolo(dir)?
    } else {
        return Err(DataError::annotation(
            dir,
            "has neither annotations/ (COCO), nor Annotations/ (VOC), nor labels/ (YOLO); give the folder that holds \
             one of them",
        ));
    };
    let sets = [
        Some(&splits.train),
        splits.val.as_ref(),
        splits.test.as_ref(),
    ];
    for set in sets.into_iter().flatten() {
        if set.files.is_empty() {
            return Err(DataError::Empty {
                what: dir.display().to_string(),
            });
        }
        let gone = set.files.iter().filter(|f| !f.image.is_file());
        let gone = gone.map(|f| f.image.display().to_string());
        missing(dir, "pictures with annotations are not there", gone)?;
        if set.files.iter().all(|f| f.boxes.is_empty()) {
            return Err(no_boxes(dir, &set.faults));
        }
    }
    Ok(splits)
}

fn no_boxes(dir: &Path, faults: &[BoxFault]) -> DataError {
    let first = faults
        .iter()
        .take(5)
        .map(|f| format!("\n  {}: {}", f.place, f.reason));
    let reason = match faults.len() {
        0 => "a part of it has no boxes at all; add annotations".to_string(),
        n => format!(
            "a part of it has no sound box; {n} were left out:{}\nCorrect them",
            first.collect::<String>()
        ),
    };
    DataError::annotation(dir, reason)
}

fn open_coco(dir: &Path) -> Result<BoxSplits, DataError> {
    let folder = dir.join("annotations");
    let files: Vec<PathBuf> = entries(&folder)?
        .into_iter()
        .filter(|(name, _, is_dir)| !is_dir && name.ends_with(".json"))
        .map(|(_, path, _)| path)
        .collect();
    let named = |word: &str| -> Result<Option<&PathBuf>, DataError> {
        let name = |p: &PathBuf| p.file_name().map(|n| n.to_string_lossy().to_lowercase());
        let of_boxes = |n: &String| !n.contains("keypoints") && !n.contains("captions");
        let mut found = files
            .iter()
            .filter(|p| name(p).filter(of_boxes).is_some_and(|n| n.contains(word)));
        match (found.next(), found.next()) {
            (Some(_), Some(_)) => Err(DataError::annotation(
                &folder,
                format!("has two files for the part \"{word}\"; leave one"),
            )),
            (one, _) => Ok(one),
        }
    };
    let read = |path: &PathBuf| {
        let stem = path.file_stem().map(|s| s.to_string_lossy().into_owned());
        let part = stem.unwrap_or_default().replace("instances_", "");
        let places = [
            dir.join("images").join(&part),
            dir.join(&part),
            dir.join("images"),
            dir.to_path_buf(),
        ];
        coco::read(path, |name| {
            let candidates = places.iter().map(|place| place.join(name));
            let found = candidates.clone().find(|p| p.is_file());
            found.unwrap_or_else(|| places[0].join(name))
        })
    };
    let (train, val, test) = (named("train")?, named("val")?, named("test")?);
    let (first, val, test) = match (train, val, test, files.as_slice()) {
        (Some(train), Some(val), test, _) => (train, Some(val), test),
        (Some(train), None, test, _) => (train, test, None),
        (None, None, None, [only]) => (only, None, None),
        _ => {
            return Err(DataError::annotation(
                &folder,
                format!(
                    "has {} JSON files, none with train in its name; name them after their parts, such as \
                     instances_train.json and instances_val.json",
                    files.len()
                ),
            ));
        }
    };
    let train = read(first)?;
    let other = |path: Option<&PathBuf>| -> Result<Option<BoxSet>, DataError> {
        path.map(|p| read(p)?.with_classes(&train.classes))
            .transpose()
    };
    let (val, test) = (other(val)?, other(test)?);
    Ok(BoxSplits { train, val, test })
}

fn open_voc(dir: &Path) -> Result<BoxSplits, DataError> {
    let annotations = dir.join("Annotations");
    let list = |name: &str| -> Result<Option<Vec<String>>, DataError> {
        let path = dir.join("ImageSets/Main").join(format!("{name}.txt"));
        if !path.is_file() {
            return Ok(None);
        }
        let text = std::fs::read_to_string(&path).map_err(|e| DataError::io(&path, e))?;
        // The lists of one class have a second column of 1 and -1.
        let names = text.lines().filter_map(|l| l.split_whitespace().next());
        Ok(Some(names.map(String::from).collect()))
    };
    let all = || -> Result<Vec<String>, DataError> {
        let found = entries(&annotations)?.into_iter();
        Ok(found
            .filter_map(|(name, ..)| name.strip_suffix(".xml").map(String::from))
            .collect())
    };
    let read = |names: Vec<String>| -> Result<(Vec<voc::Named>, Vec<BoxFault>), DataError> {
        let results = in_parallel(names.len(), |i| {
            let name = &names[i];
            let find = |written: Option<&str>| {
                let written = written.map(|w| dir.join("JPEGImages").join(w));
                written
                    .filter(|p| p.is_file())
                    .unwrap_or_else(|| picture_called(&dir.join("JPEGImages"), name))
            };
            let mut faults = Vec::new();
            let path = annotations.join(format!("{name}.xml"));
            voc::read(&path, find, &mut faults).map(|named| (named, faults))
        });
        let mut all = (Vec::new(), Vec::new());
        for result in results {
            let (named, faults) = result?;
            all.0.push(named);
            all.1.extend(faults);
        }
        Ok(all)
    };
    let train = read(list("train")?.map_or_else(all, Ok)?)?;
    let val = list("val")?.map(read).transpose()?;
    let test = list("test")?.map(read).transpose()?;
    let classes = match class_list(dir)? {
        Some(classes) => classes,
        None => {
            let parts = [Some(&train), val.as_ref()];
            let mut classes: Vec<String> = parts
                .into_iter()
                .flatten()
                .flat_map(|(named, _)| named.iter().flat_map(|n| n.classes.clone()))
                .collect();
            classes.sort_by(|a, b| natural_order(a, b));
            classes.dedup();
            if classes.is_empty() {
                return Err(no_boxes(dir, &train.1));
            }
            classes
        }
    };
    let set = |(named, mut faults): (Vec<voc::Named>, Vec<BoxFault>)| {
        let mut files = Vec::new();
        for voc::Named {
            mut file,
            classes: names,
        } in named
        {
            let mut names = names.into_iter();
            file.boxes.retain_mut(|label| {
                let name = names.next().unwrap_or_default();
                let class = classes.iter().position(|c| *c == name);
                label.class = class.unwrap_or(0) as u32;
                if class.is_none() {
                    faults.push(BoxFault {
                        place: file.name.clone(),
                        reason: format!("there is no class {name} in classes.txt"),
                    });
                }
                class.is_some()
            });
            files.push(file);
        }
        BoxSet {
            files,
            classes: classes.clone(),
            faults,
        }
    };
    let (val, test) = match (val.map(&set), test.map(&set)) {
        (None, test) => (test, None),
        both => both,
    };
    Ok(BoxSplits {
        train: set(train),
        val,
        test,
    })
}

fn open_yolo(dir: &Path) -> Result<BoxSplits, DataError> {
    let classes = match yolo::names(dir)? {
        Some(names) => names,
        None => class_list(dir)?.ok_or_else(|| {
            DataError::annotation(
                dir,
                "has labels/ but says nowhere what the classes are called; add a data.yaml with names: [cat, dog], or a \
                 classes.txt with a name a line",
            )
        })?,
    };
    let part = |name: &str| -> Result<Option<BoxSet>, DataError> {
        let images = dir.join("images").join(name);
        if !images.is_dir() {
            return Ok(None);
        }
        let pictures = walk(&images, name)?.images;
        let labels = dir.join("labels").join(name);
        let results = in_parallel(pictures.len(), |i| {
            let (image, name) = &pictures[i];
            let below = image.strip_prefix(&images).unwrap_or(image);
            let path = labels.join(below).with_extension("txt");
            let mut faults = Vec::new();
            // A picture without a file has no boxes.
            let boxes = if path.is_file() {
                yolo::read(&path, classes.len(), &mut faults)?
            } else {
                Vec::new()
            };
            let file = BoxFile {
                image: image.clone(),
                name: name.clone(),
                boxes,
                relative: true,
            };
            Ok((file, faults))
        });
        let mut set = BoxSet {
            files: Vec::new(),
            classes: classes.clone(),
            faults: Vec::new(),
        };
        for result in results {
            let (file, faults): (BoxFile, Vec<BoxFault>) = result?;
            set.files.push(file);
            set.faults.extend(faults);
        }
        Ok(Some(set))
    };
    let whole = || -> Result<BoxSet, DataError> {
        part("")?.ok_or_else(|| {
            DataError::annotation(dir, "has labels/ but no images/; put the pictures there")
        })
    };
    let train = part("train")?.map_or_else(whole, Ok)?;
    let (val, test) = match (part("val")?, part("test")?) {
        (None, test) => (test, None),
        both => both,
    };
    Ok(BoxSplits { train, val, test })
}
