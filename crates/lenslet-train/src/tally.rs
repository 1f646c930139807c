//! Counting what a model makes of labelled pictures.

use serde::{Deserialize, Serialize};

use crate::Confusion;
use crate::metrics::{softmax, top_k};

/// A picture that could not be read and was left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SkippedFile {
    /// What a person would call it.
    pub id: String,
    /// Why, with the cure.
    pub reason: String,
}

impl SkippedFile {
    pub(crate) fn of(skipped: &lenslet_data::Skipped) -> Self {
        Self {
            id: skipped.id.clone(),
            reason: skipped.error.to_string(),
        }
    }
}

/// One picture and what a model made of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Judged {
    /// Its index in the dataset.
    pub index: usize,
    /// Its class.
    pub truth: usize,
    /// The class that the model finds likeliest.
    pub predicted: usize,
    /// The probability that it gives that class.
    pub confidence: f64,
    /// The probability that it gives the true class.
    pub truth_probability: f64,
    /// How far the two likeliest classes are apart.
    pub margin: f64,
}

/// What an evaluation found.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// Mean cross entropy.
    pub loss: f64,
    /// Share of pictures whose class was the first guess.
    pub top1: f64,
    /// Share of pictures whose class was among the first five; `None` with five classes or fewer.
    pub top5: Option<f64>,
    /// Pictures by true and predicted class.
    pub confusion: Confusion,
    /// Pictures seen.
    pub samples: usize,
    /// Wrong predictions, the surest first.
    pub most_wrong: Vec<Judged>,
    /// Pictures between two classes, the closest first.
    pub most_uncertain: Vec<Judged>,
    /// Pictures that could not be read.
    pub skipped: Vec<SkippedFile>,
}

/// Pictures that are kept of each kind.
const KEPT: usize = 24;

/// Counts while logits come in. Its size does not grow with the number of pictures.
#[derive(Debug)]
pub(crate) struct Tally {
    confusion: Confusion,
    classes: usize,
    loss: f64,
    hits5: usize,
    samples: usize,
    most_wrong: Vec<Judged>,
    most_uncertain: Vec<Judged>,
}

impl Tally {
    pub fn new(classes: usize) -> Self {
        Self {
            confusion: Confusion::new(classes),
            classes,
            loss: 0.0,
            hits5: 0,
            samples: 0,
            most_wrong: Vec::new(),
            most_uncertain: Vec::new(),
        }
    }

    /// Pictures seen so far.
    pub fn samples(&self) -> usize {
        self.samples
    }

    /// Takes in a batch: logits `[N * classes]`, labels and indices `[N]`.
    pub fn add(&mut self, logits: &[f32], labels: &[u32], indices: &[usize]) {
        let rows = logits.chunks_exact(self.classes);
        for ((row, &label), &index) in rows.zip(labels).zip(indices) {
            let truth = label as usize;
            let best = top_k(row, 5);
            self.confusion.add(truth, best[0]);
            self.hits5 += usize::from(best.contains(&truth));
            self.loss += row_loss(row, truth);
            self.samples += 1;
            self.remember(row, truth, &best, index);
        }
    }

    fn remember(&mut self, row: &[f32], truth: usize, best: &[usize], index: usize) {
        let p = softmax(row);
        let second = best.get(1).map_or(0.0, |&class| p[class]);
        let judged = Judged {
            index,
            truth,
            predicted: best[0],
            confidence: p[best[0]],
            truth_probability: p[truth],
            margin: p[best[0]] - second,
        };
        if judged.predicted != truth {
            keep(&mut self.most_wrong, &judged, |j| j.truth_probability);
        }
        keep(&mut self.most_uncertain, &judged, |j| j.margin);
    }

    /// The result; `skipped` are the pictures that could not be read.
    pub fn finish(self, skipped: Vec<SkippedFile>) -> Evaluation {
        let share = |part: f64| part / self.samples.max(1) as f64;
        Evaluation {
            loss: share(self.loss),
            top1: self.confusion.accuracy(),
            top5: (self.classes > 5).then(|| share(self.hits5 as f64)),
            confusion: self.confusion,
            samples: self.samples,
            most_wrong: self.most_wrong,
            most_uncertain: self.most_uncertain,
            skipped,
        }
    }
}

/// Puts `judged` into `list` in the order of `rank`, lowest first, and drops what is too much.
fn keep(list: &mut Vec<Judged>, judged: &Judged, rank: impl Fn(&Judged) -> f64) {
    let place = list.partition_point(|other| rank(other) <= rank(judged));
    if place < KEPT {
        list.insert(place, judged.clone());
        list.truncate(KEPT);
    }
}

/// Cross entropy of one row of logits, in f64.
fn row_loss(row: &[f32], label: usize) -> f64 {
    let largest = row.iter().fold(f32::NEG_INFINITY, |m, &v| m.max(v));
    let sum: f64 = row.iter().map(|&v| f64::from(v - largest).exp()).sum();
    sum.ln() - f64::from(row[label] - largest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loss_of_a_row_is_minus_the_log_probability() {
        let loss = row_loss(&[0.0, 2.0f32.ln()], 1);
        assert!((loss - (1.5f64).ln()).abs() < 1e-7);
    }

    /// Truth 0 throughout: the second is the surest mistake, the fourth is between the classes.
    #[test]
    fn the_worst_pictures_come_first() {
        let mut tally = Tally::new(2);
        let rows = [3.0, 0.0, 0.0, 5.0, 0.0, 2.0, 0.1, 0.0];
        tally.add(&rows, &[0; 4], &[10, 11, 12, 13]);
        let found = tally.finish(Vec::new());
        let indices = |list: &[Judged]| list.iter().map(|j| j.index).collect::<Vec<_>>();
        assert_eq!(indices(&found.most_wrong), [11, 12]);
        assert_eq!(indices(&found.most_uncertain), [13, 12, 10, 11]);
        assert_eq!((found.samples, found.top1), (4, 0.5));
    }
}
