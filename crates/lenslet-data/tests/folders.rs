//! Datasets of files: folders, tables and their division.

mod common;

use common::picture;
use lenslet_data::{
    DataError, Dataset, FileDataset, class_counts, folder, images_in, natural_order, table,
};
use proptest::prelude::*;
use std::collections::HashSet;
use std::path::Path;

fn names(data: &FileDataset) -> Vec<&str> {
    data.files().iter().map(|f| f.name.as_str()).collect()
}

#[test]
fn class_folders_in_natural_order() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for (i, name) in [
        "class10/a.png",
        "class2/b10.png",
        "class2/b9.PNG",
        "Étoile 星/deep/er/c.png",
        "class2/no-extension",
    ]
    .iter()
    .enumerate()
    {
        picture(&at(name), i as u32);
    }
    std::fs::write(at("class2/notes.txt"), "no image").unwrap();
    for hidden in [
        ".DS_Store",
        "class2/._b9.png",
        "class2/Thumbs.db",
        ".ipynb_checkpoints/x.png",
        "class10/.ipynb_checkpoints/a.png",
    ] {
        picture(&at(hidden), 9);
    }
    let splits = folder::open(dir.path()).unwrap();
    assert!(splits.val.is_none() && splits.test.is_none());
    assert_eq!(
        splits.train.class_names(),
        ["class2", "class10", "Étoile 星"]
    );
    assert_eq!(
        names(&splits.train),
        [
            "class2/b9.PNG",
            "class2/b10.png",
            "class2/no-extension",
            "class10/a.png",
            "Étoile 星/deep/er/c.png"
        ]
    );
    let sample = splits.train.get(4).unwrap();
    assert_eq!(
        (sample.label, sample.image.width(), sample.image.height()),
        (2, 12, 10)
    );
    assert_eq!(
        folder::scan(dir.path()).unwrap().others,
        ["class2/notes.txt"]
    );
    assert_eq!(images_in(dir.path()).unwrap().len(), 5);
}

#[test]
fn split_folders() {
    let dir = tempfile::tempdir().unwrap();
    for (i, name) in [
        "Train/a/1.png",
        "Train/b/1.png",
        "valid/a/1.png",
        "valid/b/2.png",
        "test/a/1.png",
        "test/b/1.png",
    ]
    .iter()
    .enumerate()
    {
        picture(&dir.path().join(name), i as u32);
    }
    let splits = folder::open(dir.path()).unwrap();
    assert_eq!(names(&splits.train), ["Train/a/1.png", "Train/b/1.png"]);
    assert_eq!(
        names(&splits.val.unwrap()),
        ["valid/a/1.png", "valid/b/2.png"]
    );
    assert_eq!(splits.test.unwrap().len(), 2);
    std::fs::remove_dir_all(dir.path().join("valid")).unwrap();
    let splits = folder::open(dir.path()).unwrap();
    assert_eq!(
        names(&splits.val.unwrap()),
        ["test/a/1.png", "test/b/1.png"]
    );
    assert!(splits.test.is_none());
    // A class called "train" beside others is a class.
    for name in ["vehicles/train/1.png", "vehicles/car/1.png"] {
        picture(&dir.path().join(name), 7);
    }
    assert_eq!(
        folder::open(&dir.path().join("vehicles"))
            .unwrap()
            .train
            .class_names(),
        ["car", "train"]
    );
}

#[test]
fn what_is_wrong_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let message = |name: &str| folder::open(&at(name)).unwrap_err().to_string();
    picture(&at("loose/a.png"), 1);
    assert!(
        message("loose").contains("no class folders (1 files)"),
        "{}",
        message("loose")
    );
    picture(&at("one/cat/a.png"), 1);
    assert!(message("one").contains("one class folder (\"cat\")"));
    picture(&at("empty/cat/a.png"), 1);
    std::fs::create_dir(at("empty/dog")).unwrap();
    assert!(message("empty").contains("no images in the class folders dog"));
    for name in [
        "missing/train/a/1.png",
        "missing/train/b/1.png",
        "missing/val/b/1.png",
        "missing/val/c/1.png",
    ] {
        picture(&at(name), 1);
    }
    let both = folder::scan(&at("missing")).unwrap().problems();
    assert_eq!(both.len(), 2);
    assert!(
        both[0]
            .to_string()
            .contains("train: has no folder for the classes c"),
        "{}",
        both[0]
    );
    assert!(
        both[1]
            .to_string()
            .contains("val: has no folder for the classes a"),
        "{}",
        both[1]
    );
    picture(&at("case/Cat/1.png"), 1);
    picture(&at("case/cat/1.png"), 1);
    if std::fs::read_dir(at("case")).unwrap().count() == 2 {
        assert!(message("case").contains("\"Cat\" and \"cat\" differ by case only"));
    }
    for name in ["two/train/a/1.png", "two/training/a/1.png"] {
        picture(&at(name), 1);
    }
    assert!(message("two").contains("two folders for the split \"train\""));
    assert!(matches!(
        folder::open(&at("nowhere")),
        Err(DataError::Io { .. })
    ));
}

#[cfg(unix)]
#[test]
fn links_that_go_round_end() {
    use std::os::unix::fs::symlink;
    let dir = tempfile::tempdir().unwrap();
    picture(&dir.path().join("data/a/1.png"), 1);
    picture(&dir.path().join("data/b/1.png"), 2);
    picture(&dir.path().join("elsewhere/2.png"), 3);
    symlink(dir.path().join("data"), dir.path().join("data/a/up")).unwrap();
    symlink(dir.path().join("data/a"), dir.path().join("data/a/self")).unwrap();
    symlink(
        dir.path().join("elsewhere"),
        dir.path().join("data/b/linked"),
    )
    .unwrap();
    symlink(
        dir.path().join("gone"),
        dir.path().join("data/b/dangling.png"),
    )
    .unwrap();
    let data = folder::open(&dir.path().join("data")).unwrap().train;
    // A dangling link is found, and unreadable.
    assert_eq!(
        names(&data),
        ["a/1.png", "b/1.png", "b/dangling.png", "b/linked/2.png"]
    );
    let dangling = names(&data)
        .iter()
        .position(|n| n.ends_with("dangling.png"))
        .unwrap();
    assert!(matches!(data.get(dangling), Err(DataError::Io { .. })));
}

#[test]
fn division_is_stratified_by_content() {
    let dir = tempfile::tempdir().unwrap();
    for i in 0..20 {
        picture(&dir.path().join(format!("many/{i}.png")), i);
    }
    // Copies under other names, within the class and over classes.
    for i in 0..5 {
        picture(&dir.path().join(format!("many/copy of {i}.png")), i);
    }
    for i in 100..105 {
        picture(&dir.path().join(format!("few/{i}.png")), i);
    }
    picture(&dir.path().join("few/also many.png"), 7);
    let all = folder::open(dir.path()).unwrap().train;
    let content = |f: &lenslet_data::FileEntry| std::fs::read(&f.path).unwrap();
    for seed in 0..20 {
        let (train, val) = all.split(0.2, seed).unwrap();
        assert_eq!(
            (class_counts(&train), class_counts(&val)),
            (vec![5, 20], vec![1, 5]),
            "seed {seed}"
        );
        let trained: HashSet<_> = train.files().iter().map(content).collect();
        assert!(
            val.files().iter().all(|f| !trained.contains(&content(f))),
            "seed {seed}"
        );
        assert_eq!(train.class_names(), all.class_names());
    }
    let chosen = |seed| {
        all.split(0.2, seed)
            .unwrap()
            .1
            .files()
            .iter()
            .map(content)
            .collect::<HashSet<_>>()
    };
    assert_eq!(chosen(1), chosen(1));
    assert_ne!(chosen(1), chosen(2));
    let before = chosen(3);
    std::fs::rename(
        dir.path().join("many/11.png"),
        dir.path().join("many/zzz.png"),
    )
    .unwrap();
    let renamed = folder::open(dir.path())
        .unwrap()
        .train
        .split(0.2, 3)
        .unwrap()
        .1;
    assert_eq!(
        renamed.files().iter().map(content).collect::<HashSet<_>>(),
        before
    );
}

#[test]
fn a_class_of_one_picture_cannot_be_divided() {
    let dir = tempfile::tempdir().unwrap();
    for (i, name) in ["a/1.png", "a/2.png", "b/1.png", "c/1.png", "c/2.png"]
        .iter()
        .enumerate()
    {
        picture(
            &dir.path().join(name),
            if name.starts_with('c') { 50 } else { i as u32 },
        );
    }
    let all = folder::open(dir.path()).unwrap().train;
    // b has one picture; c has one and its copy.
    let message = all.split(0.5, 0).unwrap_err().to_string();
    assert!(
        message.contains("the classes b, c have fewer than two different images"),
        "{message}"
    );
    for wrong in [0.0, 1.0, -0.5, f64::NAN] {
        assert!(matches!(
            all.split(wrong, 0),
            Err(DataError::Setting { .. })
        ));
    }
}

#[test]
fn tables() {
    let dir = tempfile::tempdir().unwrap();
    for (i, name) in ["p/1.png", "p/2, too.png", "ü.png"].iter().enumerate() {
        picture(&dir.path().join(name), i as u32);
    }
    let write = |text: &str| {
        let path = dir.path().join("data.csv");
        std::fs::write(&path, text).unwrap();
        table::open(&path)
    };
    for text in [
        "path,label\np/1.png,b\n\"p/2, too.png\",a\nü.png,b\n",
        "p/1.png,b\r\n\"p/2, too.png\", a\r\nü.png,b",
        "\u{feff}Label,weight,FILE\nb,1,p/1.png\na,2,\"p/2, too.png\"\nb,3,ü.png\n",
    ] {
        let data = write(text).unwrap();
        assert_eq!(data.class_names(), ["a", "b"]);
        assert_eq!(names(&data), ["p/1.png", "p/2, too.png", "ü.png"]);
        assert_eq!((data.label(0), data.label(1)), (Some(1), Some(0)));
        assert!(data.get(2).is_ok());
    }
    let message = |text: &str| write(text).unwrap_err().to_string();
    let missing = message("path,label\np/1.png,a\np/gone.png,b\n");
    assert!(
        missing.contains("1 of 2 files do not exist")
            && missing.contains("line 3")
            && missing.contains("gone.png"),
        "{missing}"
    );
    assert!(
        message("p/1.png,a\nü.png\n")
            .contains("data.csv, line 2: column 2 (label) is empty or missing")
    );
    assert!(message("p/1.png,a\n").contains("1 different labels in 1 rows"));
    assert!(message("").contains("0 different labels"));
    assert!(message("p/1.png,a\nü.png,A\n").contains("differ by case"));
    assert!(matches!(
        table::open(Path::new("nowhere.csv")),
        Err(DataError::Io { .. })
    ));
}

#[test]
fn a_models_classes_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    picture(&dir.path().join("b/1.png"), 1);
    picture(&dir.path().join("c/1.png"), 2);
    let data = folder::open(dir.path()).unwrap().train;
    let model = ["c", "a", "b"].map(String::from);
    let same = data.clone().with_class_names(&model).unwrap();
    assert_eq!(
        (same.label(0), same.label(1), same.class_names()),
        (Some(2), Some(0), model.as_slice())
    );
    let message = data
        .with_class_names(&["b".into(), "a".into()])
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("the classes c, which the model does not know"),
        "{message}"
    );
}

proptest! {
    /// An order: reflexive, antisymmetric, transitive over any three.
    #[test]
    fn natural_order_is_an_order(a in "[a-cA-C0-9é]{0,6}", b in "[a-cA-C0-9é]{0,6}", c in "[a-cA-C0-9é]{0,6}") {
        use std::cmp::Ordering::Greater;
        prop_assert_eq!(natural_order(&a, &b), natural_order(&b, &a).reverse());
        prop_assert_eq!(natural_order(&a, &b).is_eq(), a == b);
        if natural_order(&a, &b) != Greater && natural_order(&b, &c) != Greater {
            prop_assert_ne!(natural_order(&a, &c), Greater);
        }
    }

    #[test]
    fn numbers_count_by_value(a: u64, b: u64) {
        prop_assert_eq!(natural_order(&format!("x{a}y"), &format!("x{b}y")), a.cmp(&b));
    }
}
