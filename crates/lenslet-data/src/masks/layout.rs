//! Where pictures and masks lie.

use super::{Coding, IGNORE, MaskFile, MaskSet, read_mask};
use crate::files::walk;
use crate::{DataError, natural_order};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Pictures with masks, divided as their folder divides them.
#[derive(Clone, Debug)]
pub struct MaskSplits {
    /// What is trained on; everything where the folder is not divided.
    pub train: MaskSet,
    /// What is validated on: `val`, or else `test`.
    pub val: Option<MaskSet>,
    /// A test part beside `val`.
    pub test: Option<MaskSet>,
    /// Whether the classes have names of their own.
    pub named: bool,
}

/// PASCAL VOC's classes.
const VOC: [&str; 21] = [
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
];

/// Opens a folder of pictures and masks.
///
/// # Errors
/// [`DataError::Annotation`] when it has neither layout, pictures have no mask, or the list of classes makes no sense;
/// [`DataError::Io`]; [`DataError::Empty`].
pub fn open(dir: &Path) -> Result<MaskSplits, DataError> {
    std::fs::read_dir(dir).map_err(|e| DataError::io(dir, e))?;
    let listed = classes(dir)?;
    if dir.join("SegmentationClass").is_dir() {
        return voc(dir, listed);
    }
    let part = |name: &str| -> Result<Option<Vec<MaskFile>>, DataError> {
        let dir = dir.join(name);
        let there = dir.join("images").is_dir();
        there.then(|| pairs(&dir, name)).transpose()
    };
    let train = match part("train")? {
        Some(train) => train,
        None if dir.join("images").is_dir() => pairs(dir, "")?,
        None => {
            return Err(DataError::annotation(
                dir,
                "has neither images/ and masks/, nor train/images/ and train/masks/, nor VOC's SegmentationClass/; put \
                 the pictures into images/ and their masks, PNG files of the same names, into masks/",
            ));
        }
    };
    let (val, test) = match (part("val")?, part("test")?) {
        (None, test) => (test, None),
        both => both,
    };
    let named = listed.is_some();
    let (classes, coding) = match listed {
        Some(listed) => listed,
        None => (counted(&train)?, Coding::Index),
    };
    let set = |files| MaskSet {
        files,
        classes: classes.clone(),
        coding: coding.clone(),
    };
    Ok(MaskSplits {
        train: set(train),
        val: val.map(set),
        test: test.map(set),
        named,
    })
}

fn voc(dir: &Path, listed: Option<(Vec<String>, Coding)>) -> Result<MaskSplits, DataError> {
    let list = |name: &str| -> Result<Option<Vec<MaskFile>>, DataError> {
        let path = dir
            .join("ImageSets/Segmentation")
            .join(format!("{name}.txt"));
        if !path.is_file() {
            return Ok(None);
        }
        let text = std::fs::read_to_string(&path).map_err(|e| DataError::io(&path, e))?;
        let names = text.split_whitespace();
        let files = names.map(|name| MaskFile {
            image: picture_called(&dir.join("JPEGImages"), name),
            mask: dir.join("SegmentationClass").join(format!("{name}.png")),
            name: name.to_string(),
        });
        let files: Vec<MaskFile> = files.collect();
        complete(&path, &files)?;
        Ok(Some(files))
    };
    let all = || -> Result<Vec<MaskFile>, DataError> {
        let masks = walk(&dir.join("SegmentationClass"), "")?.images;
        let files = masks.into_iter().map(|(mask, name)| {
            let stem = name
                .rsplit_once('.')
                .map_or(name.as_str(), |(stem, _)| stem);
            MaskFile {
                image: picture_called(&dir.join("JPEGImages"), stem),
                mask,
                name: stem.to_string(),
            }
        });
        let files: Vec<MaskFile> = files.collect();
        complete(&dir.join("SegmentationClass"), &files)?;
        Ok(files)
    };
    let train = list("train")?.map_or_else(all, Ok)?;
    let voc = || (VOC.iter().map(|c| c.to_string()).collect(), Coding::Index);
    let (classes, coding) = listed.unwrap_or_else(voc);
    let set = |files| MaskSet {
        files,
        classes: classes.clone(),
        coding: coding.clone(),
    };
    Ok(MaskSplits {
        train: set(train),
        val: list("val")?.map(set),
        test: None,
        named: true,
    })
}

/// The picture of that name in `dir`, whatever its format; as a JPEG where there is none, for the error.
pub(crate) fn picture_called(dir: &Path, name: &str) -> PathBuf {
    let endings = ["jpg", "png", "jpeg", "bmp", "webp"];
    let paths = endings.map(|ending| dir.join(format!("{name}.{ending}")));
    let found = paths.iter().find(|p| p.is_file()).cloned();
    let [first, ..] = paths;
    found.unwrap_or(first)
}

/// Pictures and masks that are listed but not there are named together.
fn complete(list: &Path, files: &[MaskFile]) -> Result<(), DataError> {
    let paths = files.iter().flat_map(|f| [&f.image, &f.mask]);
    missing(
        list,
        "files that it lists are not there",
        paths
            .filter(|p| !p.is_file())
            .map(|p| p.display().to_string()),
    )
}

/// An error that names the first ten of what is missing.
pub(crate) fn missing(
    path: &Path,
    what: &str,
    names: impl Iterator<Item = String>,
) -> Result<(), DataError> {
    let names: Vec<String> = names.collect();
    if names.is_empty() {
        return Ok(());
    }
    let more = match names.len().saturating_sub(10) {
        0 => String::new(),
        n => format!("\n  and {n} more"),
    };
    let first = names[..names.len().min(10)].join("\n  ");
    Err(DataError::annotation(
        path,
        format!(
            "{} {what}:\n  {first}{more}\nAdd them, or remove what belongs to them",
            names.len()
        ),
    ))
}

/// Pictures in `dir/images` with their masks in `dir/masks`.
fn pairs(dir: &Path, prefix: &str) -> Result<Vec<MaskFile>, DataError> {
    let (images, masks) = (dir.join("images"), dir.join("masks"));
    if !masks.is_dir() {
        return Err(DataError::annotation(
            dir,
            "has images/ but no masks/; put a PNG mask for every picture there, with the picture's name",
        ));
    }
    let stem = |name: &str| {
        let (stem, _) = name.rsplit_once('.').unwrap_or((name, ""));
        stem.to_string()
    };
    let by_stem: BTreeMap<String, PathBuf> = walk(&masks, "")?
        .images
        .into_iter()
        .map(|(path, name)| (stem(&name), path))
        .collect();
    let mut files = Vec::new();
    let mut bare = Vec::new();
    for (image, name) in walk(&images, "")?.images {
        match by_stem.get(&stem(&name)) {
            Some(mask) => files.push(MaskFile {
                image,
                mask: mask.clone(),
                name: if prefix.is_empty() {
                    name
                } else {
                    format!("{prefix}/{name}")
                },
            }),
            None => bare.push(name),
        }
    }
    missing(&images, "pictures have no mask in masks/", bare.into_iter())?;
    if files.is_empty() {
        return Err(DataError::Empty {
            what: images.display().to_string(),
        });
    }
    Ok(files)
}

/// The classes that `dir` lists, and how masks show them.
fn classes(dir: &Path) -> Result<Option<(Vec<String>, Coding)>, DataError> {
    let csv = dir.join("classes.csv");
    if csv.is_file() {
        return table(&csv).map(Some);
    }
    let names = class_list(dir)?;
    Ok(names.map(|names| (names, Coding::Index)))
}

/// The names in `dir/classes.txt`, a line each, if there is one.
pub(crate) fn class_list(dir: &Path) -> Result<Option<Vec<String>>, DataError> {
    let path = dir.join("classes.txt");
    if !path.is_file() {
        return Ok(None);
    }
    let text = std::fs::read_to_string(&path).map_err(|e| DataError::io(&path, e))?;
    let lines = text.trim_start_matches('\u{feff}').lines().map(str::trim);
    let names: Vec<String> = lines.filter(|l| !l.is_empty()).map(String::from).collect();
    check_names(&path, &names)?;
    Ok(Some(names))
}

/// Classes that a model can have: at least one, no two alike, at most 255.
pub(crate) fn check_names(path: &Path, names: &[String]) -> Result<(), DataError> {
    if names.is_empty() || names.len() > usize::from(IGNORE) {
        return Err(DataError::annotation(
            path,
            format!("lists {} classes; from 1 to 255 are possible", names.len()),
        ));
    }
    let mut sorted = names.to_vec();
    sorted.sort_by(|a, b| natural_order(a, b));
    match sorted.windows(2).find(|w| w[0] == w[1]) {
        Some(twice) => Err(DataError::annotation(
            path,
            format!(
                "lists the class \"{}\" twice; give every class a name of its own",
                twice[0]
            ),
        )),
        None => Ok(()),
    }
}

/// `name` or `name,red,green,blue`, with a header.
fn table(path: &Path) -> Result<(Vec<String>, Coding), DataError> {
    let refuse = |line: usize, reason: String| {
        DataError::annotation(
            path,
            format!(
                "line {line}: {reason}; the file has the header name,red,green,blue and a line a class (name alone \
                 where masks hold numbers)"
            ),
        )
    };
    let mut reader = csv::ReaderBuilder::new()
        .trim(csv::Trim::All)
        .flexible(true)
        .from_path(path)
        .map_err(|e| refuse(1, e.to_string()))?;
    let header = reader.headers().map_err(|e| refuse(1, e.to_string()))?;
    let columns: Vec<String> = header.iter().map(str::to_lowercase).collect();
    let coloured = columns == ["name", "red", "green", "blue"];
    if !coloured && columns != ["name"] {
        return Err(refuse(1, format!("the header is {}", columns.join(","))));
    }
    let mut names = Vec::new();
    let mut colours: Vec<([u8; 3], u8)> = Vec::new();
    for (i, record) in reader.records().enumerate() {
        let line = i + 2;
        let record = record.map_err(|e| refuse(line, e.to_string()))?;
        if record.len() != columns.len() {
            return Err(refuse(line, format!("{} columns", record.len())));
        }
        let ignored = coloured && matches!(&record[0], "ignore" | "void");
        if !ignored {
            names.push(record[0].to_string());
        }
        if coloured {
            let mut colour = [0; 3];
            for (to, text) in colour.iter_mut().zip(record.iter().skip(1)) {
                *to = text
                    .parse()
                    .map_err(|_| refuse(line, format!("\"{text}\" is no number from 0 to 255")))?;
            }
            if colours.iter().any(|(other, _)| *other == colour) {
                return Err(refuse(line, "another class has the same colour".into()));
            }
            let class = names.len().saturating_sub(1).min(255) as u8;
            colours.push((colour, if ignored { IGNORE } else { class }));
        }
    }
    check_names(path, &names)?;
    let coding = if coloured {
        Coding::Colours(colours)
    } else {
        Coding::Index
    };
    Ok((names, coding))
}

/// As many classes as the masks have, called by their numbers.
fn counted(files: &[MaskFile]) -> Result<Vec<String>, DataError> {
    let highest = crate::split::in_parallel(files.len(), |i| {
        let mask = read_mask(&files[i].mask, &Coding::Index);
        mask.map(|m| m.classes.into_iter().filter(|&c| c != IGNORE).max())
    });
    // A mask that cannot be read is an error where it is needed; but if none can be, it is the answer here.
    let readable: Vec<Option<u8>> = highest.iter().flatten().copied().collect();
    if readable.is_empty()
        && let Some(Err(error)) = highest.into_iter().next()
    {
        return Err(error);
    }
    let count = readable.into_iter().flatten().max().unwrap_or(0);
    Ok((0..=count).map(|class| format!("class {class}")).collect())
}
