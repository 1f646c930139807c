//! What a trainer learns from, by task.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use burn::tensor::Device;
use lenslet_boxes::Letterbox;
use lenslet_data::boxes::{BoxSamples, BoxSet};
use lenslet_data::masks::{Mask, MaskSamples, MaskSet};
use lenslet_data::{Augment, Dataset, Image, Loader, LoaderConfig, Preprocess, class_counts};
use lenslet_models::{BuildOptions, ImageModel, Model};
use lenslet_nn::Init;

use super::setup::loading;
use crate::detect::{
    AnchorSpec, Detection, Detector, Thresholds, draw_boxes, evaluate_boxes, find_anchors,
};
use crate::loss::balanced_weights;
use crate::run::RunConfig;
use crate::segment::{Overlay, Segmenter, evaluate_masks};
use crate::{Data, Measured, TrainConfig, TrainError, even_batch};

/// Training and held-out data as the task needs them.
pub(crate) enum Work {
    /// Pictures of a class each.
    Classes(Box<[Loader; 2]>),
    /// Random parts of pictures with their masks; whole pictures.
    Masks(Loader<MaskSamples>, MaskSet),
    /// Pictures changed at random with their boxes; letterboxed ones.
    Boxes(Box<[Loader<BoxSamples>; 2]>, Arc<AnchorSpec>),
}

impl Work {
    /// The data of a run, and a weight for each class where the run asks for that.
    pub fn new(
        config: &RunConfig,
        data: Data,
        preprocess: Preprocess,
        build: &BuildOptions,
    ) -> Result<(Self, Option<Vec<f32>>), TrainError> {
        let train = &config.train;
        let settings = |samples: usize, shuffle: bool| LoaderConfig {
            batch_size: if shuffle {
                train.batch_size
            } else {
                even_batch(samples, train.batch_size)
            },
            shuffle,
            seed: train.seed,
            ..loading(config)
        };
        let mut weights = None;
        let work = match data {
            Data::Classes(split) => {
                let loader = |dataset: Arc<dyn Dataset>, augment: Option<Augment>, shuffle| {
                    let settings = settings(dataset.len(), shuffle);
                    Loader::new(dataset, preprocess, augment, settings)
                };
                if train.class_weights {
                    let counts = class_counts(split.train.as_ref());
                    weights = Some(balanced_weights(&counts));
                }
                let training = loader(split.train, train.augmentation()?, true)?;
                Self::Classes(Box::new([training, loader(split.val, None, false)?]))
            }
            Data::Masks([set, val]) => {
                if train.class_weights {
                    let counts = set.pixel_counts().into_iter().map(|n| n as usize);
                    weights = Some(balanced_weights(&counts.collect::<Vec<_>>()));
                }
                let settings = settings(set.files().len(), true);
                let samples = MaskSamples::new(set, preprocess, train.joint(), train.seed)?;
                Self::Masks(Loader::of(samples, settings)?, val)
            }
            Data::Boxes([set, val]) => {
                if train.class_weights {
                    return Err(TrainError::Setting {
                        setting: "--class-weights",
                        found: "given".into(),
                        expected: "boxes are learnt without; leave it out",
                    });
                }
                let loader = |set: BoxSet, joint, shuffle| {
                    let settings = settings(set.files().len(), shuffle);
                    let samples = BoxSamples::new(set, preprocess, joint, train.seed)?;
                    Loader::of(samples, settings)
                };
                let loaders = [
                    loader(set, Some(train.joint()), true)?,
                    loader(val, None, false)?,
                ];
                let spec = AnchorSpec::of(&preprocess, build);
                Self::Boxes(Box::new(loaders), Arc::new(spec))
            }
        };
        Ok((work, weights))
    }

    /// The loaders of pictures of a class each.
    pub fn classes(&self) -> Option<&[Loader; 2]> {
        match self {
            Self::Classes(loaders) => Some(loaders),
            _ => None,
        }
    }

    /// Pictures to train on and held out.
    pub fn pictures(&self) -> [usize; 2] {
        use lenslet_data::Samples;
        match self {
            Self::Classes(loaders) => loaders.each_ref().map(|l| l.dataset().len()),
            Self::Masks(train, val) => [train.samples().len(), val.files().len()],
            Self::Boxes(loaders, _) => loaders.each_ref().map(|l| l.samples().len()),
        }
    }

    /// Batches in an epoch.
    pub fn batches(&self) -> usize {
        match self {
            Self::Classes(loaders) => loaders[0].batches(),
            Self::Masks(train, _) => train.batches(),
            Self::Boxes(loaders, _) => loaders[0].batches(),
        }
    }

    /// A model of masks or boxes on the held-out data; `None` when `stop` was raised, or for pictures
    /// of a class each, which a compiled model looks at.
    pub fn evaluate(
        &self,
        model: &Model,
        (preprocess, build): (&Preprocess, &BuildOptions),
        device: &Device,
        stop: &AtomicBool,
    ) -> Result<Option<Measured>, TrainError> {
        match self {
            Self::Classes(_) => Ok(None),
            Self::Masks(_, val) => {
                let classes = val.classes().len();
                let segmenter = Segmenter::new(model, *preprocess, classes, device);
                let found = evaluate_masks(&segmenter, val, &mut |_| (), stop)?;
                Ok(found.map(Measured::Masks))
            }
            Self::Boxes(loaders, _) => {
                let detector = Detector::new(model, *preprocess, build, device);
                let found = evaluate_boxes(&detector, &loaders[1], &mut |_| (), stop)?;
                Ok(found.map(Measured::Boxes))
            }
        }
    }

    /// The first held-out picture of masks or boxes that can be read, and what it is called.
    pub fn sample(&self) -> Option<(String, Image)> {
        match self {
            Self::Classes(_) => None,
            Self::Masks(_, val) => (0..val.files().len()).find_map(|i| {
                let name = val.files()[i].name.clone();
                Some((name, val.get(i).ok()?.image))
            }),
            Self::Boxes(loaders, _) => {
                let val = loaders[1].samples().set();
                (0..val.files().len()).find_map(|i| {
                    let name = val.files()[i].name.clone();
                    Some((name, val.get(i).ok()?.image))
                })
            }
        }
    }
}

/// Pictures that are looked at to find a size for the input and anchors.
const LOOKED_AT: usize = 400;

/// Fills in what follows from the data where it is left open: the size of the input, and anchors for
/// `build`.
pub(super) fn settle(
    train: &mut TrainConfig,
    data: &Data,
) -> Result<Vec<Vec<[f32; 2]>>, TrainError> {
    let size = |image: Image| [image.width(), image.height()];
    let spread = |count: usize| (0..count).step_by(count.div_ceil(LOOKED_AT).max(1));
    match data {
        Data::Classes(_) => Ok(Vec::new()),
        Data::Masks([set, _]) => {
            if train.input_size.is_none() {
                let few = spread(set.files().len()).take(20);
                let sides = few.filter_map(|i| Some(size(set.get(i).ok()?.image)));
                let shorter = sides.map(|[w, h]| w.min(h)).collect();
                train.input_size = Some(usual_side(shorter, 256));
            }
            Ok(Vec::new())
        }
        Data::Boxes([set, _]) => {
            let mut boxes = Vec::new();
            let mut longer = Vec::new();
            for i in spread(set.files().len()) {
                // One that cannot be read is told of when it is needed.
                let Ok(sample) = set.get(i) else { continue };
                let picture = size(sample.image);
                longer.push(picture[0].max(picture[1]));
                boxes.extend(sample.boxes.iter().map(|label| (picture, label.rect)));
            }
            let side = train.input_size.unwrap_or_else(|| usual_side(longer, 416));
            train.input_size = Some(side);
            let sizes: Vec<[f32; 2]> = boxes
                .into_iter()
                .map(|(picture, rect)| {
                    let inside = Letterbox::new(picture, [side; 2]).into_frame(&rect);
                    [inside.width() as f32, inside.height() as f32]
                })
                .collect();
            // A backbone may have fewer maps than were asked for.
            let variant = train.variant()?;
            let maps = variant.backbone().map_or(train.scales, |backbone| {
                let model = backbone.build(1, &mut Init::empty(&Device::flex()));
                let mut strides: Vec<usize> = model.stage_info().iter().map(|s| s.stride).collect();
                strides.dedup();
                strides.len()
            });
            train.scales = train.scales.min(maps);
            Ok(find_anchors(&sizes, train.scales, train.anchors))
        }
    }
}

/// The median of the sides as a multiple of 32, at most `most`.
fn usual_side(mut sides: Vec<usize>, most: usize) -> usize {
    sides.sort_unstable();
    let median = sides.get(sides.len() / 2).copied().unwrap_or(most);
    (median / 32 * 32).clamp(64, most)
}

/// Held-out pictures that a report shows.
const SHOWN: usize = 12;

/// Held-out pictures with what is there and what the model finds, side by side: the worst ones of
/// masks, the first ones of boxes.
pub(super) fn examples(
    work: &Work,
    model: &Model,
    found: &Measured,
    (preprocess, build): (&Preprocess, &BuildOptions),
    device: &Device,
) -> Result<Vec<(String, Image)>, TrainError> {
    let mut shown = Vec::new();
    match (work, found) {
        (Work::Masks(_, val), Measured::Masks(found)) => {
            let segmenter = Segmenter::new(model, *preprocess, val.classes().len(), device);
            for (index, share) in found.worst.iter().take(SHOWN) {
                let Ok(sample) = val.get(*index) else {
                    continue;
                };
                // Whole cameras' pictures would make the report heavy.
                if sample.image.width().max(sample.image.height()) > 1024 {
                    continue;
                }
                let mask = segmenter.mask(&sample.image)?;
                let truth = Mask {
                    classes: sample.mask,
                    ..mask.clone()
                };
                let views = [
                    sample.image.clone(),
                    Overlay::new(&sample.image, &truth)?.0,
                    Overlay::new(&sample.image, &mask)?.0,
                ];
                let name = &val.files()[*index].name;
                let text = format!("{name}: {:.1} % of pixels right", share * 100.0);
                shown.push((text, Image::contact_sheet(&views, 3)));
            }
        }
        (Work::Boxes(loaders, _), _) => {
            let val = loaders[1].samples().set();
            let detector = Detector::new(model, *preprocess, build, device);
            for index in 0..val.files().len().min(SHOWN) {
                let Ok(sample) = val.get(index) else { continue };
                if sample.image.width().max(sample.image.height()) > 1024 {
                    continue;
                }
                let found = detector.image(&sample.image, &Thresholds::SHOWN)?;
                let truth: Vec<Detection> = sample
                    .boxes
                    .iter()
                    .map(|label| Detection {
                        class: label.class as usize,
                        score: 1.0,
                        rect: label.rect,
                    })
                    .collect();
                let views = [
                    draw_boxes(&sample.image, &truth, val.classes())?,
                    draw_boxes(&sample.image, &found, val.classes())?,
                ];
                let text = format!(
                    "{}: {} there, {} found",
                    val.files()[index].name,
                    truth.len(),
                    found.len()
                );
                shown.push((text, Image::contact_sheet(&views, 2)));
            }
        }
        _ => {}
    }
    Ok(shown)
}
