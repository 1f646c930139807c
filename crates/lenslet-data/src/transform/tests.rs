use super::*;
use crate::rng::Purpose;
use crate::{Dataset, mnist};

fn ramp(w: usize, h: usize, c: usize) -> Image {
    Image::new(
        w,
        h,
        c,
        (0..w * h * c).map(|i| (i * 37 % 256) as u8).collect(),
    )
    .unwrap()
}

#[test]
fn lenet5_is_the_digit_with_a_border() {
    let digit = mnist::embedded().unwrap().train.get(0).unwrap().image;
    let preprocess = Preprocess::lenet5();
    let mut out = vec![0.0; preprocess.output_len()];
    preprocess.apply(digit.clone(), None, &mut out).unwrap();
    for y in 0..32usize {
        for x in 0..32usize {
            let inside = (2..30).contains(&x) && (2..30).contains(&y);
            let v = if inside {
                digit.data()[(y - 2) * 28 + x - 2]
            } else {
                0
            };
            assert_eq!(out[y * 32 + x], (f32::from(v) / 255.0 - 0.1307) / 0.3081);
        }
    }
}

#[test]
fn any_picture_becomes_any_input() {
    for (w, h, c) in [(1, 1, 1), (1, 300, 3), (300, 2, 4), (64, 48, 3)] {
        for preprocess in [
            Preprocess::lenet5(),
            Preprocess::imagenet(64, 56, Interpolation::Bicubic),
        ] {
            let mut out = vec![f32::NAN; preprocess.output_len()];
            preprocess.apply(ramp(w, h, c), None, &mut out).unwrap();
            assert!(out.iter().all(|v| v.is_finite()));
        }
    }
}

#[test]
fn channels_come_out_in_planes() {
    let preprocess = Preprocess {
        resize: Resize::Keep,
        crop: [1, 2],
        ..Preprocess::imagenet(0, 0, Interpolation::Bilinear)
    };
    let image = Image::new(2, 1, 3, vec![0, 51, 102, 153, 204, 255]).unwrap();
    let mut out = vec![0.0; 6];
    preprocess.apply(image, None, &mut out).unwrap();
    let raw = [0.0f32, 153.0, 51.0, 204.0, 102.0, 255.0];
    for (i, v) in raw.into_iter().enumerate() {
        assert_eq!(out[i], (v / 255.0 - IMAGENET.0[i / 2]) / IMAGENET.1[i / 2]);
    }
}

#[test]
fn the_description_survives_json_and_refuses_what_it_does_not_know() {
    let preprocess = Preprocess::imagenet(256, 224, Interpolation::Bilinear);
    let json = serde_json::to_string(&preprocess).unwrap();
    assert_eq!(
        json,
        r#"{"channels":"rgb","resize":{"short_side":256},"interpolation":"bilinear","crop":[224,224],"mean":[0.485,0.456,0.406],"std":[0.229,0.224,0.225]}"#
    );
    assert_eq!(
        serde_json::from_str::<Preprocess>(&json).unwrap(),
        preprocess
    );
    let newer = json.replace("\"crop\"", "\"gamma\":2.2,\"crop\"");
    assert!(
        serde_json::from_str::<Preprocess>(&newer)
            .unwrap_err()
            .to_string()
            .contains("gamma")
    );
}

#[test]
fn senseless_settings_are_named() {
    let sound = Preprocess::lenet5();
    let faulty = [
        (
            Preprocess {
                crop: [0, 32],
                ..sound
            },
            "crop",
        ),
        (
            Preprocess {
                resize: Resize::ShortSide(0),
                ..sound
            },
            "resize",
        ),
        (
            Preprocess {
                mean: PerChannel::Rgb([0.5; 3]),
                ..sound
            },
            "mean",
        ),
        (
            Preprocess {
                mean: PerChannel::Grey([f32::NAN]),
                ..sound
            },
            "mean",
        ),
        (
            Preprocess {
                std: PerChannel::Grey([0.0]),
                ..sound
            },
            "std",
        ),
    ];
    for (preprocess, name) in faulty {
        assert!(
            preprocess
                .validate()
                .unwrap_err()
                .to_string()
                .starts_with(name)
        );
    }
    assert!(matches!(
        sound.apply(ramp(4, 4, 1), None, &mut [0.0; 3]),
        Err(DataError::Buffer {
            found: 3,
            expected: 1024
        })
    ));
    let mut digits = Augment::digits();
    digits.affine.as_mut().unwrap().scale = [1.2, 1.0];
    assert!(digits.validate().is_err());
    assert!(Augment::digits().validate().is_ok());
}

#[test]
fn short_side_rounds_as_torchvision() {
    assert_eq!(Resize::ShortSide(256).target(300, 200), (384, 256));
    assert_eq!(Resize::ShortSide(255).target(390, 270), (368, 255));
    assert_eq!(Resize::ShortSide(64).target(270, 390), (64, 92));
    assert_eq!(Resize::ShortSide(64).target(64, 64), (64, 64));
}

#[test]
fn an_extreme_shape_is_an_error_not_memory() {
    let thin = Image::filled(1, 50_000, 3, 9);
    let error = Preprocess::imagenet(256, 224, Interpolation::Bilinear)
        .pixels(thin, None)
        .unwrap_err();
    assert!(error.to_string().contains("256 x 12800000"), "{error}");
}

#[test]
fn warping_by_known_maps() {
    let image = ramp(9, 9, 3);
    for interpolation in [Interpolation::Nearest, Interpolation::Bilinear] {
        assert_eq!(
            warp(
                &image,
                Affine::about_centre(9, 9, 0.0, 1.0, 0.0, 0.0),
                interpolation,
                0
            ),
            image
        );
        let shifted = warp(
            &image,
            Affine::about_centre(9, 9, 0.0, 1.0, 2.0, -3.0),
            interpolation,
            0,
        );
        assert_eq!(shifted, image.crop(-2, 3, 9, 9));
        // A quarter turn counter-clockwise: the upper right corner comes to the upper left.
        let turned = warp(
            &image,
            Affine::about_centre(9, 9, 90.0, 1.0, 0.0, 0.0),
            interpolation,
            0,
        );
        assert_eq!(turned.row(0)[..3], image.row(0)[24..]);
        assert_eq!(turned.row(8)[..3], image.row(0)[..3]);
    }
    // Twice as large: the middle pixel covers the middle.
    let large = warp(
        &image,
        Affine::about_centre(9, 9, 0.0, 2.0, 0.0, 0.0),
        Interpolation::Nearest,
        0,
    );
    assert_eq!(large.row(4)[12..15], image.row(4)[12..15]);
    assert_eq!(large.row(0)[..3], image.row(2)[6..9]);
}

fn every_augmentation() -> Augment {
    Augment {
        affine: Augment::digits().affine,
        rand_augment: Some(RandAugment::default()),
        random_erasing: Some(RandomErasing::default()),
        ..Augment::photos()
    }
}

#[test]
fn photos_of_any_size_under_every_augmentation() {
    let augment = every_augmentation();
    augment.validate().unwrap();
    for preprocess in [
        Preprocess::imagenet(64, 56, Interpolation::Bilinear),
        Preprocess::lenet5(),
    ] {
        for (w, h, c) in [(1, 1, 1), (1, 300, 3), (300, 2, 4), (64, 48, 3)] {
            for epoch in 0..20 {
                let mut rng = Rng::keyed(3, Purpose::Augment, epoch, 0);
                let mut out = vec![f32::NAN; preprocess.output_len()];
                preprocess
                    .apply(ramp(w, h, c), Some((&augment, &mut rng)), &mut out)
                    .unwrap();
                assert!(out.iter().all(|v| v.is_finite()));
            }
        }
    }
}

#[test]
fn erasing_sets_a_rectangle_in_every_channel() {
    let augment = Augment {
        random_erasing: Some(RandomErasing {
            p: 1.0,
            ..RandomErasing::default()
        }),
        ..Augment::default()
    };
    let preprocess = Preprocess::imagenet(32, 32, Interpolation::Bilinear);
    let white = Image::filled(32, 32, 3, 255);
    let mut erased = 0;
    for epoch in 0..40 {
        let mut rng = Rng::keyed(3, Purpose::Augment, epoch, 0);
        let mut out = vec![0.0; preprocess.output_len()];
        preprocess
            .apply(white.clone(), Some((&augment, &mut rng)), &mut out)
            .unwrap();
        let zeros: Vec<Vec<bool>> = out
            .chunks(32 * 32)
            .map(|p| p.iter().map(|&v| v == 0.0).collect())
            .collect();
        assert!(zeros[0] == zeros[1] && zeros[1] == zeros[2]);
        let count = zeros[0].iter().filter(|&&z| z).count();
        assert!(count < 32 * 32 * 2 / 5);
        erased += count;
    }
    // The mean area drawn is 17.5 % of the picture.
    let mean = erased as f64 / (40.0 * 1024.0);
    assert!((0.1..0.25).contains(&mean), "{mean}");
}

/// Area and position of the random crop, from where a ramp's colours come from.
#[test]
fn random_crops_cover_the_picture() {
    let ramp = Image::new(
        100,
        100,
        3,
        (0..100 * 100)
            .flat_map(|i| [(i % 100) as u8, (i / 100) as u8, 0])
            .collect(),
    )
    .unwrap();
    let augment = Augment {
        random_resized_crop: Some(RandomResizedCrop::default()),
        ..Augment::default()
    };
    let preprocess = Preprocess::imagenet(50, 50, Interpolation::Nearest);
    let (mut area, mut centre) = (0.0, 0.0);
    for epoch in 0..400 {
        let mut rng = Rng::keyed(9, Purpose::Augment, epoch, 0);
        let out = preprocess
            .pixels(ramp.clone(), Some((&augment, &mut rng)))
            .unwrap();
        let (first, last) = (&out.row(0)[..2], &out.row(49)[147..149]);
        let sides = [0, 1].map(|k| f64::from(last[k]) - f64::from(first[k]) + 2.0);
        area += sides[0] * sides[1] / 10_000.0;
        centre += (f64::from(first[0]) + f64::from(last[0])) / 2.0;
    }
    assert!((area / 400.0 - 0.52).abs() < 0.06, "{area}");
    assert!((centre / 400.0 - 49.5).abs() < 3.0, "{centre}");
}

#[test]
fn augmentations_survive_json() {
    let json = serde_json::to_string(&every_augmentation()).unwrap();
    assert_eq!(
        serde_json::from_str::<Augment>(&json).unwrap(),
        every_augmentation()
    );
    let short: Augment =
        serde_json::from_str(r#"{"random_resized_crop":{},"color_jitter":{"hue":0.1}}"#).unwrap();
    assert_eq!(
        short.random_resized_crop,
        Some(RandomResizedCrop::default())
    );
    assert!(serde_json::from_str::<Augment>(r#"{"cutout":1}"#).is_err());
    let faulty = [
        (r#"{"horizontal_flip":1.5}"#, "horizontal_flip"),
        (r#"{"color_jitter":{"hue":0.7}}"#, "hue"),
        (
            r#"{"random_resized_crop":{"scale":[0.0,1.0]}}"#,
            "random_resized_crop.scale",
        ),
        (
            r#"{"random_erasing":{"ratio":[2.0,1.0]}}"#,
            "random_erasing.ratio",
        ),
        (
            r#"{"rand_augment":{"magnitude":31}}"#,
            "rand_augment.magnitude",
        ),
    ];
    for (json, name) in faulty {
        let message = serde_json::from_str::<Augment>(json)
            .unwrap()
            .validate()
            .unwrap_err()
            .to_string();
        assert!(message.starts_with(name), "{message}");
    }
}

#[test]
fn augmentation_is_fixed_by_its_key_and_moves_little() {
    let digit = mnist::embedded().unwrap().train.get(7).unwrap().image;
    let (preprocess, augment) = (Preprocess::lenet5(), Augment::digits());
    let draw = |epoch| {
        let mut rng = Rng::keyed(1, Purpose::Augment, epoch, 7);
        preprocess
            .pixels(digit.clone(), Some((&augment, &mut rng)))
            .unwrap()
    };
    let plain = preprocess.pixels(digit.clone(), None).unwrap();
    assert_eq!(draw(0), draw(0));
    assert_ne!(draw(0), draw(1));
    let centre = |image: &Image| {
        let mass: f64 = image.data().iter().map(|&v| f64::from(v)).sum();
        let x: f64 = image
            .data()
            .iter()
            .enumerate()
            .map(|(i, &v)| (i % 32) as f64 * f64::from(v))
            .sum();
        (mass, x / mass)
    };
    for epoch in 0..50 {
        let ((m0, x0), (m1, x1)) = (centre(&plain), centre(&draw(epoch)));
        assert!(
            (x0 - x1).abs() < 3.5 && m1 > 0.7 * m0 && m1 < 1.3 * m0,
            "{epoch}: {x0} {x1} {m0} {m1}"
        );
    }
}
