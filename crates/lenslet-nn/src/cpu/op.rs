//! An operation with a hand-written gradient on Burn's CPU backend.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt::Debug;

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::{FlexTensor, Layout};
use burn::backend::{Autodiff, AutodiffBackend, Flex};
use burn::tensor::{Bytes, DType, Shape, Tensor};
use lenslet_kernels::{Activation, InOut, add_forward};

use super::recycle::Space;
use crate::timing::{Label, Way, timed};

/// Burn's CPU backend with gradients, without checkpointing.
type Tracking = Autodiff<Flex, NoCheckpointing>;
type Tracked = <Tracking as burn::backend::BackendTypes>::FloatTensorPrimitive;

/// An operation of `N` inputs and one output that gradients flow through.
pub(crate) trait CpuOp<const N: usize>: Clone + Debug + Send + 'static {
    /// What the backward pass needs from the forward pass.
    type Saved: Clone + Debug + Send + 'static;
    /// What the forward pass gives beside its output, without gradient.
    type Extra;

    /// Whether the operation times the parts of its backward pass itself.
    const TIMES_PARTS: bool = false;

    /// The name in a table of times.
    fn label(&self) -> Label;

    /// The output, and what to keep of the computation. The inputs are contiguous.
    fn forward(&self, inputs: [Values; N]) -> (Values, Self::Saved, Self::Extra);

    /// The gradients of those inputs that `wanted` names, given the output's.
    fn backward(
        &self,
        saved: Self::Saved,
        gradient: Values,
        wanted: [bool; N],
    ) -> [Option<Values>; N];

    /// As [`CpuOp::backward`], where gradients of the inputs that came another way are there already: what an operation
    /// adds to its own, it takes; the others are added afterwards.
    fn backward_onto(
        &self,
        saved: Self::Saved,
        gradient: Values,
        wanted: [bool; N],
        _others: &mut [Option<Values>; N],
    ) -> [Option<Values>; N] {
        self.backward(saved, gradient, wanted)
    }
}

/// A contiguous tensor of 32-bit numbers, shared.
#[derive(Debug, Clone)]
pub(crate) struct Values(FlexTensor);

impl Values {
    /// Takes a vector as a tensor.
    pub fn new(values: Vec<f32>, shape: &[usize]) -> Self {
        Self::of(Bytes::from_elems(values), shape)
    }

    /// Takes numbers as a tensor.
    pub fn filled(space: Space, shape: &[usize]) -> Self {
        Self::of(space.into_bytes(), shape)
    }

    fn of(bytes: Bytes, shape: &[usize]) -> Self {
        let shape = Shape::from(shape.to_vec());
        debug_assert_eq!(shape.num_elements() * size_of::<f32>(), bytes.len());
        let layout = Layout::contiguous(shape);
        Self(FlexTensor::new(bytes, layout, DType::F32))
    }

    /// A new tensor that `write` fills whole; what it finds there means nothing.
    pub fn written(shape: &[usize], write: impl FnOnce(&mut [f32])) -> Self {
        let mut space = Space::new(shape.iter().product());
        write(&mut space);
        Self::filled(space, shape)
    }

    /// What `change` makes of these numbers: in the same memory where nobody else has a share in
    /// it, else in new memory.
    pub fn overwritten(mut self, shape: &[usize], change: impl FnOnce(InOut<'_>)) -> Self {
        if let Some(own) = self.own() {
            change(InOut::InPlace(own));
            return self;
        }
        Self::written(shape, |new| change(InOut::Separate(self.data(), new)))
    }

    /// The numbers to change in place; after a copy where somebody else has a share in them.
    pub fn data_mut(&mut self) -> &mut [f32] {
        if self.own().is_none() {
            let shape = self.shape().to_vec();
            *self = Self::written(&shape, |new| new.copy_from_slice(self.data()));
        }
        self.own().expect("nobody else has a share in a copy")
    }

    /// The numbers, where nobody else has a share in them.
    fn own(&mut self) -> Option<&mut [f32]> {
        let (start, end) = self.0.layout().contiguous_offsets()?;
        Some(&mut self.0.try_storage_mut::<f32>()?[start..end])
    }

    pub fn contiguous(tensor: FlexTensor) -> Self {
        if tensor.is_contiguous() {
            Self(tensor)
        } else {
            Self(tensor.to_contiguous())
        }
    }

    pub fn shape(&self) -> &[usize] {
        self.0.layout().shape()
    }

    /// The numbers, in the order of the dimensions.
    pub fn data(&self) -> &[f32] {
        self.0
            .as_slice()
            .expect("made contiguous, of 32-bit numbers, when it came in")
    }

    /// The tensor as the backend holds it.
    pub fn into_tensor(self) -> FlexTensor {
        self.0
    }
}

/// The label of an operation that memory limits.
pub(crate) fn label(operation: &'static str, shape: &[usize]) -> Label {
    Label {
        operation,
        detail: format!("{shape:?}"),
        macs: 0,
    }
}

/// An input as the backend holds it.
pub(crate) enum Input {
    Plain(FlexTensor),
    Tracked(Tracked),
}

/// The tensor as this backend holds it; `None` for another device, type of number or strategy.
pub(crate) fn input<const D: usize>(tensor: &Tensor<D>) -> Option<Input> {
    if tensor.dtype() != DType::F32 {
        return None;
    }
    let tensor = tensor.clone();
    if tensor.is_autodiff() {
        let tracked = tensor.try_into_primitive::<Tracking>().ok()?;
        Some(Input::Tracked(tracked))
    } else {
        Some(Input::Plain(tensor.try_into_primitive::<Flex>().ok()?))
    }
}

/// Runs an operation, recording it for the backward pass where an input asks for that.
pub(crate) fn run<O: CpuOp<N>, const N: usize, const D: usize>(
    op: O,
    inputs: [Input; N],
) -> (Tensor<D>, O::Extra) {
    if inputs.iter().all(|i| matches!(i, Input::Plain(_))) {
        let values = inputs.map(|input| match input {
            Input::Plain(tensor) => Values::contiguous(tensor),
            Input::Tracked(tensor) => Values::contiguous(tensor.into_primitive()),
        });
        let (output, _, extra) = timed(|| op.label(), Way::Forward, || op.forward(values));
        return (Tensor::from_primitive::<Flex>(output.into_tensor()), extra);
    }
    let tracked = inputs.map(|input| match input {
        Input::Plain(tensor) => <Tracking as AutodiffBackend>::from_inner(tensor),
        Input::Tracked(tensor) => tensor,
    });
    let nodes = tracked.each_ref().map(|tensor| tensor.node());
    let values = tracked.map(|tensor| Values::contiguous(tensor.into_primitive()));
    let (output, saved, extra) = timed(|| op.label(), Way::Forward, || op.forward(values));
    let step = Step::<O, N>(std::marker::PhantomData);
    let prepared = step
        .prepare::<NoCheckpointing>(nodes)
        .compute_bound()
        .stateful();
    let output = match prepared {
        OpsKind::Tracked(prepared) => prepared.finish((op, saved), output.into_tensor()),
        OpsKind::UnTracked(prepared) => prepared.finish(output.into_tensor()),
    };
    (Tensor::from_primitive::<Tracking>(output), extra)
}

/// The step of the backward pass that belongs to an operation.
struct Step<O, const N: usize>(std::marker::PhantomData<fn() -> O>);

impl<O, const N: usize> Debug for Step<O, N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(std::any::type_name::<O>())
    }
}

impl<O: CpuOp<N>, const N: usize> Backward<Flex, N> for Step<O, N> {
    type State = (O, O::Saved);

    fn backward(self, ops: Ops<Self::State, N>, gradients: &mut Gradients, _: &mut Checkpointer) {
        REGISTERED.with_borrow_mut(|nodes| nodes.remove(&ops.node.id));
        let gradient = Values::contiguous(gradients.consume::<Flex>(&ops.node));
        let (op, saved) = ops.state;
        let wanted = ops.parents.each_ref().map(Option::is_some);
        let mut others = ops.parents.each_ref().map(|parent| {
            let parent = parent.as_ref()?;
            registered(parent.id, || gradients.consume::<Flex>(parent))
        });
        let run = || op.backward_onto(saved, gradient, wanted, &mut others);
        let found = if O::TIMES_PARTS {
            run()
        } else {
            timed(|| op.label(), Way::Backward, run)
        };
        for ((parent, gradient), other) in ops.parents.into_iter().zip(found).zip(others) {
            let Some(parent) = parent else { continue };
            let Some(sum) = sum(gradient, other) else {
                continue;
            };
            let before = registered(parent.id, || gradients.consume::<Flex>(&parent));
            let sum = match before {
                // The same tensor is an input twice.
                Some(other) => add(sum, other),
                None => sum,
            };
            gradients.register::<Flex>(parent.id, sum.into_tensor());
            // A leaf's gradient is not consumed but stays.
            if !parent.parents.is_empty() {
                REGISTERED.with_borrow_mut(|nodes| {
                    if nodes.len() >= MOST_REGISTERED {
                        nodes.clear();
                    }
                    nodes.insert(parent.id);
                });
            }
        }
    }
}

/// Nodes that are remembered at most; where one is forgotten, the backend adds its gradients.
const MOST_REGISTERED: usize = 4096;

thread_local! {
    /// Nodes that have a gradient which no step has consumed yet, as far as operations of this module registered it.
    static REGISTERED: RefCell<HashSet<NodeId>> = RefCell::default();
}

/// Takes out the gradient that a node has got so far. (The backend would add the next one to it by operations of its own.)
fn registered(node: NodeId, consume: impl FnOnce() -> FlexTensor) -> Option<Values> {
    let there = REGISTERED.with_borrow_mut(|nodes| nodes.remove(&node));
    there.then(|| Values::contiguous(consume()))
}

fn sum(a: Option<Values>, b: Option<Values>) -> Option<Values> {
    match (a, b) {
        (Some(a), Some(b)) => Some(add(a, b)),
        (a, b) => a.or(b),
    }
}

/// The sum, in the memory of one of the two where nobody else has a share in it.
fn add(mut a: Values, mut b: Values) -> Values {
    if a.own().is_none() && b.own().is_some() {
        std::mem::swap(&mut a, &mut b);
    }
    let shape = a.0.layout().shape().to_vec();
    let label = || label("sum of gradients", &shape);
    timed(label, Way::Backward, || {
        a.overwritten(&shape, |a| {
            add_forward(Activation::None, a, b.data()).expect(super::CHECKED);
        })
    })
}
