//! How good predictions are.

use serde::Serialize;

/// Counts of samples by true and predicted class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Confusion {
    classes: usize,
    /// Row: true class, column: predicted class.
    counts: Vec<u64>,
}

/// Quality of one class.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClassScore {
    /// Share of the samples predicted as this class that are of it.
    pub precision: f64,
    /// Share of the samples of this class that were found.
    pub recall: f64,
    /// Harmonic mean of the two.
    pub f1: f64,
    /// Samples of this class.
    pub support: u64,
}

impl Confusion {
    /// No samples yet.
    pub fn new(classes: usize) -> Self {
        Self {
            classes,
            counts: vec![0; classes * classes],
        }
    }

    /// Counts one sample.
    pub fn add(&mut self, truth: usize, predicted: usize) {
        self.counts[truth * self.classes + predicted] += 1;
    }

    /// Samples of class `truth` by predicted class.
    pub fn row(&self, truth: usize) -> &[u64] {
        &self.counts[truth * self.classes..][..self.classes]
    }

    /// Rows, true class by true class.
    pub fn rows(&self) -> Vec<Vec<u64>> {
        (0..self.classes).map(|c| self.row(c).to_vec()).collect()
    }

    /// Share of samples whose class was found; 0 without samples.
    pub fn accuracy(&self) -> f64 {
        let hits: u64 = (0..self.classes).map(|c| self.row(c)[c]).sum();
        share(hits, self.counts.iter().sum())
    }

    /// Quality class by class. What has no samples scores 0, as in scikit-learn.
    pub fn scores(&self) -> Vec<ClassScore> {
        (0..self.classes)
            .map(|c| {
                let hits = self.row(c)[c];
                let support = self.row(c).iter().sum();
                let predicted = (0..self.classes).map(|t| self.row(t)[c]).sum();
                let (precision, recall) = (share(hits, predicted), share(hits, support));
                let sum = precision + recall;
                let f1 = if sum > 0.0 {
                    2.0 * precision * recall / sum
                } else {
                    0.0
                };
                ClassScore {
                    precision,
                    recall,
                    f1,
                    support,
                }
            })
            .collect()
    }

    /// As CSV: a header with the predicted classes, a row a true class.
    pub fn to_csv(&self, classes: &[String]) -> String {
        let quote = |name: &String| format!("\"{}\"", name.replace('"', "\"\""));
        let mut text = String::from("true\\predicted");
        for class in classes {
            text += &format!(",{}", quote(class));
        }
        for (truth, class) in classes.iter().enumerate() {
            text += &format!("\n{}", quote(class));
            for count in self.row(truth) {
                text += &format!(",{count}");
            }
        }
        text + "\n"
    }
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64
    }
}

/// Classes of the `k` largest of `logits`, largest first; of equal ones the lower class first.
pub fn top_k(logits: &[f32], k: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
    order.truncate(k);
    order
}

/// Probabilities of logits, computed in f64.
pub fn softmax(logits: &[f32]) -> Vec<f64> {
    let largest = logits.iter().fold(f32::NEG_INFINITY, |m, &v| m.max(v));
    let powers: Vec<f64> = logits
        .iter()
        .map(|&v| f64::from(v - largest).exp())
        .collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|p| p / sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// scikit-learn's classification_report of truth 0 0 1 1 2, predictions 0 1 1 1 0.
    #[test]
    fn scores_equal_scikit_learn() {
        let mut confusion = Confusion::new(3);
        for (truth, predicted) in [(0, 0), (0, 1), (1, 1), (1, 1), (2, 0)] {
            confusion.add(truth, predicted);
        }
        assert_eq!(confusion.accuracy(), 0.6);
        let scores = confusion.scores();
        assert_eq!((scores[0].precision, scores[0].recall), (0.5, 0.5));
        assert_eq!(scores[1].precision, 2.0 / 3.0);
        assert!((scores[1].f1 - 0.8).abs() < 1e-12);
        assert_eq!((scores[2].f1, scores[2].support), (0.0, 1));
    }

    #[test]
    fn top_k_orders_and_keeps_to_what_there_is() {
        assert_eq!(top_k(&[0.1, 0.7, 0.7, 0.2], 3), [1, 2, 3]);
        assert_eq!(top_k(&[1.0], 5), [0]);
    }

    #[test]
    fn softmax_survives_large_logits() {
        let p = softmax(&[1000.0, 1000.0, -1000.0]);
        assert_eq!(p, [0.5, 0.5, 0.0]);
    }

    #[test]
    fn csv_quotes_names() {
        let mut confusion = Confusion::new(2);
        confusion.add(0, 1);
        let csv = confusion.to_csv(&["a,\"b".into(), "c".into()]);
        assert_eq!(
            csv,
            "true\\predicted,\"a,\"\"b\",\"c\"\n\"a,\"\"b\",0,1\n\"c\",0,0\n"
        );
    }
}
