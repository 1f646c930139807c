//! Masks for a loader.

use super::{IGNORE, MaskSet};
use crate::rng::Purpose;
use crate::{DataError, Joint, Preprocess, Rng, Samples};

/// Random parts of pictures with their masks, as a model learns from them.
#[derive(Clone, Debug)]
pub struct MaskSamples {
    set: MaskSet,
    preprocess: Preprocess,
    joint: Joint,
    seed: u64,
}

impl MaskSamples {
    /// Parts of the size that `preprocess` says, changed as `joint` says.
    ///
    /// # Errors
    /// [`DataError::Setting`] for settings that make no sense.
    pub fn new(
        set: MaskSet,
        preprocess: Preprocess,
        joint: Joint,
        seed: u64,
    ) -> Result<Self, DataError> {
        preprocess.validate()?;
        joint.validate()?;
        Ok(Self {
            set,
            preprocess,
            joint,
            seed,
        })
    }

    /// The pictures.
    pub fn set(&self) -> &MaskSet {
        &self.set
    }
}

impl Samples for MaskSamples {
    /// The class of every pixel, in rows.
    type Label = Vec<u8>;

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

    fn prepare(&self, epoch: u64, index: usize, out: &mut [f32]) -> Result<Vec<u8>, DataError> {
        let mut sample = self.set.get(index)?;
        sample.image = sample.image.to_channels(self.preprocess.channels);
        let mut rng = Rng::keyed(self.seed, Purpose::Augment, epoch, index as u64);
        let [height, width] = self.preprocess.crop;
        let part = self
            .joint
            .masked(&sample, [width, height], IGNORE, &mut rng)?;
        self.preprocess.normalise(&part.image, out);
        Ok(part.mask)
    }
}
