//! Against pycocotools and torchvision on random boxes: see scripts/make_fixtures.py.

use lenslet_boxes::{Found, Rect, Scored, Truth, average_precision, suppress};
use serde::Deserialize;

#[derive(Deserialize)]
struct Cases {
    precision: Vec<Precision>,
    suppression: Vec<Suppression>,
}

#[derive(Deserialize)]
struct Precision {
    classes: usize,
    truths: Vec<TruthBox>,
    found: Vec<FoundBox>,
    expected: Vec<Option<[f64; 10]>>,
}

#[derive(Deserialize)]
struct TruthBox {
    image: usize,
    class: usize,
    #[serde(rename = "box")]
    corner: [f64; 4],
    crowd: bool,
}

#[derive(Deserialize)]
struct FoundBox {
    image: usize,
    class: usize,
    #[serde(rename = "box")]
    corner: [f64; 4],
    score: f64,
}

#[derive(Deserialize)]
struct Suppression {
    boxes: Vec<[f64; 4]>,
    scores: Vec<f64>,
    classes: Vec<usize>,
    threshold: f64,
    kept: Vec<usize>,
}

fn cases() -> Cases {
    serde_json::from_str(include_str!("fixtures/boxes.json")).unwrap()
}

/// Ties, crowds, images without boxes or without detections, more detections than count.
#[test]
fn average_precision_is_pycocotools() {
    for (number, case) in cases().precision.into_iter().enumerate() {
        let truth = |t: &TruthBox| Truth {
            image: t.image,
            class: t.class,
            rect: Rect::from_corner(t.corner),
            crowd: t.crowd,
        };
        let found = |f: &FoundBox| Found {
            image: f.image,
            class: f.class,
            rect: Rect::from_corner(f.corner),
            score: f.score,
        };
        let truths: Vec<_> = case.truths.iter().map(truth).collect();
        let detections: Vec<_> = case.found.iter().map(found).collect();
        let got = average_precision(case.classes, &truths, &detections);
        let known = case.expected.iter().flatten();
        let mean: f64 = known.clone().map(|ap| ap.iter().sum::<f64>() / 10.0).sum();
        let mean = mean / known.clone().count().max(1) as f64;
        assert!((got.over_all() - mean).abs() < 1e-6, "case {number}");
        for (class, (got, expected)) in got.classes.iter().zip(&case.expected).enumerate() {
            assert_eq!(
                got.is_some(),
                expected.is_some(),
                "case {number}, class {class}"
            );
            let (Some(got), Some(expected)) = (got, expected) else {
                continue;
            };
            for (a, b) in got.iter().zip(expected) {
                assert!(
                    (a - b).abs() < 1e-6,
                    "case {number}, class {class}: {a} is not {b}"
                );
            }
        }
    }
}

#[test]
fn suppression_is_torchvisions() {
    for (number, case) in cases().suppression.into_iter().enumerate() {
        let boxes: Vec<Scored> = (0..case.boxes.len())
            .map(|i| Scored {
                rect: Rect::from_corner(case.boxes[i]),
                class: case.classes[i],
                score: case.scores[i],
            })
            .collect();
        assert_eq!(suppress(&boxes, case.threshold), case.kept, "case {number}");
    }
}
