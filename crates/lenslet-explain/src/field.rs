//! How much of a picture a unit sees.

use burn::module::Module;
use burn::tensor::{Device, Distribution, Tensor};
use lenslet_data::{Channels, Image};
use lenslet_draw::{Bitmap, Colour, OKABE_ITO, Scene, Shape, viridis};
use lenslet_graph::{Axis, Field, Graph};
use lenslet_models::{ImageModel, Model};
use lenslet_nn::tap;

use crate::ExplainError;
use crate::maps::layers;
use crate::picture::{MARGIN, TITLE, caption, number, scale_bar, title};

/// What the unit in the middle of a layer sees.
#[derive(Debug, Clone)]
pub struct FieldPicture {
    /// Height and width of the picture.
    pub picture: [usize; 2],
    /// Rows and columns of the layer's maps.
    pub map: [usize; 2],
    /// First and last row, first and last column that the unit depends on; they can lie outside.
    pub window: [(i64, i64); 2],
    /// Rows and columns between neighbouring units.
    pub jump: [f64; 2],
    /// How strongly the unit depends on every pixel, the strongest 1, if that was asked for.
    pub strength: Option<Vec<f64>>,
}

impl FieldPicture {
    /// What the unit in the middle of `layer` depends on, from the model's graph for one picture.
    ///
    /// # Errors
    /// When no such module gives maps with a window.
    pub fn of(graph: &Graph, layer: &str) -> Result<Self, ExplainError> {
        let picture = &graph.value(graph.inputs()[0]).shape;
        let inside = |module: &str| {
            let rest = module.strip_prefix(layer);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        let all = graph.layers();
        let known = || -> Vec<String> {
            let maps = all
                .iter()
                .filter(|l| l.field.size().is_some() && !l.module.is_empty());
            maps.map(|l| l.module.clone()).collect()
        };
        let Some(last) = all.iter().rfind(|l| inside(&l.module)) else {
            return Err(ExplainError::layer(
                layer,
                "does not run in this model",
                &known(),
            ));
        };
        let map = &graph.value(last.output).shape;
        let (Field::Window([rows, columns]), [.., height, width]) = (&last.field, &map[..]) else {
            let reason = match last.field {
                Field::Whole => "sees the whole picture",
                _ => "has no window of the picture",
            };
            return Err(ExplainError::layer(layer, reason, &known()));
        };
        let middle = |axis: &Axis, length: usize| axis.at(length as i64 / 2);
        Ok(Self {
            picture: [picture[2], picture[3]],
            map: [*height, *width],
            window: [middle(rows, *height), middle(columns, *width)],
            jump: [rows.jump(), columns.jump()],
            strength: None,
        })
    }

    /// Rows and columns of the window.
    pub fn size(&self) -> [usize; 2] {
        self.window.map(|(first, last)| (last - first + 1) as usize)
    }

    /// The side of the square around the strongest pixels' middle that holds this share of the
    /// strength.
    pub fn effective_side(&self, share: f64) -> Option<usize> {
        let strength = self.strength.as_ref()?;
        let [h, w] = self.picture;
        let total: f64 = strength.iter().sum();
        let mean = |of: &dyn Fn(usize) -> f64| {
            let sum = strength
                .iter()
                .enumerate()
                .map(|(i, s)| s * of(i))
                .sum::<f64>();
            sum / total.max(f64::MIN_POSITIVE)
        };
        let (cy, cx) = (mean(&|i| (i / w) as f64), mean(&|i| (i % w) as f64));
        let reach = |i: usize| ((i / w) as f64 - cy).abs().max(((i % w) as f64 - cx).abs());
        let mut pixels: Vec<(f64, f64)> = (0..h * w).map(|i| (reach(i), strength[i])).collect();
        pixels.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut sum = 0.0;
        let edge = pixels.iter().find(|(_, s)| {
            sum += s;
            sum >= share * total
        });
        edge.map(|(reach, _)| (2.0 * reach).floor() as usize + 1)
    }
}

/// How strongly the unit in the middle of `layer` depends on every pixel: the absolute gradient of
/// its channels' sum, of all colours together, averaged over `pictures` (W. Luo et al.,
/// *Understanding the Effective Receptive Field in Deep Convolutional Neural Networks*, NIPS 2016).
/// `model` is on an autodiff device, the pictures are `[1, C, H, W]`; with none, random ones are
/// used. The strongest pixel gets 1.
///
/// # Errors
/// When no such module runs or it gives no maps.
pub fn effective_field(
    model: Model,
    pictures: Vec<Tensor<4>>,
    [c, h, w]: [usize; 3],
    layer: &str,
    device: &Device,
) -> Result<Vec<f64>, ExplainError> {
    let known = layers(&model, [1, c, h, w])?;
    let model = model.freeze();
    let random = |_| Tensor::random([1, c, h, w], Distribution::Normal(0.0, 1.0), device);
    let pictures = match pictures.is_empty() {
        true => (0..16).map(random).collect(),
        false => pictures,
    };
    let mut strength = vec![0.0; h * w];
    for x in pictures {
        let x = x.require_grad();
        let (_, probe) = tap::probe(layer, || model.forward(x.clone()));
        let missing = |reason| ExplainError::layer(layer, reason, &known);
        let probe = probe.ok_or_else(|| missing("does not run in this model"))?;
        let probe = probe.downcast::<tap::Probe<4>>();
        let probe = probe.map_err(|_| missing("gives no feature maps"))?;
        let [_, rows, columns, _] = probe.output.dims();
        let unit = probe
            .output
            .narrow(1, rows / 2, 1)
            .narrow(2, columns / 2, 1);
        let gradients = unit.sum().backward();
        let Some(gradient) = x.grad(&gradients) else {
            continue;
        };
        let values: Vec<f32> = gradient.into_data().iter::<f32>().collect();
        for (i, value) in values.into_iter().enumerate() {
            strength[i % (h * w)] += f64::from(value.abs());
        }
    }
    let most = strength.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    strength.iter_mut().for_each(|s| *s /= most);
    Ok(strength)
}

/// The window on a picture, or on a plain ground, and how strongly each pixel counts where that is
/// known.
pub fn field_scene(field: &FieldPicture, model: &str, layer: &str, image: Option<Image>) -> Scene {
    const SIDE: f64 = 400.0;
    let [rows, columns] = field.picture;
    let [(top, bottom), (left, right)] = field.window;
    // The window and the picture are both seen whole.
    let first = [top.min(0), left.min(0)];
    let last = [bottom.max(rows as i64 - 1), right.max(columns as i64 - 1)];
    let span = [last[0] - first[0] + 1, last[1] - first[1] + 1].map(|n| n as f64);
    let scale = SIDE / span[0].max(span[1]);
    let panels = 1 + usize::from(field.strength.is_some());
    let (w, h) = (span[1] * scale, span[0] * scale);
    let bar = if panels > 1 { 56.0 } else { 0.0 };
    let width = (panels as f64 * (w + 24.0) - 24.0 + 2.0 * MARGIN + bar).max(460.0);
    let mut scene = Scene::new(width, TITLE + h + 56.0 + MARGIN);
    let [field_h, field_w] = field.size();
    let text = format!("{model}, {layer}: one unit sees {field_h}×{field_w} pixels");
    title(&mut scene, &text);
    let y0 = TITLE + 4.0;
    let place = |x0: f64, row: i64, column: i64| {
        let x = x0 + (column - first[1]) as f64 * scale;
        [x, y0 + (row - first[0]) as f64 * scale]
    };
    let (pw, ph) = (columns as f64 * scale, rows as f64 * scale);
    let grey = Colour::new(0xee, 0xee, 0xee);
    for panel in 0..panels {
        let x0 = MARGIN + panel as f64 * (w + 24.0);
        let [x, y] = place(x0, 0, 0);
        match (panel, &image, &field.strength) {
            (1, _, Some(strength)) => {
                // The root shows what is weak as well.
                let rgb = strength
                    .iter()
                    .flat_map(|s| viridis(s.sqrt()).rgb)
                    .collect();
                scene.bitmap(Bitmap::new([x, y, pw, ph], columns, rows, rgb));
            }
            (_, Some(image), _) => {
                let image = image.clone().to_channels(Channels::Rgb);
                let (iw, ih) = (image.width(), image.height());
                let bitmap = Bitmap::new([x, y, pw, ph], iw, ih, image.data().to_vec());
                scene.bitmap(bitmap.smooth());
            }
            _ => scene.shape(Shape::rect(x, y, pw, ph).filled(grey)),
        }
        scene.shape(Shape::rect(x, y, pw, ph).stroked(Colour::FAINT, 1.0));
        let [x, y] = place(x0, top, left);
        let window = Shape::rect(x, y, field_w as f64 * scale, field_h as f64 * scale);
        let [.., vermilion, _, _] = OKABE_ITO;
        let lit = match panel {
            0 => window.filled(vermilion.with_opacity(0.12)),
            _ => window,
        };
        scene.shape(lit.stroked(vermilion, 2.5));
    }
    let [map_h, map_w] = field.map;
    let [jump, _] = field.jump;
    let what = format!(
        "theoretical window of the middle one of {map_h}×{map_w} units, {} pixels apart; the picture has {rows}×{columns}",
        number(jump)
    );
    let below = y0 + h + 20.0;
    caption(&mut scene, [width / 2.0, below], &what);
    if let Some(side) = field.effective_side(0.95) {
        let right = MARGIN + 2.0 * w + 24.0;
        scale_bar(&mut scene, [right + 12.0, y0, 14.0, h], ["0", "1"], viridis);
        let what = format!(
            "right: share of the strongest gradient (scale of square roots); 95 % of it lies within {side}×{side} pixels"
        );
        caption(&mut scene, [width / 2.0, below + 18.0], &what);
    }
    scene
}
