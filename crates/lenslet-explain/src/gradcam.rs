//! Where a classifier looks.
//!
//! R. R. Selvaraju et al., *Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
//! Localization*, ICCV 2017: the maps of a layer, each weighted by the mean of the gradient of a
//! class's logit in it, summed, negative values cut off.

use burn::module::Module;
use burn::tensor::{Device, Gradients, Tensor};
use lenslet_data::{Image, Preprocess};
use lenslet_draw::{Bitmap, Colour, Scene, Shape, viridis};
use lenslet_models::{ImageModel, Model};
use lenslet_nn::{Interpolation, resize, tap};

use crate::ExplainError;
use crate::grid::Cell;
use crate::maps::{layers, prepared};
use crate::picture::{MARGIN, TITLE, caption, number, scale_bar, title};

/// How much every part of a picture speaks for a class.
#[derive(Debug, Clone)]
pub struct Heat {
    /// The class.
    pub class: usize,
    /// Its probability, all classes together giving 1.
    pub probability: f64,
    /// The module whose maps were weighted.
    pub layer: String,
    /// Rows and columns of [`heat`](Self::heat).
    pub size: [usize; 2],
    /// From 0 to 1, the largest being 1; all zeros where nothing speaks for the class.
    pub heat: Vec<f64>,
    picture: Cell,
}

/// The heat of a class, the likeliest if `None`, at the output of `layer`: of the last stage that
/// the gradient reaches, if `None`. `model` is on an autodiff device.
///
/// # Errors
/// When no such module runs or it gives neither maps nor tokens, or the picture cannot be prepared.
pub fn gradcam(
    model: Model,
    preprocess: &Preprocess,
    image: Image,
    class: Option<usize>,
    layer: Option<&str>,
    device: &Device,
) -> Result<Heat, ExplainError> {
    let (x, picture) = prepared(preprocess, image, device)?;
    let known = layers(&model, x.dims())?;
    let model = model.freeze();
    let candidates = match layer {
        Some(layer) => vec![layer.to_string()],
        // A Vision Transformer's last patches do not reach its classifier; those before do.
        None => model
            .stage_info()
            .into_iter()
            .rev()
            .map(|stage| stage.name)
            .collect(),
    };
    let mut last = None;
    for layer in candidates {
        let heat = at(&model, &x, class, &layer, &known)?;
        let done = heat.heat.iter().any(|&v| v > 0.0);
        let heat = Heat {
            picture: picture.clone(),
            ..heat
        };
        if done {
            return Ok(heat);
        }
        last = Some(heat);
    }
    last.ok_or_else(|| ExplainError::layer("the model", "has no stages", &known))
}

fn at(
    model: &Model,
    x: &Tensor<4>,
    class: Option<usize>,
    layer: &str,
    known: &[String],
) -> Result<Heat, ExplainError> {
    let (logits, probe) = tap::probe(layer, || model.forward(x.clone()));
    let missing = |reason| ExplainError::layer(layer, reason, known);
    let probe = probe.ok_or_else(|| missing("does not run in this model"))?;
    let values: Vec<f32> = logits.to_data().iter::<f32>().collect();
    let likeliest = (0..values.len()).max_by(|&a, &b| values[a].total_cmp(&values[b]));
    let class = class.or(likeliest).unwrap_or(0);
    let gradients = logits.narrow(1, class, 1).sum().backward();
    let maps = match probe.downcast::<tap::Probe<4>>() {
        Ok(probe) => weighted(*probe, &gradients),
        Err(probe) => match probe.downcast::<tap::Probe<3>>() {
            Ok(probe) => tokens(*probe, &gradients),
            Err(_) => return Err(missing("gives no feature maps")),
        },
    };
    let (size, mut heat) = maps.ok_or_else(|| missing("is not reached by the class's gradient"))?;
    heat.iter_mut().for_each(|v| *v = v.max(0.0));
    let most = heat.iter().copied().fold(0.0, f64::max);
    if most > 0.0 {
        heat.iter_mut().for_each(|v| *v /= most);
    }
    let top = values.iter().copied().fold(f32::MIN, f32::max);
    let exp = |v: f32| f64::from(v - top).exp();
    let sum: f64 = values.iter().map(|&v| exp(v)).sum();
    Ok(Heat {
        class,
        probability: exp(values[class]) / sum,
        layer: layer.to_string(),
        size,
        heat,
        picture: Cell {
            label: String::new(),
            columns: 0,
            rows: 0,
            rgb: Vec::new(),
        },
    })
}

/// Maps `[1, H, W, C]` weighted by the means of their gradients.
fn weighted(probe: tap::Probe<4>, gradients: &Gradients) -> Option<([usize; 2], Vec<f64>)> {
    let gradient = probe.zeros.grad(gradients)?;
    let [_, h, w, c] = gradient.dims();
    let weights = gradient.mean_dim(1).mean_dim(2);
    let maps = probe.output.inner() * weights;
    let sums = maps.sum_dim(3).into_data();
    let sums: Vec<f64> = sums.iter::<f32>().map(f64::from).collect();
    debug_assert_eq!(sums.len() * c, h * w * c);
    Some(([h, w], sums))
}

/// Tokens `[1, L, C]`, of which those that make up a square are patches; one in front is the class's.
fn tokens(probe: tap::Probe<3>, gradients: &Gradients) -> Option<([usize; 2], Vec<f64>)> {
    let gradient = probe.zeros.grad(gradients)?;
    let [_, length, c] = gradient.dims();
    let side = length.isqrt();
    let first = length - side * side;
    if first > 1 {
        return None;
    }
    let as_map = |x: Tensor<3>| x.narrow(1, first, side * side).reshape([1, side, side, c]);
    let weights = as_map(gradient).mean_dim(1).mean_dim(2);
    let maps = as_map(probe.output.inner()) * weights;
    let sums = maps.sum_dim(3).into_data();
    Some(([side; 2], sums.iter::<f32>().map(f64::from).collect()))
}

/// The picture, the heat over it, and its scale.
pub fn gradcam_scene(heat: &Heat, model: &str, class: &str) -> Scene {
    const SIDE: f64 = 360.0;
    let picture = &heat.picture;
    let scale = SIDE / picture.columns.max(picture.rows) as f64;
    let (w, h) = (picture.columns as f64 * scale, picture.rows as f64 * scale);
    let width = 2.0 * w + 24.0 + 2.0 * MARGIN + 56.0;
    let mut scene = Scene::new(width, TITLE + h + 34.0 + MARGIN);
    title(
        &mut scene,
        &format!("{class}, {:.1} %", heat.probability * 100.0),
    );
    let [rows, columns] = heat.size;
    let values: Vec<f32> = heat.heat.iter().map(|&v| v as f32).collect();
    let map = Tensor::<4>::from_data(
        burn::tensor::TensorData::new(values, [1, rows, columns, 1]),
        &Device::flex(),
    );
    let filter = Interpolation::Bilinear {
        align_corners: false,
    };
    let fine = resize(map, [picture.rows, picture.columns], filter).into_data();
    let blend = |(pixel, value): (&[u8], f32)| {
        let value = f64::from(value).clamp(0.0, 1.0);
        let colour = viridis(value).rgb;
        // Cold places show the picture, a little darkened.
        let share = 0.25 + 0.45 * value;
        [0, 1, 2]
            .map(|i| (f64::from(pixel[i]) * (1.0 - share) + f64::from(colour[i]) * share) as u8)
    };
    let pixels = picture.rgb.chunks_exact(3).zip(fine.iter::<f32>());
    let overlay: Vec<u8> = pixels.flat_map(blend).collect();
    let top = TITLE + 4.0;
    let right = MARGIN + w + 24.0;
    for (x, rgb) in [(MARGIN, picture.rgb.clone()), (right, overlay)] {
        let bitmap = Bitmap::new([x, top, w, h], picture.columns, picture.rows, rgb);
        scene.bitmap(if scale < 3.0 { bitmap.smooth() } else { bitmap });
        scene.shape(Shape::rect(x, top, w, h).stroked(Colour::FAINT, 0.8));
    }
    scale_bar(
        &mut scene,
        [right + w + 12.0, top, 14.0, h],
        [&number(0.0), &number(1.0)],
        viridis,
    );
    let below = top + h + 20.0;
    caption(&mut scene, [MARGIN + w / 2.0, below], "what the model sees");
    let what = format!("Grad-CAM of {model} at {}", heat.layer);
    caption(&mut scene, [right + w / 2.0, below], &what);
    scene
}
