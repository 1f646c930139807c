//! PASCAL VOC's XML, a file a picture.

use super::{BoxFault, BoxFile, BoxLabel, Sorter};
use crate::DataError;
use lenslet_boxes::Rect;
use std::path::{Path, PathBuf};

/// A picture's boxes with the names of their classes.
pub(super) struct Named {
    pub file: BoxFile,
    pub classes: Vec<String>,
}

/// Reads the file `path`, whose picture `find` locates by its name. The classes are numbered later:
/// `file.boxes[i]` is of class `classes[i]`.
pub(super) fn read(
    path: &Path,
    find: impl Fn(Option<&str>) -> PathBuf,
    faults: &mut Vec<BoxFault>,
) -> Result<Named, DataError> {
    let text = std::fs::read_to_string(path).map_err(|e| DataError::io(path, e))?;
    let refuse = |reason: String| {
        DataError::annotation(
            path,
            format!("is no VOC annotation: {reason}; save it again"),
        )
    };
    let document = roxmltree::Document::parse(&text).map_err(|e| refuse(e.to_string()))?;
    let root = document.root_element();
    if !root.has_tag_name("annotation") {
        return Err(refuse(format!(
            "it begins with <{}>, not <annotation>",
            root.tag_name().name()
        )));
    }
    type Node<'a> = roxmltree::Node<'a, 'a>;
    fn text_of<'a>(node: Node<'a>, name: &str) -> Option<&'a str> {
        let child = node.children().find(|c| c.has_tag_name(name))?;
        child.text().map(str::trim)
    }
    let number = |node: Node<'_>, name: &str| text_of(node, name)?.parse::<f64>().ok();
    let size = root.children().find(|c| c.has_tag_name("size"));
    // A size of 0 is what some tools write when they do not know it.
    let size = size.and_then(|s| Some([number(s, "width")?, number(s, "height")?]));
    let size = size.filter(|s| s.iter().all(|&v| v > 0.0));
    let image = find(text_of(root, "filename"));
    let mut named = Named {
        file: BoxFile {
            name: image.file_name().map_or_else(
                || path.display().to_string(),
                |n| n.to_string_lossy().into_owned(),
            ),
            image,
            boxes: Vec::new(),
            relative: false,
        },
        classes: Vec::new(),
    };
    let objects = root.children().filter(|c| c.has_tag_name("object"));
    for (i, object) in objects.enumerate() {
        let place = || format!("{}, object {}", path.display(), i + 1);
        let mut sorter = Sorter {
            size,
            slack: 1.0,
            faults,
        };
        let bounds = object.children().find(|c| c.has_tag_name("bndbox"));
        let edges = bounds.and_then(|b| {
            let edge = |name| number(b, name);
            Some([edge("xmin")?, edge("ymin")?, edge("xmax")?, edge("ymax")?])
        });
        let Some([left, top, right, bottom]) = edges else {
            sorter.fault(place(), "its bndbox lacks xmin, ymin, xmax or ymax".into());
            continue;
        };
        let Some(name) = text_of(object, "name").filter(|n| !n.is_empty()) else {
            sorter.fault(place(), "it has no name".into());
            continue;
        };
        // VOC counts pixels from 1 and the last one is in the box.
        let rect = Rect::new(left - 1.0, top - 1.0, right, bottom);
        if let Some(rect) = sorter.sound(place, rect) {
            named.classes.push(name.to_string());
            named.file.boxes.push(BoxLabel {
                class: 0,
                rect,
                crowd: text_of(object, "difficult") == Some("1"),
            });
        }
    }
    Ok(named)
}
