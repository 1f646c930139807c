//! YOLO's text files: a line a box, `class x y width height`, as fractions of the picture, the place
//! being the box's centre.

use super::{BoxFault, BoxLabel, Sorter};
use crate::DataError;
use lenslet_boxes::Rect;
use std::path::Path;

/// The boxes in the file `path`, as fractions of their picture.
pub(super) fn read(
    path: &Path,
    classes: usize,
    faults: &mut Vec<BoxFault>,
) -> Result<Vec<BoxLabel>, DataError> {
    let text = std::fs::read_to_string(path).map_err(|e| DataError::io(path, e))?;
    let mut boxes = Vec::new();
    let mut sorter = Sorter {
        size: Some([1.0; 2]),
        slack: 2e-3,
        faults,
    };
    for (i, line) in text
        .lines()
        .enumerate()
        .filter(|(_, l)| !l.trim().is_empty())
    {
        let place = || format!("{}, line {}", path.display(), i + 1);
        let words: Vec<&str> = line.split_whitespace().collect();
        let numbers: Option<Vec<f64>> = words.iter().skip(1).map(|w| w.parse().ok()).collect();
        let (Some(numbers), 5) = (numbers, words.len()) else {
            let reason = "it is not class, x, y, width and height, five numbers".into();
            sorter.fault(place(), reason);
            continue;
        };
        let class = words[0]
            .parse::<u32>()
            .ok()
            .filter(|c| (*c as usize) < classes);
        let Some(class) = class else {
            let reason = format!(
                "there is no class {}; there are {classes}, from 0",
                words[0]
            );
            sorter.fault(place(), reason);
            continue;
        };
        let centre = [numbers[0], numbers[1], numbers[2], numbers[3]];
        if let Some(rect) = sorter.sound(place, Rect::from_centre(centre)) {
            boxes.push(BoxLabel {
                class,
                rect,
                crowd: false,
            });
        }
    }
    Ok(boxes)
}

/// The names in `dir/data.yaml`: `names: [a, b]`, or a list or a map below `names:`.
pub(super) fn names(dir: &Path) -> Result<Option<Vec<String>>, DataError> {
    let path = dir.join("data.yaml");
    if !path.is_file() {
        return Ok(None);
    }
    let text = std::fs::read_to_string(&path).map_err(|e| DataError::io(&path, e))?;
    let mut names = Vec::new();
    let clean = |word: &str| word.trim().trim_matches(['"', '\'']).to_string();
    let mut lines = text.lines();
    let head = lines.by_ref().find_map(|l| l.strip_prefix("names:"));
    match head.map(str::trim) {
        Some(list) if list.starts_with('[') && list.ends_with(']') => {
            let inner = &list[1..list.len() - 1];
            names.extend(inner.split(',').map(clean).filter(|n| !n.is_empty()));
        }
        Some("") => {
            for line in lines.take_while(|l| l.starts_with([' ', '-']) || l.is_empty()) {
                let line = line.trim();
                if let Some(name) = line.strip_prefix('-') {
                    names.push(clean(name));
                } else if let Some((_, name)) = line.split_once(':') {
                    names.push(clean(name));
                }
            }
        }
        _ => {}
    }
    if names.is_empty() {
        return Err(DataError::annotation(
            &path,
            "lists no classes; it needs a line such as names: [cat, dog]",
        ));
    }
    crate::masks::check_names(&path, &names)?;
    Ok(Some(names))
}
