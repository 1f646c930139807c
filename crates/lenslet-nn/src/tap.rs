//! Looking at what inner modules return, by PyTorch's names.
//!
//! Layers and models run their children through [`tap`]. Without a recorder that costs one
//! thread-local read; inside [`record`] the path of every child is known and its output can be
//! kept. Fused units run their parts one by one then, so that each part has an output to keep.
//! [`trace`] tells which child is running.

use std::any::Any;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use burn::tensor::{Tensor, TensorData};

/// The name of a child: a field's, or a position.
#[derive(Debug, Clone, Copy)]
pub enum Name<'a> {
    /// A field or a named child.
    Field(&'a str),
    /// The position in a sequence.
    Index(usize),
}

impl<'a> From<&'a str> for Name<'a> {
    fn from(name: &'a str) -> Self {
        Name::Field(name)
    }
}

impl<'a> From<&'a String> for Name<'a> {
    fn from(name: &'a String) -> Self {
        Name::Field(name)
    }
}

impl From<usize> for Name<'_> {
    fn from(index: usize) -> Self {
        Name::Index(index)
    }
}

/// Where a forward pass is, for [`trace`].
#[derive(Debug, Clone, Copy)]
pub enum Step<'a> {
    /// The child of this name of the module that is running starts.
    Enter(&'a str),
    /// The child that started last, and has not ended yet, ends. What it returns, a `Tensor<D>`.
    Exit(&'a dyn Any),
}

/// How much of a forward pass is run for [`trace`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Everything that the model defines.
    Whole,
    /// What its result needs: see [`whole`].
    Result,
}

enum Recorder {
    /// Keeps what children return.
    Record {
        wanted: BTreeSet<String>,
        path: Vec<String>,
        found: BTreeMap<String, TensorData>,
    },
    /// Tells when children start and end.
    Trace {
        observe: Box<dyn FnMut(Step<'_>)>,
        reach: Reach,
    },
    /// Keeps what a child returns, for gradients.
    Probe {
        wanted: String,
        path: Vec<String>,
        found: Option<Box<dyn Any>>,
    },
}

/// What a module returned, and where its gradient will be.
#[derive(Debug, Clone)]
pub struct Probe<const D: usize> {
    /// The output.
    pub output: Tensor<D>,
    /// Zeros that were added to the output: their gradient is the output's.
    pub zeros: Tensor<D>,
}

impl Recorder {
    fn enter(&mut self, name: Name<'_>) {
        let index;
        let name = match name {
            Name::Field(name) => name,
            Name::Index(i) => {
                index = i.to_string();
                &index
            }
        };
        match self {
            Recorder::Record { path, .. } | Recorder::Probe { path, .. } => {
                path.push(name.to_string());
            }
            Recorder::Trace { observe, .. } => observe(Step::Enter(name)),
        }
    }

    /// Gives what the child's caller sees.
    fn exit<const D: usize>(&mut self, output: Tensor<D>) -> Tensor<D> {
        match self {
            Recorder::Record {
                wanted,
                path,
                found,
            } => {
                let name = path.join(".");
                path.pop();
                if wanted.contains(&name) {
                    found.insert(name, output.to_data());
                }
            }
            Recorder::Trace { observe, .. } => observe(Step::Exit(&output)),
            Recorder::Probe {
                wanted,
                path,
                found,
            } => {
                let here = path.join(".") == *wanted;
                path.pop();
                if here {
                    let zeros = Tensor::zeros(output.dims(), &output.device()).require_grad();
                    let output = output + zeros.clone();
                    *found = Some(Box::new(Probe {
                        output: output.clone(),
                        zeros,
                    }));
                    return output;
                }
            }
        }
        output
    }
}

thread_local! {
    static RECORDER: RefCell<Option<Recorder>> = const { RefCell::new(None) };
}

/// Whether this thread is inside [`record`] or [`trace`].
pub fn is_recording() -> bool {
    RECORDER.with_borrow(Option::is_some)
}

/// Whether somebody may look at all that inner modules return. Where it is false, a model leaves out what its result does not depend on.
pub fn whole() -> bool {
    RECORDER.with_borrow(|recorder| match recorder {
        None => false,
        Some(Recorder::Trace { reach, .. }) => *reach == Reach::Whole,
        Some(Recorder::Record { .. } | Recorder::Probe { .. }) => true,
    })
}

/// Runs `child` as the module `name` of the module that is running.
pub fn tap<'a, const D: usize>(
    name: impl Into<Name<'a>>,
    child: impl FnOnce() -> Tensor<D>,
) -> Tensor<D> {
    if !is_recording() {
        return child();
    }
    let name = name.into();
    with(|recorder| recorder.enter(name));
    let output = child();
    match RECORDER.take() {
        Some(mut recorder) => {
            let output = recorder.exit(output);
            RECORDER.set(Some(recorder));
            output
        }
        None => output,
    }
}

/// Runs `forward` and gives, beside its result, what the modules called `names` returned: feature
/// maps as `[N, H, W, C]`, tokens as `[N, L, C]`. A module that ran more than once gives its last
/// output; one that did not run is absent.
pub fn record<T>(
    names: impl IntoIterator<Item = impl Into<String>>,
    forward: impl FnOnce() -> T,
) -> (T, BTreeMap<String, TensorData>) {
    let recorder = Recorder::Record {
        wanted: names.into_iter().map(Into::into).collect(),
        path: Vec::new(),
        found: BTreeMap::new(),
    };
    match run(recorder, forward) {
        (result, Some(Recorder::Record { found, .. })) => (result, found),
        (result, _) => (result, BTreeMap::new()),
    }
}

/// Runs `forward` on an autodiff device and gives, beside its result, what the module called `name`
/// returned, to ask for gradients of it: `None` if no such module ran. What it is, is found out by
/// trying: `downcast::<Probe<4>>` for feature maps `[N, H, W, C]`, `Probe<3>` for tokens.
pub fn probe<T>(name: &str, forward: impl FnOnce() -> T) -> (T, Option<Box<dyn Any>>) {
    let recorder = Recorder::Probe {
        wanted: name.to_string(),
        path: Vec::new(),
        found: None,
    };
    match run(recorder, forward) {
        (result, Some(Recorder::Probe { found, .. })) => (result, found),
        (result, _) => (result, None),
    }
}

/// Runs `forward` and tells `observe` when its children start and end.
pub fn trace<T>(
    reach: Reach,
    observe: impl FnMut(Step<'_>) + 'static,
    forward: impl FnOnce() -> T,
) -> T {
    let observe = Box::new(observe);
    run(Recorder::Trace { observe, reach }, forward).0
}

/// Runs `forward` with a recorder, which is gone afterwards even if it panics.
fn run<T>(recorder: Recorder, forward: impl FnOnce() -> T) -> (T, Option<Recorder>) {
    struct Stop;
    impl Drop for Stop {
        fn drop(&mut self) {
            RECORDER.set(None);
        }
    }
    RECORDER.set(Some(recorder));
    let _stop = Stop;
    let result = forward();
    (result, RECORDER.take())
}

fn with(use_it: impl FnOnce(&mut Recorder)) {
    RECORDER.with_borrow_mut(|recorder| {
        if let Some(recorder) = recorder {
            use_it(recorder);
        }
    });
}
