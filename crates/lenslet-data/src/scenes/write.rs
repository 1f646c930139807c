//! Scenes as files in the usual formats.

use super::{Scene, draw};
use crate::boxes::BoxLabel;
use crate::masks::voc_palette;
use crate::rng::Purpose;
use crate::split::in_parallel;
use crate::{DataError, Dataset, Rng, mnist};
use serde::Serialize;
use serde_json::json;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// What is to be learnt of the scenes, and how that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SceneKind {
    /// A mask a picture.
    Segment(MaskKind),
    /// Boxes.
    Detect(BoxFormat),
}

/// How masks are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaskKind {
    /// PNG with a palette of PASCAL VOC's colours.
    Palette,
    /// PNG whose grey values are the classes.
    Index,
    /// PNG in RGB, a colour a class.
    Colour,
}

/// How boxes are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BoxFormat {
    /// COCO's JSON, one file a part.
    Coco,
    /// PASCAL VOC's XML, one file a picture.
    Voc,
    /// YOLO's text, one file a picture.
    Yolo,
}

/// What is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SceneOptions {
    /// What is to be learnt.
    pub kind: SceneKind,
    /// Pictures in all, of which a fifth is held out.
    pub images: usize,
    /// Height and width of each.
    pub size: usize,
    /// Decides everything.
    pub seed: u64,
}

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Written {
    /// Pictures to train on.
    pub train: usize,
    /// Pictures to measure on.
    pub val: usize,
    /// Digits in all of them.
    pub digits: usize,
}

const LIMITS: [(&str, usize, usize, &str); 2] = [
    ("--images", 10, 1_000_000, "it must be from 10 to 1,000,000"),
    ("--size", 32, 2048, "it must be from 32 to 2048 pixels"),
];

/// Draws scenes into the new folder `dir`: those to train on of the digits of MNIST's sample, those held out of its test
/// digits only. The folder appears when it is complete.
///
/// # Errors
/// [`DataError::Setting`]; [`DataError::Annotation`] when `dir` is there and not empty; [`DataError::Io`].
pub fn write(dir: &Path, options: &SceneOptions) -> Result<Written, DataError> {
    let given = [options.images, options.size];
    for ((setting, low, high, expected), value) in LIMITS.into_iter().zip(given) {
        if !(low..=high).contains(&value) {
            return Err(DataError::Setting {
                setting,
                found: value.to_string(),
                expected,
            });
        }
    }
    let empty = |dir: &Path| std::fs::read_dir(dir).is_ok_and(|mut d| d.next().is_none());
    if dir.exists() && !empty(dir) {
        return Err(DataError::annotation(
            dir,
            "is there already and is not empty; name a new folder",
        ));
    }
    let parent = match dir.parent() {
        Some(p) if !p.as_os_str().is_empty() => p.to_path_buf(),
        _ => PathBuf::from("."),
    };
    let name = dir.file_name().map(|n| n.to_string_lossy().into_owned());
    let name = name.ok_or_else(|| DataError::annotation(dir, "has no name; name a new folder"))?;
    let partial = parent.join(format!(".{name}.partial-{}", std::process::id()));
    let result = write_into(&partial, options).and_then(|written| {
        if dir.exists() {
            std::fs::remove_dir(dir).map_err(|e| DataError::io(dir, e))?;
        }
        std::fs::rename(&partial, dir).map_err(|e| DataError::io(dir, e))?;
        Ok(written)
    });
    if result.is_err() {
        // Nothing of use is in it; that it could not be written is what the user is told.
        let _ = std::fs::remove_dir_all(&partial);
    }
    result
}

fn write_into(dir: &Path, options: &SceneOptions) -> Result<Written, DataError> {
    let digits = mnist::embedded()?;
    let held_out = options.images / 5;
    let parts: [(&str, usize, &dyn Dataset); 2] = [
        ("train", options.images - held_out, &digits.train),
        ("val", held_out, &digits.test),
    ];
    let mut written = Written {
        train: parts[0].1,
        val: parts[1].1,
        digits: 0,
    };
    let writer = Writer { dir, options };
    for (epoch, (part, count, digits)) in parts.into_iter().enumerate() {
        writer.folders(part)?;
        let scenes = in_parallel(count, |i| {
            let mut rng = Rng::keyed(options.seed, Purpose::Scene, epoch as u64, i as u64);
            let scene = draw(digits, options.size, &mut rng)?;
            let name = format!("{i:06}");
            writer.scene(part, &name, &scene)?;
            Ok((name, scene.boxes))
        });
        let scenes: Result<Vec<(String, Vec<BoxLabel>)>, DataError> = scenes.into_iter().collect();
        let scenes = scenes?;
        written.digits += scenes.iter().map(|(_, boxes)| boxes.len()).sum::<usize>();
        writer.lists(part, &scenes)?;
    }
    writer.classes()?;
    Ok(written)
}

struct Writer<'a> {
    dir: &'a Path,
    options: &'a SceneOptions,
}

impl Writer<'_> {
    fn put(&self, name: &str, content: &[u8]) -> Result<(), DataError> {
        let path = self.dir.join(name);
        std::fs::write(&path, content).map_err(|e| DataError::io(path, e))
    }

    fn folders(&self, part: &str) -> Result<(), DataError> {
        let names = match self.options.kind {
            SceneKind::Segment(_) => vec![format!("{part}/images"), format!("{part}/masks")],
            SceneKind::Detect(BoxFormat::Coco) => {
                vec![format!("images/{part}"), "annotations".into()]
            }
            SceneKind::Detect(BoxFormat::Yolo) => {
                vec![format!("images/{part}"), format!("labels/{part}")]
            }
            SceneKind::Detect(BoxFormat::Voc) => ["JPEGImages", "Annotations", "ImageSets/Main"]
                .map(String::from)
                .to_vec(),
        };
        for name in names {
            let path = self.dir.join(name);
            std::fs::create_dir_all(&path).map_err(|e| DataError::io(path, e))?;
        }
        Ok(())
    }

    /// The files of one scene.
    fn scene(&self, part: &str, name: &str, scene: &Scene) -> Result<(), DataError> {
        let png = scene.image.to_png()?;
        match self.options.kind {
            SceneKind::Segment(kind) => {
                self.put(&format!("{part}/images/{name}.png"), &png)?;
                let mask = match kind {
                    MaskKind::Palette => scene.mask.to_png(Some(&voc_palette()))?,
                    MaskKind::Index => scene.mask.to_png(None)?,
                    MaskKind::Colour => scene.mask.coloured(&voc_palette())?.to_png()?,
                };
                self.put(&format!("{part}/masks/{name}.png"), &mask)
            }
            SceneKind::Detect(BoxFormat::Coco) => {
                self.put(&format!("images/{part}/{name}.png"), &png)
            }
            SceneKind::Detect(BoxFormat::Yolo) => {
                self.put(&format!("images/{part}/{name}.png"), &png)?;
                let size = self.options.size as f64;
                let mut text = String::new();
                for label in &scene.boxes {
                    let [x, y, w, h] = label.rect.centre().map(|v| v / size);
                    let _ = writeln!(text, "{} {x} {y} {w} {h}", label.class);
                }
                self.put(&format!("labels/{part}/{name}.txt"), text.as_bytes())
            }
            SceneKind::Detect(BoxFormat::Voc) => {
                let name = format!("{part}_{name}");
                self.put(&format!("JPEGImages/{name}.png"), &png)?;
                let xml = self.xml(&name, &scene.boxes);
                self.put(&format!("Annotations/{name}.xml"), xml.as_bytes())
            }
        }
    }

    fn xml(&self, name: &str, boxes: &[BoxLabel]) -> String {
        let size = self.options.size;
        let mut text = format!(
            "<annotation>\n  <folder>JPEGImages</folder>\n  <filename>{name}.png</filename>\n  <size><width>{size}</width>\
             <height>{size}</height><depth>3</depth></size>\n  <segmented>0</segmented>\n"
        );
        for label in boxes {
            let rect = label.rect;
            let _ = writeln!(
                text,
                "  <object><name>{}</name><difficult>0</difficult><truncated>0</truncated><bndbox><xmin>{}</xmin>\
                 <ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>",
                label.class,
                rect.left + 1.0,
                rect.top + 1.0,
                rect.right,
                rect.bottom
            );
        }
        text + "</annotation>\n"
    }

    /// What stands in one file for a whole part.
    fn lists(&self, part: &str, scenes: &[(String, Vec<BoxLabel>)]) -> Result<(), DataError> {
        match self.options.kind {
            SceneKind::Detect(BoxFormat::Coco) => {
                let size = self.options.size;
                let images: Vec<_> = (1..)
                    .zip(scenes)
                    .map(|(id, (name, _))| {
                        json!({ "id": id, "file_name": format!("{name}.png"), "width": size, "height": size })
                    })
                    .collect();
                let boxes = (1..)
                    .zip(scenes)
                    .flat_map(|(image, (_, boxes))| boxes.iter().map(move |b| (image, b)));
                let annotations: Vec<_> = (1..)
                    .zip(boxes)
                    .map(|(id, (image, label)): (usize, (usize, &BoxLabel))| {
                        json!({
                            "id": id, "image_id": image, "category_id": label.class + 1,
                            "bbox": label.rect.corner(), "area": label.rect.area(), "iscrowd": 0,
                        })
                    })
                    .collect();
                let categories: Vec<_> = (1..)
                    .zip(mnist::class_names())
                    .map(|(id, name): (usize, String)| json!({ "id": id, "name": name }))
                    .collect();
                let whole = json!({
                    "images": images, "annotations": annotations, "categories": categories,
                });
                let name = format!("annotations/instances_{part}.json");
                self.put(&name, whole.to_string().as_bytes())
            }
            SceneKind::Detect(BoxFormat::Voc) => {
                let names: String = scenes
                    .iter()
                    .map(|(n, _)| format!("{part}_{n}\n"))
                    .collect();
                self.put(&format!("ImageSets/Main/{part}.txt"), names.as_bytes())
            }
            _ => Ok(()),
        }
    }

    /// The names of the classes, where they are in no other file.
    fn classes(&self) -> Result<(), DataError> {
        let digits = mnist::class_names();
        let lines = |names: &[String]| names.iter().map(|n| format!("{n}\n")).collect::<String>();
        let mut names = vec!["background".to_string()];
        names.extend(digits.iter().cloned());
        match self.options.kind {
            SceneKind::Segment(MaskKind::Index) => {
                self.put("classes.txt", lines(&names).as_bytes())
            }
            SceneKind::Segment(_) => {
                let rows = names.iter().zip(voc_palette());
                let rows = rows.map(|(name, [r, g, b])| format!("{name},{r},{g},{b}\n"));
                let table = format!("name,red,green,blue\n{}", rows.collect::<String>());
                self.put("classes.csv", table.as_bytes())
            }
            SceneKind::Detect(BoxFormat::Yolo) => {
                let yaml = format!(
                    "train: images/train\nval: images/val\nnames:\n{}",
                    (0..)
                        .zip(&digits)
                        .map(|(i, n): (usize, _)| format!("  {i}: '{n}'\n"))
                        .collect::<String>()
                );
                self.put("data.yaml", yaml.as_bytes())
            }
            SceneKind::Detect(BoxFormat::Voc) => self.put("classes.txt", lines(&digits).as_bytes()),
            SceneKind::Detect(BoxFormat::Coco) => Ok(()),
        }
    }
}
