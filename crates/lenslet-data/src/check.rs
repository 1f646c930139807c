//! A look at a folder of images before it is trained on. Nothing is written into the folder.

mod similar;

use crate::decode::{self, Colour, Decoded, FileInfo, Limits};
use crate::folder::{self, Scan};
use crate::split::{Content, in_parallel};
use crate::{Channels, DataError, Image, Interpolation, transform};
use serde::{Deserialize, Serialize};
use similar::Thumbnail;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Names of files listed in a group of which there may be very many.
const EXAMPLES: usize = 20;

/// What was found in a folder. Every list is in the order of the files; names are relative to the folder.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The folder.
    pub dir: String,
    /// What keeps the folder from being trained on; empty when nothing does.
    pub errors: Vec<String>,
    /// The splits ("all", or "train", "val", "test") with their number of files.
    pub splits: BTreeMap<String, usize>,
    /// The classes in order, with the number of files in each split.
    pub classes: Vec<ClassCount>,
    /// Size of the largest class of the training split (or of all) divided by that of the smallest; 0 without classes.
    pub imbalance: f64,
    /// Width and height of the readable images.
    pub sizes: Option<Sizes>,
    /// Number of readable files by format.
    pub formats: BTreeMap<String, usize>,
    /// Files that cannot be decoded, other than truncated ones.
    pub unreadable: Vec<Fault>,
    /// Files that end early.
    pub truncated: Vec<Fault>,
    /// Grey images.
    pub grey: Group,
    /// Images with an alpha channel, which is dropped.
    pub alpha: Group,
    /// CMYK images, converted without colour management.
    pub cmyk: Group,
    /// Images of 16 bits a sample, of which the high byte is used.
    pub sixteen_bit: Group,
    /// Images that their EXIF orientation turns or mirrors.
    pub exif_rotated: Group,
    /// Files with the same content, in groups.
    pub exact_duplicates: Vec<Duplicates>,
    /// Pictures that look the same (resized, recompressed, slightly brightened), in groups; exact copies count once.
    pub near_duplicates: Vec<Duplicates>,
    /// Files that are no images, and files outside the class folders.
    pub ignored: Group,
}

/// One class.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassCount {
    /// Its name.
    pub name: String,
    /// Files by split.
    pub files: BTreeMap<String, usize>,
}

/// The range of widths and heights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sizes {
    /// Smallest width, and smallest height.
    pub min: [usize; 2],
    /// Middle width, and middle height.
    pub median: [usize; 2],
    /// Largest width, and largest height.
    pub max: [usize; 2],
    /// Number of images whose shorter side is under 32 pixels.
    pub tiny: usize,
}

/// A file that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Its name.
    pub file: String,
    /// The message.
    pub error: String,
}

/// Files that have something in common.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// How many.
    pub count: usize,
    /// The first twenty.
    pub examples: Vec<String>,
}

impl Group {
    fn of<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        let mut group = Self::default();
        for name in names {
            if group.count < EXAMPLES {
                group.examples.push(name.to_string());
            }
            group.count += 1;
        }
        group
    }
}

/// Files that show the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Duplicates {
    /// Their names.
    pub files: Vec<String>,
    /// True when they lie in different splits, which spoils the validation.
    pub across_splits: bool,
    /// True when they lie in different classes: at least one label is wrong.
    pub across_classes: bool,
}

/// One file and what it turned out to be.
struct Looked {
    name: String,
    split: usize,
    class: usize,
    outcome: Result<Seen, DataError>,
}

struct Seen {
    info: FileInfo,
    width: usize,
    height: usize,
    content: Content,
    thumbnail: Thumbnail,
}

/// Reads every image in the class folders of `dir` and reports. `progress` is called with the number of files done and
/// of all files, from several threads.
///
/// # Errors
/// [`DataError::Io`] when a folder cannot be read. What is wrong with the data is in the report.
pub fn folder(
    dir: &Path,
    limits: Limits,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<Report, DataError> {
    let scan = folder::scan(dir)?;
    let names = scan.class_names();
    let mut files = Vec::new();
    for (split, scanned) in scan.splits.iter().enumerate() {
        for (class, found) in &scanned.classes {
            let class = names.iter().position(|n| n == class).unwrap_or(0);
            files.extend(found.iter().map(|(path, name)| (path, name, split, class)));
        }
    }
    let done = AtomicUsize::new(0);
    let looked = in_parallel(files.len(), |i| {
        let (path, name, split, class) = files[i];
        let outcome = look(path, limits);
        progress(done.fetch_add(1, Ordering::Relaxed) + 1, files.len());
        Looked {
            name: name.clone(),
            split,
            class,
            outcome,
        }
    });
    Ok(report(dir, &scan, names, looked))
}

fn look(path: &Path, limits: Limits) -> Result<Seen, DataError> {
    let bytes = decode::read_bytes(path, limits)?;
    let Decoded { image, info } = decode::decode(&bytes, path, limits)?;
    let (width, height) = (image.width(), image.height());
    Ok(Seen {
        info,
        width,
        height,
        content: Content::of(&bytes),
        thumbnail: thumbnail(image)?,
    })
}

/// A small grey picture. What is very long is cut to its middle, which a resize could not hold.
fn thumbnail(image: Image) -> Result<Thumbnail, DataError> {
    let (w, h) = (image.width(), image.height());
    let (cut_w, cut_h) = (w.min(h.saturating_mul(64)), h.min(w.saturating_mul(64)));
    let image = if (w, h) == (cut_w, cut_h) {
        image
    } else {
        image.center_crop(cut_w, cut_h)
    };
    let side = similar::SIDE;
    let small = transform::resize(
        image.to_channels(Channels::Grey),
        side,
        side,
        Interpolation::Bilinear,
    )?;
    Ok(Thumbnail::new(small.data(), w as f32 / h as f32))
}

fn report(dir: &Path, scan: &Scan, names: Vec<String>, looked: Vec<Looked>) -> Report {
    let mut report = Report {
        dir: dir.display().to_string(),
        errors: scan.problems().iter().map(ToString::to_string).collect(),
        ignored: Group::of(scan.others.iter().map(String::as_str)),
        ..Report::default()
    };
    let split_name = |i: usize| scan.splits.get(i).map_or("all", |s| s.name).to_string();
    report.splits = (0..scan.splits.len())
        .map(|s| {
            (
                split_name(s),
                looked.iter().filter(|f| f.split == s).count(),
            )
        })
        .collect();
    let mut counts = vec![vec![0usize; scan.splits.len()]; names.len()];
    for file in &looked {
        counts[file.class][file.split] += 1;
    }
    // The splits are in the order train, val, test: the first is what is trained on.
    let trained = || counts.iter().filter_map(|c| c.first().copied());
    report.imbalance = match (trained().max(), trained().min()) {
        (Some(most), Some(least)) => most as f64 / least.max(1) as f64,
        _ => 0.0,
    };
    report.classes = names
        .into_iter()
        .zip(&counts)
        .map(|(name, counts)| ClassCount {
            name,
            files: counts
                .iter()
                .enumerate()
                .map(|(s, &n)| (split_name(s), n))
                .collect(),
        })
        .collect();

    let readable: Vec<(&Looked, &Seen)> = looked
        .iter()
        .filter_map(|f| f.outcome.as_ref().ok().map(|s| (f, s)))
        .collect();
    for file in &looked {
        if let Err(error) = &file.outcome {
            let fault = Fault {
                file: file.name.clone(),
                error: error.to_string(),
            };
            let list = if matches!(error, DataError::Truncated { .. }) {
                &mut report.truncated
            } else {
                &mut report.unreadable
            };
            list.push(fault);
        }
    }
    for (_, seen) in &readable {
        *report
            .formats
            .entry(seen.info.format.name().to_string())
            .or_default() += 1;
    }
    let which = |test: fn(&FileInfo) -> bool| {
        Group::of(
            readable
                .iter()
                .filter(|(_, s)| test(&s.info))
                .map(|(f, _)| f.name.as_str()),
        )
    };
    report.grey = which(|i| i.colour == Colour::Grey);
    report.alpha = which(|i| i.alpha);
    report.cmyk = which(|i| i.colour == Colour::Cmyk);
    report.sixteen_bit = which(|i| i.bits == 16);
    report.exif_rotated = which(|i| i.orientation != 1);
    report.sizes = sizes(&readable);
    duplicates(&mut report, &readable);
    report
}

fn sizes(readable: &[(&Looked, &Seen)]) -> Option<Sizes> {
    let mut sides = [|s: &Seen| s.width, |s: &Seen| s.height]
        .map(|side| readable.iter().map(|(_, s)| side(s)).collect::<Vec<_>>());
    sides.iter_mut().for_each(|s| s.sort_unstable());
    let at = |i: usize| Some([*sides[0].get(i)?, *sides[1].get(i)?]);
    let last = readable.len().checked_sub(1)?;
    let tiny = readable
        .iter()
        .filter(|(_, s)| s.width.min(s.height) < 32)
        .count();
    Some(Sizes {
        min: at(0)?,
        median: at(last / 2)?,
        max: at(last)?,
        tiny,
    })
}

fn duplicates(report: &mut Report, readable: &[(&Looked, &Seen)]) {
    let group = |members: &[usize]| {
        let files: Vec<&Looked> = members.iter().map(|&i| readable[i].0).collect();
        Duplicates {
            files: files.iter().map(|f| f.name.clone()).collect(),
            across_splits: files.iter().any(|f| f.split != files[0].split),
            across_classes: files.iter().any(|f| f.class != files[0].class),
        }
    };
    let mut copies: HashMap<Content, Vec<usize>> = HashMap::new();
    for (i, (_, seen)) in readable.iter().enumerate() {
        copies.entry(seen.content).or_default().push(i);
    }
    let mut exact: Vec<&Vec<usize>> = copies.values().filter(|m| m.len() > 1).collect();
    exact.sort();
    report.exact_duplicates = exact.into_iter().map(|m| group(m)).collect();

    // One of each content.
    let mut firsts: Vec<usize> = copies.values().filter_map(|m| m.first().copied()).collect();
    firsts.sort_unstable();
    let thumbnails: Vec<&Thumbnail> = firsts.iter().map(|&i| &readable[i].1.thumbnail).collect();
    let near = similar::groups(&thumbnails);
    report.near_duplicates = near
        .iter()
        .map(|m| group(&m.iter().map(|&i| firsts[i]).collect::<Vec<_>>()))
        .collect();
}
