//! Boxes for a loader.

use super::{BoxLabel, BoxSet};
use crate::rng::Purpose;
use crate::{DataError, Joint, Preprocess, Rng, Samples};

/// What is to be found in a picture.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BoxTarget {
    /// In the pixels of the model's input.
    pub boxes: Vec<BoxLabel>,
    /// Width and height of the picture itself.
    pub picture: [usize; 2],
    /// In the pixels of the picture itself.
    pub whole: Vec<BoxLabel>,
}

/// Pictures with boxes: letterboxed, or changed at random.
#[derive(Clone, Debug)]
pub struct BoxSamples {
    set: BoxSet,
    preprocess: Preprocess,
    joint: Option<Joint>,
    seed: u64,
}

impl BoxSamples {
    /// Inputs of the size that `preprocess` says, changed as `joint` says, if at all.
    ///
    /// # Errors
    /// [`DataError::Setting`] for settings that make no sense.
    pub fn new(
        set: BoxSet,
        preprocess: Preprocess,
        joint: Option<Joint>,
        seed: u64,
    ) -> Result<Self, DataError> {
        preprocess.validate()?;
        if let Some(joint) = &joint {
            joint.validate()?;
        }
        Ok(Self {
            set,
            preprocess,
            joint,
            seed,
        })
    }

    /// The pictures.
    pub fn set(&self) -> &BoxSet {
        &self.set
    }
}

impl Samples for BoxSamples {
    type Label = BoxTarget;

    fn len(&self) -> usize {
        self.set.files().len()
    }

    fn id(&self, index: usize) -> String {
        let file = self.set.files().get(index);
        file.map_or_else(
            || format!("sample {index}"),
            |f| f.image.display().to_string(),
        )
    }

    fn input_shape(&self) -> [usize; 3] {
        self.preprocess.output_shape()
    }

    fn prepare(&self, epoch: u64, index: usize, out: &mut [f32]) -> Result<BoxTarget, DataError> {
        let mut sample = self.set.get(index)?;
        sample.image = sample.image.to_channels(self.preprocess.channels);
        let picture = [sample.image.width(), sample.image.height()];
        let whole = sample.boxes.clone();
        let boxes = match &self.joint {
            Some(joint) => {
                let mut rng = Rng::keyed(self.seed, Purpose::Augment, epoch, index as u64);
                let [height, width] = self.preprocess.crop;
                let part = joint.boxed(&sample, [width, height], &mut rng)?;
                self.preprocess.normalise(&part.image, out);
                part.boxes
            }
            None => {
                let letterbox = self.preprocess.letterbox(picture[0], picture[1]);
                self.preprocess.apply(sample.image, None, out)?;
                let moved = whole.iter().map(|label| BoxLabel {
                    rect: letterbox.into_frame(&label.rect),
                    ..*label
                });
                moved.collect()
            }
        };
        Ok(BoxTarget {
            boxes,
            picture,
            whole,
        })
    }
}
