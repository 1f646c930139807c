//! Recording a model's forward pass.

mod convert;
mod modules;
mod record;
mod windows;

use std::collections::HashMap;

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorId};
use burn_ir::{OperationIr, TensorIr};
use lenslet_nn::tap::Reach;

use crate::compose::{Composer, Step, View};
use crate::{Data, Graph, GraphError, Kind};
use convert::Converted;
use record::{Recording, Role};

pub use record::Outputs;

impl Graph {
    /// Records what `forward` does with an input of this shape, without running it. Any Burn
    /// module will do, on any device, training or not; what is recorded is its behaviour in
    /// evaluation. The weights of a model on the CPU are shared with the graph, not copied.
    ///
    /// Nodes carry the path of the module that they belong to. It is known of every operation
    /// for models whose children run through [`lenslet_nn::tap`]. For others it is that of the
    /// weights an operation reads, and between them the innermost module that holds both the
    /// weights before and after.
    ///
    /// Changes of layout that cancel are left out, so feature maps between convolutions are
    /// `[N, C, H, W]` however the model keeps them.
    ///
    /// # Errors
    /// When `forward` panics (the input does not fit the model, or the forward pass looks at
    /// numbers), or uses an operation that graphs do not know.
    pub fn capture<M: Module, O: Into<Outputs>, const D: usize>(
        model: &M,
        input: [usize; D],
        forward: impl FnOnce(&M, Tensor<D>) -> O,
    ) -> Result<Graph, GraphError> {
        assemble(
            record::with_weights(Reach::Whole, model, input, forward)?,
            &[],
        )
    }

    /// The same for computing the outputs and nothing else: a model leaves out what they do not depend on
    /// ([`tap::whole`](lenslet_nn::tap::whole)), such as a Vision Transformer's other tokens behind its last attention.
    ///
    /// # Errors
    /// As [`capture`](Self::capture).
    pub fn capture_result<M: Module, O: Into<Outputs>, const D: usize>(
        model: &M,
        input: [usize; D],
        forward: impl FnOnce(&M, Tensor<D>) -> O,
    ) -> Result<Graph, GraphError> {
        Self::capture_with_taps(model, input, forward, &[])
    }

    /// As [`capture_result`](Self::capture_result) with more outputs behind those of `forward`: what these modules return, feature maps
    /// `[N, C, H, W]`, tokens `[N, L, C]`. For models whose children run through
    /// [`lenslet_nn::tap`]. Of a module that runs more than once, the last time counts.
    ///
    /// # Errors
    /// As [`capture`](Self::capture), and when no module of such a name runs.
    pub fn capture_with_taps<M: Module, O: Into<Outputs>, const D: usize>(
        model: &M,
        input: [usize; D],
        forward: impl FnOnce(&M, Tensor<D>) -> O,
        taps: &[String],
    ) -> Result<Graph, GraphError> {
        let reach = if taps.is_empty() {
            Reach::Result
        } else {
            Reach::Whole
        };
        assemble(record::with_weights(reach, model, input, forward)?, taps)
    }

    /// The same without weights: `build` makes the model on the device it is given, and whatever
    /// has no values there ([`Init::empty`](lenslet_nn::Init::empty)) takes no memory. For looking
    /// at structure and costs.
    ///
    /// # Errors
    /// As [`capture`](Self::capture).
    pub fn structure<M: Module, O: Into<Outputs>, const D: usize>(
        build: impl FnOnce(&Device) -> M,
        input: [usize; D],
        forward: impl FnOnce(&M, Tensor<D>) -> O,
    ) -> Result<Graph, GraphError> {
        assemble(record::without_weights(build, input, forward)?, &[])
    }
}

/// Turns recorded operations into a graph.
fn assemble(mut recording: Recording, taps: &[String]) -> Result<Graph, GraphError> {
    let modules = modules::attribute(&recording);
    let operations = std::mem::take(&mut recording.operations);
    let mut composer = Composer::default();
    let mut views = weights(&mut recording, &operations, &mut composer);
    for (operation, module) in operations.iter().zip(&modules) {
        let node = || match operation.outputs().next() {
            Some(out) if module.is_empty() => format!("#{}", out.id.value()),
            _ => module.clone(),
        };
        match convert::convert(operation) {
            Some(Converted::Tensor { out, fill }) => {
                if !views.contains_key(&out.id)
                    && let Some(view) = start(&mut recording, &mut composer, out, fill)
                {
                    views.insert(out.id, view);
                }
            }
            Some(Converted::Node { op, inputs, out }) => {
                windows::check(&op, &inputs).map_err(|(span, padded)| GraphError::Window {
                    node: node(),
                    span,
                    padded,
                })?;
                let known = inputs.iter().map(|input| views.get(&input.id).cloned());
                let inputs = known.collect::<Option<Vec<_>>>();
                let inputs = inputs.ok_or_else(|| GraphError::Missing {
                    node: node(),
                    operation: convert::name(operation),
                })?;
                let step = Step {
                    module,
                    op,
                    shape: out.shape.to_vec(),
                    kind: Kind::from(out.dtype),
                };
                views.insert(out.id, composer.node(step, &inputs));
            }
            None => {
                return Err(GraphError::Unknown {
                    node: node(),
                    operation: convert::name(operation),
                });
            }
        }
    }
    let outputs = recording.outputs.iter().enumerate().map(|(i, id)| {
        let view = id.and_then(|id| views.get(&id));
        view.cloned().ok_or(GraphError::Output(i))
    });
    let mut outputs = outputs.collect::<Result<Vec<_>, _>>()?;
    for name in taps {
        let view = returned(&recording, name).and_then(|id| views.get(&id).cloned());
        let view = view.ok_or_else(|| {
            GraphError::no_module(name, recording.exits.iter().map(|e| e.path.as_str()))
        })?;
        outputs.push(composer.channels_first(&view));
    }
    let mut graph = composer.finish(&outputs);
    let tokens = recording.exits.into_iter();
    graph.tokens = tokens
        .filter_map(|exit| Some((exit.path, exit.tokens?)))
        .collect();
    Ok(graph)
}

/// What the module of that name returned when it last ran.
fn returned(recording: &Recording, name: &str) -> Option<TensorId> {
    let exit = recording.exits.iter().rfind(|exit| exit.path == name)?;
    exit.output
}

/// The model's parameters and buffers, in the order of its fields, however they came to be.
fn weights(
    recording: &mut Recording,
    operations: &[OperationIr],
    composer: &mut Composer,
) -> HashMap<TensorId, View> {
    let starts = operations
        .iter()
        .filter_map(|operation| match convert::convert(operation)? {
            Converted::Tensor { out, fill } => Some((out.id, (out, fill))),
            Converted::Node { .. } => None,
        });
    let starts: HashMap<_, _> = starts.collect();
    let fields = std::mem::take(&mut recording.fields);
    let weights = fields.into_iter().filter_map(|id| {
        let (out, fill) = *starts.get(&id)?;
        Some((id, start(recording, composer, out, fill)?))
    });
    weights.collect()
}

/// A tensor that no operation computes; `None` for a mark, which is no part of the graph.
fn start(
    recording: &mut Recording,
    composer: &mut Composer,
    out: &TensorIr,
    fill: f64,
) -> Option<View> {
    let shape = out.shape.to_vec();
    match recording.role(out.id) {
        Role::Input => Some(composer.input(shape)),
        Role::Mark => None,
        Role::Constant { name, data } => {
            let data = data.unwrap_or(Data::Splat(fill));
            Some(composer.constant(name, shape, Kind::from(out.dtype), data))
        }
    }
}
