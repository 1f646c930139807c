//! Filters of the first layer, and feature maps.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor, TensorData};
use lenslet_data::{Image, Preprocess};
use lenslet_draw::{Scene, diverging, viridis};
use lenslet_graph::Graph;
use lenslet_models::{ImageModel, Model, Output};
use lenslet_nn::{ModulePath, tap, to_nchw};

use crate::ExplainError;
use crate::grid::{self, Cell};
use crate::picture::short;

/// More maps or filters are not drawn.
const MOST: usize = 96;

/// Small pictures with labels.
#[derive(Debug, Clone)]
pub struct Maps {
    title: String,
    note: String,
    cells: Vec<Cell>,
    /// How many there are; not all may be drawn.
    pub count: usize,
    /// Rows and columns of each.
    pub size: [usize; 2],
}

/// The filters of the convolution called `layer` (`conv1`): in colour where they take a colour
/// picture, each on its own scale; else what they take from their first input channel, blue below
/// zero, red above.
///
/// # Errors
/// When there is no such convolution.
pub fn filters(model: &Model, name: &str, layer: &str) -> Result<Maps, ExplainError> {
    struct Weights {
        path: ModulePath,
        found: Vec<(String, Tensor<4>)>,
    }
    impl ModuleVisitor for Weights {
        fn enter_module(&mut self, name: &str, container: &str) {
            self.path.enter(name, container);
        }
        fn exit_module(&mut self, _: &str, container: &str) {
            self.path.exit(container);
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let name = self.path.name();
            if D == 4
                && let Some(module) = name.strip_suffix(".weight")
            {
                let data = param.val().into_data();
                let device = Device::flex();
                self.found
                    .push((module.to_string(), Tensor::from_data(data, &device)));
            }
        }
    }
    let mut weights = Weights {
        path: ModulePath::default(),
        found: Vec::new(),
    };
    model.visit(&mut weights);
    let Some((_, weight)) = weights.found.iter().find(|(module, _)| module == layer) else {
        let known: Vec<String> = weights
            .found
            .into_iter()
            .map(|(module, _)| module)
            .collect();
        return Err(ExplainError::layer(
            layer,
            "is no convolution of this model",
            &known,
        ));
    };
    let [out, channels, rows, columns] = weight.dims();
    let values: Vec<f32> = weight.to_data().iter::<f32>().collect();
    let plane = rows * columns;
    let filters = values.chunks_exact(channels * plane).enumerate();
    let cells = filters.take(MOST).map(|(i, filter)| {
        // A filter that has died is grey.
        let strongest = filter.iter().fold(1e-5f32, |m, v| m.max(v.abs()));
        let rgb: Vec<u8> = match channels {
            3 => (0..plane)
                .flat_map(|at| [0, 1, 2].map(|c| filter[c * plane + at]))
                .map(|v| (127.5 + 127.5 * v / strongest) as u8)
                .collect(),
            _ => (filter[..plane].iter())
                .flat_map(|v| diverging(f64::from(v / strongest)).rgb)
                .collect(),
        };
        Cell {
            label: format!("{i}: ±{}", short(f64::from(strongest))),
            columns,
            rows,
            rgb,
        }
    });
    Ok(Maps {
        title: format!("{name}, {layer}: {out} filters of {channels}×{rows}×{columns}"),
        note: match channels {
            3 => "red, green and blue weights, grey is zero; under each its largest weight".into(),
            _ => "weights on the first input channel, blue below zero, red above".into(),
        },
        cells: cells.collect(),
        count: out,
        size: [rows, columns],
    })
}

/// The model's input for a picture, and the pixels that it is made of.
pub(crate) fn prepared(
    preprocess: &Preprocess,
    image: Image,
    device: &Device,
) -> Result<(Tensor<4>, Cell), ExplainError> {
    let pixels = preprocess.pixels(image.clone(), None)?;
    let mut input = vec![0.0; preprocess.output_len()];
    preprocess.apply(image, None, &mut input)?;
    let [c, h, w] = preprocess.output_shape();
    let x = Tensor::from_data(TensorData::new(input, [1, c, h, w]), device);
    let rgb = pixels.to_channels(lenslet_data::Channels::Rgb);
    let cell = Cell {
        label: "picture".into(),
        columns: rgb.width(),
        rows: rgb.height(),
        rgb: rgb.data().to_vec(),
    };
    Ok((x, cell))
}

/// The modules of a model that give maps, in the order in which they run.
pub(crate) fn layers(model: &Model, input: [usize; 4]) -> Result<Vec<String>, ExplainError> {
    let graph = Graph::capture(model, input, |model, x| match model.output(x.clone()) {
        Output::Logits(y) => lenslet_graph::Outputs::from(y),
        Output::Map(y) | Output::Grid(y) => y.into(),
        Output::Anchors(_) => model.forward(x).into(),
    })?;
    let mut names: Vec<String> = Vec::new();
    for layer in graph.layers() {
        let is_map = layer.field.size().is_some() && !layer.module.is_empty();
        if is_map && !names.contains(&layer.module) {
            names.push(layer.module);
        }
    }
    Ok(names)
}

/// What the module called `layer` gives for a picture, channel by channel, each on its own scale.
/// The model runs on the device it is on, in evaluation.
///
/// # Errors
/// When no such module runs or it gives no maps, or the picture cannot be prepared.
pub fn feature_maps(
    model: &Model,
    name: &str,
    preprocess: &Preprocess,
    image: Image,
    layer: &str,
    device: &Device,
) -> Result<Maps, ExplainError> {
    let (x, picture) = prepared(preprocess, image, device)?;
    let input = x.dims();
    // Whether the model can take such a picture at all.
    let known = layers(model, input)?;
    let (_, mut found) = tap::record([layer], || model.forward(x));
    let Some(data) = found.remove(layer) else {
        return Err(ExplainError::layer(
            layer,
            "does not run in this model",
            &known,
        ));
    };
    if data.shape().num_dims() != 4 {
        return Err(ExplainError::layer(layer, "gives no feature maps", &known));
    }
    let maps = to_nchw(Tensor::<4>::from_data(data, &Device::flex()));
    let [_, channels, rows, columns] = maps.dims();
    let values: Vec<f32> = maps.into_data().iter::<f32>().collect();
    let cells = values
        .chunks_exact(rows * columns)
        .enumerate()
        .take(MOST - 1);
    let cells = cells.map(|(i, map)| {
        let least = map.iter().copied().fold(f32::MAX, f32::min);
        let most = map.iter().copied().fold(f32::MIN, f32::max);
        let span = (most - least).max(f32::MIN_POSITIVE);
        let rgb = map
            .iter()
            .flat_map(|v| viridis(f64::from((v - least) / span)).rgb);
        Cell {
            label: format!(
                "{i}: {} … {}",
                short(f64::from(least)),
                short(f64::from(most))
            ),
            columns,
            rows,
            rgb: rgb.collect(),
        }
    });
    Ok(Maps {
        title: format!("{name}, {layer}: {channels} maps of {rows}×{columns}"),
        note: "each map on its own scale, dark is its least value, light its greatest".into(),
        cells: std::iter::once(picture).chain(cells).collect(),
        count: channels,
        size: [rows, columns],
    })
}

/// The small pictures as one.
pub fn maps_scene(maps: &Maps) -> Scene {
    let drawn = maps
        .cells
        .iter()
        .filter(|cell| cell.label != "picture")
        .count();
    let note = match maps.count > drawn {
        true => format!("the first {drawn} of {}; {}", maps.count, maps.note),
        false => maps.note.clone(),
    };
    grid::scene(&maps.title, &note, &maps.cells)
}
