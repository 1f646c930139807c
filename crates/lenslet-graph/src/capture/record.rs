//! Running a forward pass on Burn's capture device.
//!
//! What the recording relies on (Burn 0.22.1): moving a clone of a model that holds a
//! `RunningState` to another device moves the original's state as well, so the model is copied by
//! `valid()`, which also leaves training behind. Moving parameters to the capture device copies
//! their values twice, so placeholders without values go there instead.

use std::any::Any;
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use burn::backend::Capture;
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Bool, Device, Int, Tensor, TensorId};
use burn_ir::OperationIr;
use lenslet_nn::{ModulePath, tap};

use crate::{Data, GraphError};

/// What a forward pass gives: one tensor, or several.
#[derive(Debug, Clone, Default)]
pub struct Outputs(Vec<Option<TensorId>>);

impl Outputs {
    /// One more output.
    pub fn and<const D: usize>(mut self, tensor: Tensor<D>) -> Self {
        self.0.push(id(&tensor));
        self
    }
}

impl<const D: usize> From<Tensor<D>> for Outputs {
    fn from(tensor: Tensor<D>) -> Self {
        Self::default().and(tensor)
    }
}

impl<const D: usize> From<Vec<Tensor<D>>> for Outputs {
    fn from(tensors: Vec<Tensor<D>>) -> Self {
        tensors.into_iter().fold(Self::default(), Self::and)
    }
}

/// A tensor's name in the recording; `None` for a tensor that was not recorded.
fn id<const D: usize>(tensor: &Tensor<D>) -> Option<TensorId> {
    let tensor = tensor.clone().try_into_primitive::<Capture>().ok()?;
    Some(tensor.id())
}

/// The shape `[N, L, C]` of tokens, which stacks of layers take as maps of height 1.
fn tokens(output: &dyn Any) -> Option<[usize; 3]> {
    let flat = output.downcast_ref::<Tensor<3>>().map(Tensor::dims);
    let row = output.downcast_ref::<Tensor<4>>().map(Tensor::dims);
    flat.or(match row {
        Some([n, 1, length, c]) if length > 1 => Some([n, length, c]),
        _ => None,
    })
}

/// A child that ran.
pub(super) struct Exit {
    pub path: String,
    /// What it returned.
    pub output: Option<TensorId>,
    /// The shape of that, where it is tokens `[N, L, C]`.
    pub tokens: Option<[usize; 3]>,
}

/// A recorded forward pass.
#[derive(Default)]
pub(super) struct Recording {
    pub operations: Vec<OperationIr>,
    pub outputs: Vec<Option<TensorId>>,
    /// What starts or ends at a mark: the name of the child that starts, none at an end.
    pub marks: HashMap<TensorId, Option<String>>,
    /// The path of every child that ran, in the order in which they ended, and what it returned.
    pub exits: Vec<Exit>,
    pub names: HashMap<TensorId, String>,
    /// The named tensors in the order of the model's fields.
    pub fields: Vec<TensorId>,
    input: Option<TensorId>,
    data: HashMap<TensorId, Data>,
}

/// What a tensor that no operation computes is.
pub(super) enum Role {
    Input,
    Mark,
    Constant {
        name: Option<String>,
        /// Where there is none, the tensor was filled with one number.
        data: Option<Data>,
    },
}

impl Recording {
    pub fn is_input(&self, tensor: TensorId) -> bool {
        self.input == Some(tensor)
    }

    pub fn role(&mut self, tensor: TensorId) -> Role {
        if self.is_input(tensor) {
            Role::Input
        } else if self.marks.contains_key(&tensor) {
            Role::Mark
        } else {
            Role::Constant {
                name: self.names.get(&tensor).cloned(),
                data: self.data.remove(&tensor),
            }
        }
    }
}

/// Records a model whose weights become the graph's constants.
pub(super) fn with_weights<M: Module, O: Into<Outputs>, const D: usize>(
    reach: tap::Reach,
    model: &M,
    input: [usize; D],
    forward: impl FnOnce(&M, Tensor<D>) -> O,
) -> Result<Recording, GraphError> {
    record(reach, input, forward, |device| {
        let mut placeholders = Placeholders {
            device,
            data: HashMap::new(),
        };
        let model = model.valid().map(&mut placeholders).to_device(device);
        (model, placeholders.data)
    })
}

/// Records a model that is made on the capture device.
pub(super) fn without_weights<M: Module, O: Into<Outputs>, const D: usize>(
    build: impl FnOnce(&Device) -> M,
    input: [usize; D],
    forward: impl FnOnce(&M, Tensor<D>) -> O,
) -> Result<Recording, GraphError> {
    record(tap::Reach::Whole, input, forward, |device| {
        (build(device), HashMap::new())
    })
}

fn record<M: Module, O: Into<Outputs>, const D: usize>(
    reach: tap::Reach,
    input: [usize; D],
    forward: impl FnOnce(&M, Tensor<D>) -> O,
    place: impl FnOnce(&Device) -> (M, HashMap<TensorId, Data>),
) -> Result<Recording, GraphError> {
    let device = Device::capture();
    let mut recording = Recording::default();
    let run = || {
        device.capture_scope(|scope| {
            let (model, data) = place(&device);
            recording.data = data;
            let mut namer = Namer::default();
            model.visit(&mut namer);
            recording.fields = namer.fields;
            recording.names = namer.names;
            let x = Tensor::<D>::empty(input, &device);
            recording.input = id(&x);
            let (Outputs(outputs), trace) = traced(reach, &device, || forward(&model, x));
            recording.marks = trace.marks;
            recording.exits = trace.exits;
            recording.outputs = outputs;
            let mut seen = HashSet::new();
            let distinct = recording.outputs.iter().flatten().copied();
            scope.complete(
                [],
                distinct.filter(|&id| seen.insert(id)).collect::<Vec<_>>(),
            )
        })
    };
    let captured = catch_unwind(AssertUnwindSafe(run))
        .map_err(|panic| GraphError::Forward {
            input: input.to_vec(),
            message: message(panic.as_ref()),
        })?
        .map_err(GraphError::Capture)?;
    let values = captured.values.iter();
    recording
        .data
        .extend(values.map(|(&id, data)| (id, Data::from_data(data))));
    recording.operations = captured.graph.operations;
    Ok(recording)
}

/// Where the children of a forward pass start and end.
#[derive(Default)]
struct Trace {
    marks: HashMap<TensorId, Option<String>>,
    exits: Vec<Exit>,
    running: Vec<String>,
}

/// Runs a forward pass with a mark among the operations wherever a child starts or ends.
fn traced<O: Into<Outputs>>(
    reach: tap::Reach,
    device: &Device,
    forward: impl FnOnce() -> O,
) -> (Outputs, Trace) {
    let trace = Rc::new(RefCell::new(Trace::default()));
    let observer = {
        let (trace, device) = (trace.clone(), device.clone());
        move |step: tap::Step<'_>| {
            let mark = id(&Tensor::<1>::empty([1], &device));
            let trace = &mut *trace.borrow_mut();
            let entered = match step {
                tap::Step::Enter(name) => {
                    trace.running.push(name.to_string());
                    Some(name.to_string())
                }
                tap::Step::Exit(output) => {
                    trace.exits.push(Exit {
                        path: trace.running.join("."),
                        output: any_id(output),
                        tokens: tokens(output),
                    });
                    trace.running.pop();
                    None
                }
            };
            trace.marks.extend(mark.map(|mark| (mark, entered)));
        }
    };
    let outputs = tap::trace(reach, observer, || forward().into());
    (outputs, trace.take())
}

/// The name of a tensor of any rank that children return.
fn any_id(tensor: &dyn Any) -> Option<TensorId> {
    fn of<const D: usize>(tensor: &dyn Any) -> Option<TensorId> {
        id(tensor.downcast_ref::<Tensor<D>>()?)
    }
    of::<4>(tensor)
        .or_else(|| of::<3>(tensor))
        .or_else(|| of::<2>(tensor))
        .or_else(|| of::<5>(tensor))
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("it panicked").to_string()
}

/// Puts tensors without values on the capture device in the place of a model's parameters, and
/// keeps the values.
struct Placeholders<'a> {
    device: &'a Device,
    data: HashMap<TensorId, Data>,
}

impl ModuleMapper for Placeholders<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (key, value, _) = param.consume();
        let placeholder = Tensor::empty(value.dims(), self.device);
        let data = id(&placeholder).map(|id| (id, Data::from_tensor(value)));
        self.data.extend(data);
        Param::initialized(key, placeholder)
    }
}

/// The paths of the tensors on the capture device.
#[derive(Default)]
struct Namer {
    path: ModulePath,
    fields: Vec<TensorId>,
    names: HashMap<TensorId, String>,
}

impl Namer {
    fn note(&mut self, tensor: Option<TensorId>) {
        self.fields.extend(tensor);
        self.names.extend(tensor.map(|id| (id, self.path.name())));
    }
}

impl ModuleVisitor for Namer {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }
    fn exit_module(&mut self, _: &str, container: &str) {
        self.path.exit(container);
    }
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.note(id(&param.val()));
    }
    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        let tensor = param.val().try_into_primitive::<Capture>();
        self.note(tensor.ok().map(|tensor| tensor.id()));
    }
    fn visit_bool<const D: usize>(&mut self, param: &Param<Tensor<D, Bool>>) {
        let tensor = param.val().try_into_primitive::<Capture>();
        self.note(tensor.ok().map(|tensor| tensor.id()));
    }
}
