//! Segmentation and detection from drawing the data to reading the results, and what goes wrong.

mod common;

use std::path::{Path, PathBuf};

use common::{folder, history, refuse, run, succeed, tensors};
use serde_json::Value;

/// A few small scenes.
fn scenes(dir: &Path, task: &str, more: &[&str]) -> PathBuf {
    let name = format!("{task}-scenes");
    let args = [
        &[
            "data", "scenes", &name, "--task", task, "--images", "20", "--size", "64",
        ],
        more,
    ];
    succeed(dir, &args.concat());
    dir.join(name)
}

fn json(text: &str) -> Vec<Value> {
    text.lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect()
}

const SHORT: [&str; 6] = ["--epochs", "1", "--batch-size", "8", "--json", "--quiet"];

fn train(dir: &Path, data: &Path, task: &str, more: &[&str]) -> Vec<Value> {
    let data = data.to_str().unwrap();
    let args = [&["train", data, "--task", task], &SHORT[..], more];
    json(&succeed(dir, &args.concat()).stdout)
}

#[test]
fn masks_from_training_to_overlays() {
    let dir = folder();
    let data = scenes(dir.path(), "segment", &[]);
    let lines = train(dir.path(), &data, "segment", &["--class-weights"]);
    let (epoch, last) = (&lines[0], &lines[1]);
    assert_eq!(epoch["val_acc"], epoch["measures"]["miou"]);
    assert!(epoch["train_loss"].as_f64().unwrap() > 0.0);
    assert!(last["measures"]["pixel_accuracy"].as_f64().is_some());
    let run_dir = dir.path().join("runs/unet-1");
    for file in [
        "model.safetensors",
        "history.csv",
        "curves.svg",
        "report.html",
        "confusion.csv",
    ] {
        assert!(run_dir.join(file).is_file(), "{file}");
    }
    let report = std::fs::read_to_string(run_dir.join("report.html")).unwrap();
    assert!(report.contains("mean IoU") && report.contains("data:image/png"));

    // What was measured after the epoch is measured again.
    let ran = succeed(dir.path(), &["eval", "--model", "runs/unet-1", "--json"]);
    let found = &json(&ran.stdout)[0];
    assert_eq!(found["miou"], last["measures"]["miou"]);
    assert_eq!(found["samples"], 4);
    assert_eq!(found["confusion"].as_array().unwrap().len(), 11);
    succeed(dir.path(), &["verify", "runs/unet-1"]);

    // A picture of another size than the model's goes through tiles.
    let large = image::RgbImage::from_fn(150, 101, |x, y| image::Rgb([x as u8, y as u8, 9]));
    large.save(dir.path().join("large.png")).unwrap();
    let args = [
        "predict",
        "large.png",
        "--model",
        "runs/unet-1",
        "-o",
        "out",
        "--json",
    ];
    let found = &json(&succeed(dir.path(), &args).stdout)[0];
    assert_eq!(
        (&found["width"], &found["height"]),
        (&150.into(), &101.into())
    );
    let mask = image::open(dir.path().join("out/large.mask.png")).unwrap();
    let overlay = image::open(dir.path().join("out/large.overlay.png")).unwrap();
    assert_eq!((mask.width(), mask.height()), (150, 101));
    assert_eq!((overlay.width(), overlay.height()), (150, 101));
    refuse(
        dir.path(),
        &["predict", "large.png", "--model", "runs/unet-1", "--csv"],
        1,
        &["--csv"],
    );
}

#[test]
fn boxes_from_training_to_drawings() {
    let dir = folder();
    let data = scenes(dir.path(), "detect", &[]);
    let lines = train(dir.path(), &data, "detect", &[]);
    assert_eq!(lines[0]["val_acc"], lines[0]["measures"]["map50"]);
    let ran = succeed(dir.path(), &["eval", "--model", "runs/yolo-1", "--json"]);
    let found = &json(&ran.stdout)[0];
    assert_eq!(found["samples"], 4);
    assert_eq!(found["map50"], lines[1]["measures"]["map50"]);
    assert!(dir.path().join("runs/yolo-1/report.html").is_file());

    let picture = data.join("images/val/000000.png");
    let picture = picture.to_str().unwrap();
    let model = ["--model", "runs/yolo-1", "--score", "0.001"];
    let args = [&["predict", picture, "-o", "drawn", "--json"], &model[..]].concat();
    let found = &json(&succeed(dir.path(), &args).stdout)[0];
    for one in found["boxes"].as_array().unwrap() {
        let corner: Vec<f64> = serde_json::from_value(one["box"].clone()).unwrap();
        assert!(
            corner[0] >= 0.0 && corner[0] + corner[2] <= 64.0 + 1e-9,
            "{one}"
        );
    }
    assert!(dir.path().join("drawn/000000.boxes.png").is_file());
    let args = [&["predict", picture, "--csv"], &model[..]].concat();
    let text = succeed(dir.path(), &args).stdout;
    assert!(text.starts_with("path,class,score,left,top,width,height\n"));
    refuse(
        dir.path(),
        &["predict", picture, "--model", "runs/yolo-1", "--score", "2"],
        2,
        &["--score is 2"],
    );
}

/// The same boxes in every format, and over another backbone with the paper's first head.
#[test]
fn formats_of_boxes_are_alike() {
    let dir = folder();
    let mut losses = Vec::new();
    for format in ["coco", "voc", "yolo"] {
        let inner = dir.path().join(format);
        std::fs::create_dir(&inner).unwrap();
        let data = scenes(&inner, "detect", &["--boxes", format]);
        let lines = train(
            &inner,
            &data,
            "detect",
            &["--model", "grid", "--scale", "1,1"],
        );
        losses.push(lines[0]["train_loss"].as_f64().unwrap());
    }
    assert!(
        losses.iter().all(|l| (l / losses[0] - 1.0).abs() < 1e-4),
        "{losses:?}"
    );
}

/// A run that is interrupted ends like one that is not.
#[test]
fn runs_of_masks_repeat_and_resume() {
    let dir = folder();
    let data = scenes(dir.path(), "segment", &["--masks", "colour"]);
    let data = data.to_str().unwrap();
    let whole = [
        "train",
        data,
        "--task",
        "segment",
        "--epochs",
        "2",
        "--batch-size",
        "8",
        "-q",
        "--threads",
        "1",
    ];
    succeed(dir.path(), &whole);
    succeed(dir.path(), &whole);
    let [first, second] = [1, 2].map(|n| dir.path().join(format!("runs/unet-{n}")));
    assert_eq!(history(&first), history(&second));
    let file = "model.safetensors";
    assert_eq!(tensors(&first.join(file)), tensors(&second.join(file)));
    refuse(
        dir.path(),
        &["train", "--resume", "runs/unet-1"],
        1,
        &["it is finished"],
    );
    // As if it had been stopped after its last epoch but one: two more epochs are asked for.
    let config = second.join("config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("\"epochs\": 2", "\"epochs\": 3")).unwrap();
    succeed(dir.path(), &["train", "--resume", "runs/unet-2", "-q"]);
    assert_eq!(history(&second).len(), 4);
    // Changed data are noticed.
    std::fs::write(&config, text.replace("\"epochs\": 2", "\"epochs\": 9")).unwrap();
    std::fs::remove_file(Path::new(data).join("train/images/000001.png")).unwrap();
    refuse(
        dir.path(),
        &["train", "--resume", "runs/unet-2"],
        1,
        &["have changed since it began"],
    );
}

#[test]
fn bad_masks_are_named() {
    let dir = folder();
    let data = scenes(dir.path(), "segment", &["--masks", "index"]);
    let at = |name: &str| data.join(name);
    let path = data.to_str().unwrap();
    let args = [&["train", path, "--task", "segment"], &SHORT[..]].concat();

    // A picture without a mask.
    std::fs::rename(at("train/masks/000003.png"), dir.path().join("away.png")).unwrap();
    refuse(
        dir.path(),
        &args,
        1,
        &["1 pictures have no mask", "000003.png"],
    );
    std::fs::rename(dir.path().join("away.png"), at("train/masks/000003.png")).unwrap();

    // A mask of another size, one of a class that there is not, one that is a picture: skipped and
    // counted, then too many.
    let grey = |w: u32, h: u32, v: u8| image::GrayImage::from_pixel(w, h, image::Luma([v]));
    grey(60, 64, 1).save(at("train/masks/000000.png")).unwrap();
    let ran = run(dir.path(), &args);
    assert_eq!(ran.code, 1);
    let words = ["over the limit", "000000.png", "60 x 64", "64 x 64"];
    assert!(
        words.iter().all(|w| ran.stderr.contains(w)),
        "{}",
        ran.stderr
    );
    let patient = [&args[..], &["--max-unreadable", "0.5"]].concat();
    grey(64, 64, 77).save(at("train/masks/000001.png")).unwrap();
    let rgb = image::RgbImage::from_pixel(64, 64, image::Rgb([1, 2, 3]));
    rgb.save(at("train/masks/000002.png")).unwrap();
    let lines = json(&succeed(dir.path(), &patient).stdout);
    let skipped = lines[1]["skipped"].to_string();
    for word in ["class 77", "classes.csv", "60 x 64"] {
        assert!(skipped.contains(word), "no {word} in {skipped}");
    }

    // Lists of classes that make no sense.
    std::fs::write(at("classes.csv"), "name,red\na,1\n").unwrap();
    refuse(
        dir.path(),
        &args,
        1,
        &["classes.csv", "line 1", "name,red,green,blue"],
    );
    std::fs::write(at("classes.csv"), "name,red,green,blue\na,1,2,300\n").unwrap();
    refuse(dir.path(), &args, 1, &["line 2", "\"300\""]);
    std::fs::write(at("classes.csv"), "name\na\na\n").unwrap();
    refuse(dir.path(), &args, 1, &["the class \"a\" twice"]);

    std::fs::remove_file(at("classes.csv")).unwrap();
    // No layout at all; a file; a missing folder; no data; a model for something else.
    refuse(
        dir.path(),
        &["train", "runs", "--task", "segment"],
        1,
        &["images/ and masks/"],
    );
    let file = at("classes.txt");
    refuse(
        dir.path(),
        &["train", file.to_str().unwrap(), "--task", "segment"],
        1,
        &["is a file"],
    );
    refuse(
        dir.path(),
        &["train", "gone", "--task", "segment"],
        1,
        &["gone"],
    );
    refuse(
        dir.path(),
        &["train", "--task", "segment"],
        1,
        &["data scenes"],
    );
    let wrong = [&args[..], &["--model", "resnet18"]].concat();
    refuse(dir.path(), &wrong, 2, &["--model is resnet18", "unet"]);
    let typo = [&args[..], &["--model", "unet_resnet81"]].concat();
    refuse(dir.path(), &typo, 2, &["did you mean"]);
    let size = [&args[..], &["--input-size", "8"]].concat();
    refuse(dir.path(), &size, 2, &["--input-size"]);
    let scale = [&args[..], &["--scale", "2,1"]].concat();
    refuse(dir.path(), &scale, 2, &["--scale is 2,1"]);
}

#[test]
fn bad_boxes_are_named() {
    let dir = folder();
    let data = scenes(dir.path(), "detect", &["--boxes", "yolo"]);
    let path = data.to_str().unwrap();
    let args = [
        &["train", path, "--task", "detect", "--epochs", "1"],
        &["-q"][..],
    ]
    .concat();
    let label = data.join("labels/train/000000.txt");
    let lines = "3 0.5 0.5 0.2 0.2\n12 0.5 0.5 0.1 0.1\n1 0.9 0.5 0.4 0.1\n1 0.5 0.5 0 0.1\n1 0.5 nan 0.1\nx\n";
    std::fs::write(&label, lines).unwrap();
    let ran = succeed(dir.path(), &args);
    for word in [
        "line 2: there is no class 12",
        "line 3: it reaches from",
        "line 4: it has no area",
        "line 5: it is not class, x, y",
        "line 6",
    ] {
        assert!(ran.stderr.contains(word), "no '{word}' in {}", ran.stderr);
    }
    std::fs::remove_file(data.join("data.yaml")).unwrap();
    refuse(dir.path(), &args, 1, &["data.yaml", "classes.txt"]);
    std::fs::write(data.join("data.yaml"), "train: x\n").unwrap();
    refuse(dir.path(), &args, 1, &["lists no classes"]);

    let coco = dir.path().join("coco");
    std::fs::create_dir(&coco).unwrap();
    let data = scenes(&coco, "detect", &[]);
    let file = data.join("annotations/instances_train.json");
    let good = std::fs::read_to_string(&file).unwrap();
    let args = [
        "train",
        data.to_str().unwrap(),
        "--task",
        "detect",
        "--epochs",
        "1",
        "-q",
    ];
    let mut whole: Value = serde_json::from_str(&good).unwrap();
    whole["annotations"][0]["category_id"] = 99.into();
    whole["annotations"][1]["bbox"] = serde_json::json!([1, 2, 3]);
    whole["annotations"][2]["bbox"] = serde_json::json!([-30, 2, 90, 9]);
    whole["annotations"][3]["image_id"] = 777.into();
    std::fs::write(&file, whole.to_string()).unwrap();
    let ran = succeed(dir.path(), &args);
    for word in [
        "annotation 1: there is no category with the id 99",
        "annotation 2: bbox has 3 numbers",
        "annotation 3: it reaches from",
        "annotation 4: there is no image with the id 777",
    ] {
        assert!(ran.stderr.contains(word), "no '{word}' in {}", ran.stderr);
    }
    std::fs::write(&file, &good[..good.len() / 2]).unwrap();
    refuse(dir.path(), &args, 1, &["is no COCO file"]);
    std::fs::write(&file, good.replace("000001.png", "gone.png")).unwrap();
    refuse(
        dir.path(),
        &args,
        1,
        &["1 pictures with annotations are not there", "gone.png"],
    );

    let voc = dir.path().join("voc");
    std::fs::create_dir(&voc).unwrap();
    let data = scenes(&voc, "detect", &["--boxes", "voc"]);
    let args = [
        "train",
        data.to_str().unwrap(),
        "--task",
        "detect",
        "--epochs",
        "1",
        "-q",
    ];
    let file = data.join("Annotations/train_000000.xml");
    std::fs::write(&file, "<annotation><object>").unwrap();
    refuse(
        dir.path(),
        &args,
        1,
        &["train_000000.xml", "no VOC annotation"],
    );
    std::fs::write(
        &file,
        "<annotation><filename>train_000000.png</filename><size><width>64</width><height>64</height></size>\
         <object><name>1</name><bndbox><xmin>5</xmin><ymin>5</ymin><xmax>4</xmax><ymax>9</ymax></bndbox></object>\
         <object><name>cat</name><bndbox><xmin>5</xmin><ymin>5</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>\
         <object><name>1</name></object></annotation>",
    )
    .unwrap();
    let ran = succeed(dir.path(), &args);
    for word in [
        "object 1: it has no area",
        "there is no class cat",
        "object 3: its bndbox lacks",
    ] {
        assert!(ran.stderr.contains(word), "no '{word}' in {}", ran.stderr);
    }
    refuse(
        dir.path(),
        &["train", "runs", "--task", "detect"],
        1,
        &["annotations/ (COCO)"],
    );
}

#[test]
fn scenes_leave_what_is_there_alone() {
    let dir = folder();
    scenes(dir.path(), "segment", &[]);
    let again = ["data", "scenes", "segment-scenes", "--task", "segment"];
    refuse(dir.path(), &again, 1, &["not empty"]);
    refuse(
        dir.path(),
        &["data", "scenes", "x", "--task", "detect", "--images", "1"],
        2,
        &["--images is 1"],
    );
    refuse(
        dir.path(),
        &["data", "scenes", "x", "--task", "detect", "--size", "9"],
        2,
        &["--size is 9"],
    );
    assert!(!dir.path().join("x").exists());
}
