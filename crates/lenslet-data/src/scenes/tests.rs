use super::*;
use crate::{Dataset, Rng, boxes, masks, mnist, rng::Purpose};
use std::path::Path;

fn options(kind: SceneKind) -> SceneOptions {
    SceneOptions {
        kind,
        images: 40,
        size: 64,
        seed: 3,
    }
}

/// Every format returns the scenes that were drawn.
#[test]
fn masks_are_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut sets = Vec::new();
    for (name, kind) in [
        ("palette", MaskKind::Palette),
        ("index", MaskKind::Index),
        ("colour", MaskKind::Colour),
    ] {
        let path = dir.path().join(name);
        let written = write(&path, &options(SceneKind::Segment(kind))).unwrap();
        assert_eq!((written.train, written.val), (32, 8));
        let splits = masks::open(&path).unwrap();
        let val = splits.val.unwrap();
        assert_eq!((splits.train.files().len(), val.files().len()), (32, 8));
        assert_eq!(val.classes().len(), 11);
        assert_eq!(val.classes()[..2], ["background", "0"]);
        let all: Vec<_> = (0..8).map(|i| val.get(i).unwrap()).collect();
        sets.push(all);
    }
    assert_eq!(sets[0], sets[1]);
    assert_eq!(sets[0], sets[2]);
    let digits = mnist::embedded().unwrap();
    let mut rng = Rng::keyed(3, Purpose::Scene, 1, 5);
    let scene = draw(&digits.test, 64, &mut rng).unwrap();
    assert_eq!(
        (&sets[0][5].image, &sets[0][5].mask),
        (&scene.image, &scene.mask.classes)
    );
}

#[test]
fn boxes_are_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let digits = mnist::embedded().unwrap();
    for (name, format) in [
        ("coco", BoxFormat::Coco),
        ("voc", BoxFormat::Voc),
        ("yolo", BoxFormat::Yolo),
    ] {
        let path = dir.path().join(name);
        write(&path, &options(SceneKind::Detect(format))).unwrap();
        let splits = boxes::open(&path).unwrap();
        let val = splits.val.unwrap();
        assert_eq!((splits.train.files().len(), val.files().len()), (32, 8));
        assert_eq!(val.classes(), mnist::class_names());
        assert!(val.faults().is_empty(), "{:?}", val.faults());
        for i in 0..8 {
            let mut rng = Rng::keyed(3, Purpose::Scene, 1, i as u64);
            let scene = draw(&digits.test, 64, &mut rng).unwrap();
            let read = val.get(i).unwrap();
            assert_eq!(read.image, scene.image, "{name}");
            assert_eq!(read.boxes.len(), scene.boxes.len());
            for (a, b) in read.boxes.iter().zip(&scene.boxes) {
                assert_eq!(a.class, b.class);
                let off = a.rect.corner().into_iter().zip(b.rect.corner());
                assert!(
                    off.map(|(a, b)| (a - b).abs()).all(|d| d < 1e-9),
                    "{name}: {a:?} {b:?}"
                );
            }
        }
    }
}

/// The boxes lie tight around what the mask shows, and no digit hides most of another.
#[test]
fn boxes_surround_their_digits() {
    let digits = mnist::embedded().unwrap();
    let mut seen = [0usize; 10];
    for i in 0..60 {
        let mut rng = Rng::keyed(0, Purpose::Scene, 0, i);
        let scene = draw(&digits.train, 96, &mut rng).unwrap();
        for label in &scene.boxes {
            seen[label.class as usize] += 1;
            let rect = label.rect;
            let row =
                |y: f64| (rect.left as usize..rect.right as usize).map(move |x| (x, y as usize));
            let touches = |mut cells: Box<dyn Iterator<Item = (usize, usize)>>| {
                cells.any(|(x, y)| u32::from(scene.mask.classes[y * 96 + x]) == label.class + 1)
            };
            assert!(touches(Box::new(row(rect.top))), "{i} {label:?}");
            assert!(touches(Box::new(row(rect.bottom - 1.0))), "{i} {label:?}");
            let column =
                |x: f64| (rect.top as usize..rect.bottom as usize).map(move |y| (x as usize, y));
            assert!(touches(Box::new(column(rect.left))), "{i} {label:?}");
            assert!(touches(Box::new(column(rect.right - 1.0))), "{i} {label:?}");
        }
    }
    assert!(seen.iter().all(|&n| n >= 3), "{seen:?}");
}

#[test]
fn the_seed_decides_everything() {
    let digits = mnist::embedded().unwrap();
    let scene = |seed| {
        draw(
            &digits.train,
            48,
            &mut Rng::keyed(seed, Purpose::Scene, 0, 0),
        )
        .unwrap()
    };
    assert_eq!(scene(1), scene(1));
    assert_ne!(scene(1), scene(2));
    assert_eq!(digits.train.len(), 8000);
}

#[test]
fn what_is_there_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("mine.txt"), "mine").unwrap();
    let kind = SceneKind::Segment(MaskKind::Index);
    let error = write(dir.path(), &options(kind)).unwrap_err().to_string();
    assert!(error.contains("not empty"), "{error}");
    let entries: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
    assert_eq!(entries.len(), 1);
    let few = SceneOptions {
        images: 3,
        ..options(kind)
    };
    assert!(
        write(Path::new("never"), &few)
            .unwrap_err()
            .to_string()
            .contains("--images")
    );
}
