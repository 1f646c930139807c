//! Pictures that look the same.
//!
//! Two pictures count as near duplicates when their grey thumbnails of 16 x 16 correlate at 0.995 or more, their mean
//! brightness differs by at most 6 levels of 255, their contrast by at most a tenth, and their proportions by at most
//! 5 %. That finds pictures that were resized, recompressed or slightly retouched; not mirrored, turned or cropped ones.
//! Pictures without structure (a contrast under 2 levels) are left out: they all look alike.

/// Side of a thumbnail.
pub(super) const SIDE: usize = 16;
const PIXELS: usize = SIDE * SIDE;

const CORRELATION: f32 = 0.995;
const BRIGHTNESS: f32 = 6.0;
const CONTRAST: f32 = 1.1;
const PROPORTION: f32 = 1.05;
const FLAT: f32 = 2.0;

/// What is compared of a picture.
pub(super) struct Thumbnail {
    mean: f32,
    /// Standard deviation.
    contrast: f32,
    proportion: f32,
    /// Grey values less their mean, to length 1.
    shape: [f32; PIXELS],
}

impl Thumbnail {
    /// From `SIDE * SIDE` grey values, and width divided by height of the picture itself.
    pub(super) fn new(grey: &[u8], proportion: f32) -> Self {
        let mut shape = [0.0; PIXELS];
        shape
            .iter_mut()
            .zip(grey)
            .for_each(|(s, &v)| *s = f32::from(v));
        let mean = shape.iter().sum::<f32>() / PIXELS as f32;
        shape.iter_mut().for_each(|s| *s -= mean);
        let length = shape.iter().map(|s| s * s).sum::<f32>().sqrt();
        shape
            .iter_mut()
            .for_each(|s| *s /= length.max(f32::MIN_POSITIVE));
        Self {
            mean,
            contrast: length / SIDE as f32,
            proportion,
            shape,
        }
    }

    fn resembles(&self, other: &Self) -> bool {
        let within = |a: f32, b: f32, factor: f32| a <= b * factor && b <= a * factor;
        within(self.contrast, other.contrast, CONTRAST)
            && within(self.proportion, other.proportion, PROPORTION)
            && self
                .shape
                .iter()
                .zip(&other.shape)
                .map(|(a, b)| a * b)
                .sum::<f32>()
                >= CORRELATION
    }
}

/// The groups, of two or more, that resemblance joins; members rising, groups by their first.
pub(super) fn groups(thumbnails: &[&Thumbnail]) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..thumbnails.len())
        .filter(|&i| thumbnails[i].contrast >= FLAT)
        .collect();
    order.sort_by(|&a, &b| thumbnails[a].mean.total_cmp(&thumbnails[b].mean));
    // The first member of each one's group, as far as it is known.
    let mut leader: Vec<usize> = (0..thumbnails.len()).collect();
    for (at, &i) in order.iter().enumerate() {
        // Only what is about as bright comes into question, and that lies next in this order.
        let near = order[at + 1..]
            .iter()
            .take_while(|&&j| thumbnails[j].mean - thumbnails[i].mean <= BRIGHTNESS);
        for &j in near.filter(|&&j| thumbnails[i].resembles(thumbnails[j])) {
            let (a, b) = (find(&mut leader, i), find(&mut leader, j));
            leader[a.max(b)] = a.min(b);
        }
    }
    let mut groups: Vec<Vec<usize>> = vec![Vec::new(); thumbnails.len()];
    for i in 0..thumbnails.len() {
        let first = find(&mut leader, i);
        groups[first].push(i);
    }
    groups.retain(|g| g.len() > 1);
    groups
}

fn find(leader: &mut [usize], mut i: usize) -> usize {
    while leader[i] != i {
        leader[i] = leader[leader[i]];
        i = leader[i];
    }
    i
}
