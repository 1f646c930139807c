//! Average precision as COCO's evaluation defines it (T.-Y. Lin et al., *Microsoft COCO*, 2014;
//! <https://cocodataset.org/#detection-eval>): all sizes, at most 100 detections an image and class.

use std::collections::BTreeMap;

use crate::Rect;

/// A box that is there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Truth {
    /// Which image.
    pub image: usize,
    /// Which class.
    pub class: usize,
    /// Where.
    pub rect: Rect,
    /// Whether it stands for a crowd: it need not be found, and may be found more than once.
    pub crowd: bool,
}

/// A box that was detected.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Found {
    /// Which image.
    pub image: usize,
    /// Which class.
    pub class: usize,
    /// Where.
    pub rect: Rect,
    /// How sure.
    pub score: f64,
}

/// Average precision of a set of detections.
#[derive(Clone, Debug, PartialEq)]
pub struct AveragePrecision {
    /// By class, at overlaps of 0.5, 0.55, … 0.95; `None` where no box of the class is there.
    pub classes: Vec<Option<[f64; 10]>>,
    /// Boxes that are there, by class, crowds left out.
    pub support: Vec<usize>,
}

impl AveragePrecision {
    /// The mean over the classes at an overlap of 0.5.
    pub fn at_50(&self) -> f64 {
        self.mean(|ap| ap[0])
    }

    /// The mean over the classes at an overlap of 0.75.
    pub fn at_75(&self) -> f64 {
        self.mean(|ap| ap[5])
    }

    /// The mean over the classes and over overlaps from 0.5 to 0.95.
    pub fn over_all(&self) -> f64 {
        self.mean(|ap| ap.iter().sum::<f64>() / ap.len() as f64)
    }

    /// 0 where no class has a box.
    fn mean(&self, of: impl Fn(&[f64; 10]) -> f64) -> f64 {
        let values: Vec<f64> = self.classes.iter().flatten().map(of).collect();
        values.iter().sum::<f64>() / values.len().max(1) as f64
    }
}

/// Detections beyond these, of one image and class, do not count.
const MOST: usize = 100;
/// Recalls at which precision is read.
const RECALLS: usize = 101;

/// The overlaps that count as found, in the arithmetic of NumPy's `linspace(0.5, 0.95, 10)`.
fn overlaps() -> [f64; 10] {
    let step = (0.95 - 0.5) / 9.0;
    std::array::from_fn(|i| if i == 9 { 0.95 } else { i as f64 * step + 0.5 })
}

/// The detections of one image and class, the surest first, after matching.
struct Matched {
    score: f64,
    /// At every overlap: right, wrong, or of no account.
    verdicts: [Verdict; 10],
}

#[derive(Clone, Copy, PartialEq)]
enum Verdict {
    Right,
    Wrong,
    Ignored,
}

/// Average precision of `found` where `truths` is there, both in the order of the images.
pub fn average_precision(classes: usize, truths: &[Truth], found: &[Found]) -> AveragePrecision {
    type Cell<'a> = (Vec<&'a Truth>, Vec<&'a Found>);
    let mut cells: BTreeMap<(usize, usize), Cell<'_>> = BTreeMap::new();
    for truth in truths {
        let cell = cells.entry((truth.class, truth.image)).or_default();
        cell.0.push(truth);
    }
    for one in found {
        cells.entry((one.class, one.image)).or_default().1.push(one);
    }
    let mut result = AveragePrecision {
        classes: vec![None; classes],
        support: vec![0; classes],
    };
    for class in 0..classes {
        let mut all = Vec::new();
        for (_, (truths, found)) in cells.range((class, 0)..(class + 1, 0)) {
            result.support[class] += truths.iter().filter(|t| !t.crowd).count();
            all.extend(matched(truths, found));
        }
        if result.support[class] > 0 {
            // Stable: equally sure ones stay in the order of the images.
            all.sort_by(|a, b| b.score.total_cmp(&a.score));
            let support = result.support[class];
            result.classes[class] = Some(std::array::from_fn(|t| curve(&all, t, support)));
        }
    }
    result
}

/// Gives every detection the box that it overlaps most of those still to be found.
fn matched(truths: &[&Truth], found: &[&Found]) -> Vec<Matched> {
    let mut found = found.to_vec();
    found.sort_by(|a, b| b.score.total_cmp(&a.score));
    found.truncate(MOST);
    // Crowds last: a box of its own is preferred.
    let mut truths = truths.to_vec();
    truths.sort_by_key(|t| t.crowd);
    let overlap = |one: &Found, truth: &Truth| {
        if truth.crowd {
            let area = one.rect.area();
            let shared = one.rect.intersection(&truth.rect).area();
            if area > 0.0 { shared / area } else { 0.0 }
        } else {
            one.rect.iou(&truth.rect)
        }
    };
    let table: Vec<Vec<f64>> = found
        .iter()
        .map(|one| truths.iter().map(|truth| overlap(one, truth)).collect())
        .collect();
    let mut result: Vec<Matched> = found
        .iter()
        .map(|one| Matched {
            score: one.score,
            verdicts: [Verdict::Wrong; 10],
        })
        .collect();
    for (t, threshold) in overlaps().into_iter().enumerate() {
        let mut taken = vec![false; truths.len()];
        for (one, row) in result.iter_mut().zip(&table) {
            let mut best = threshold.min(1.0 - 1e-10);
            let mut of: Option<usize> = None;
            for (g, truth) in truths.iter().enumerate() {
                if taken[g] && !truth.crowd {
                    continue;
                }
                if of.is_some_and(|m| !truths[m].crowd) && truth.crowd {
                    break;
                }
                if row[g] >= best {
                    best = row[g];
                    of = Some(g);
                }
            }
            if let Some(g) = of {
                taken[g] = true;
                one.verdicts[t] = if truths[g].crowd {
                    Verdict::Ignored
                } else {
                    Verdict::Right
                };
            }
        }
    }
    result
}

/// The mean of the highest precision at or beyond each of 101 recalls.
fn curve(all: &[Matched], t: usize, support: usize) -> f64 {
    let (mut right, mut wrong) = (0usize, 0usize);
    let mut points: Vec<(f64, f64)> = Vec::with_capacity(all.len());
    for one in all {
        match one.verdicts[t] {
            Verdict::Right => right += 1,
            Verdict::Wrong => wrong += 1,
            Verdict::Ignored => {}
        }
        let precision = right as f64 / ((right + wrong) as f64 + f64::EPSILON);
        points.push((right as f64 / support as f64, precision));
    }
    for i in (1..points.len()).rev() {
        points[i - 1].1 = points[i - 1].1.max(points[i].1);
    }
    let at = |i: usize| {
        let recall = if i == RECALLS - 1 {
            1.0
        } else {
            i as f64 * 0.01
        };
        let place = points.partition_point(|p| p.0 < recall);
        points.get(place).map_or(0.0, |p| p.1)
    };
    (0..RECALLS).map(at).sum::<f64>() / RECALLS as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn truth(image: usize, left: f64, crowd: bool) -> Truth {
        Truth {
            image,
            class: 0,
            rect: Rect::new(left, 0.0, left + 10.0, 10.0),
            crowd,
        }
    }

    fn found(image: usize, left: f64, score: f64) -> Found {
        Found {
            image,
            class: 0,
            rect: Rect::new(left, 0.0, left + 10.0, 10.0),
            score,
        }
    }

    #[test]
    fn perfect_detections_score_one() {
        let ap = average_precision(
            2,
            &[truth(0, 0.0, false), truth(1, 5.0, false)],
            &[found(0, 0.0, 0.9), found(1, 5.0, 0.2)],
        );
        assert!((ap.over_all() - 1.0).abs() < 1e-12);
        assert_eq!((ap.classes[1], ap.support.as_slice()), (None, &[2, 0][..]));
    }

    /// One right, then one wrong, one of two boxes missed: precision 1 up to a recall of a half.
    #[test]
    fn misses_and_false_alarms_cost() {
        let ap = average_precision(
            1,
            &[truth(0, 0.0, false), truth(0, 50.0, false)],
            &[found(0, 0.0, 0.9), found(0, 100.0, 0.8)],
        );
        assert!((ap.at_50() - 51.0 / 101.0).abs() < 1e-12);
    }

    /// What lies in a crowd is neither right nor wrong, a second find of one box is wrong.
    #[test]
    fn crowds_do_not_count() {
        let truths = [truth(0, 0.0, false), truth(0, 50.0, true)];
        let ap = average_precision(
            1,
            &truths,
            &[found(0, 51.0, 0.9), found(0, 0.0, 0.8), found(0, 52.0, 0.7)],
        );
        assert!((ap.at_50() - 1.0).abs() < 1e-12, "{ap:?}");
        let twice = [found(0, 0.5, 0.9), found(0, 0.0, 0.8)];
        let ap = average_precision(1, &truths, &twice);
        assert!(
            (ap.at_50() - 1.0).abs() < 1e-12 && ap.at_75() > 0.9,
            "{ap:?}"
        );
        assert_eq!(average_precision(1, &truths, &[]).at_50(), 0.0);
        assert_eq!(average_precision(1, &[], &twice).at_50(), 0.0);
    }
}
