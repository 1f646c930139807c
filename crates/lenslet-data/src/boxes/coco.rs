//! COCO's JSON of pictures, classes and boxes.

use super::{BoxFile, BoxLabel, BoxSet, Sorter};
use crate::DataError;
use lenslet_boxes::Rect;
use serde::Deserialize;
use std::collections::HashMap;
use std::path::Path;

#[derive(Deserialize)]
struct Coco {
    images: Vec<CocoImage>,
    #[serde(default)]
    annotations: Vec<CocoBox>,
    categories: Vec<Category>,
}

#[derive(Deserialize)]
struct CocoImage {
    id: i64,
    file_name: String,
    width: Option<f64>,
    height: Option<f64>,
}

#[derive(Deserialize)]
struct CocoBox {
    #[serde(default)]
    id: serde_json::Value,
    image_id: i64,
    category_id: i64,
    bbox: Vec<f64>,
    #[serde(default)]
    iscrowd: u8,
}

#[derive(Deserialize)]
struct Category {
    id: i64,
    name: String,
}

/// Reads the file `path`, whose pictures `find` locates by their names.
pub(super) fn read(
    path: &Path,
    find: impl Fn(&str) -> std::path::PathBuf,
) -> Result<BoxSet, DataError> {
    let text = std::fs::read(path).map_err(|e| DataError::io(path, e))?;
    let coco: Coco = serde_json::from_slice(&text).map_err(|e| {
        DataError::annotation(
            path,
            format!("is no COCO file of boxes: {e}. It needs images, annotations with bbox, and categories"),
        )
    })?;
    let mut categories = coco.categories;
    categories.sort_by_key(|c| c.id);
    let classes: Vec<String> = categories.iter().map(|c| c.name.clone()).collect();
    crate::masks::check_names(path, &classes)?;
    let class_of: HashMap<i64, u32> = (0..).zip(&categories).map(|(i, c)| (c.id, i)).collect();
    let mut place_of: HashMap<i64, usize> = HashMap::new();
    for (i, image) in coco.images.iter().enumerate() {
        if place_of.insert(image.id, i).is_some() {
            return Err(DataError::annotation(
                path,
                format!("has two images with the id {}; give each its own", image.id),
            ));
        }
    }
    let mut files: Vec<BoxFile> = coco
        .images
        .iter()
        .map(|image| BoxFile {
            image: find(&image.file_name),
            name: image.file_name.clone(),
            boxes: Vec::new(),
            relative: false,
        })
        .collect();
    let mut faults = Vec::new();
    for one in coco.annotations {
        let place = || format!("{}, annotation {}", path.display(), one.id);
        let image = place_of.get(&one.image_id).copied();
        let size = image.and_then(|i| {
            let image = &coco.images[i];
            Some([image.width?, image.height?])
        });
        let mut sorter = Sorter {
            size,
            slack: 1.0,
            faults: &mut faults,
        };
        let Some(image) = image else {
            sorter.fault(
                place(),
                format!("there is no image with the id {}", one.image_id),
            );
            continue;
        };
        let Some(&class) = class_of.get(&one.category_id) else {
            let id = one.category_id;
            sorter.fault(place(), format!("there is no category with the id {id}"));
            continue;
        };
        let Ok(corner) = <[f64; 4]>::try_from(one.bbox.as_slice()) else {
            let reason = format!(
                "bbox has {} numbers, not x, y, width and height",
                one.bbox.len()
            );
            sorter.fault(place(), reason);
            continue;
        };
        if let Some(rect) = sorter.sound(place, Rect::from_corner(corner)) {
            files[image].boxes.push(BoxLabel {
                class,
                rect,
                crowd: one.iscrowd != 0,
            });
        }
    }
    Ok(BoxSet {
        files,
        classes,
        faults,
    })
}
