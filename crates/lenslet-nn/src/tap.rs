//! Looking at what inner modules return, by PyTorch's names.
//!
//! Layers and models run their children through [`tap`]. Without a recorder that costs one
//! thread-local read; inside [`record`] the path of every child is known and its output can be
//! kept. Fused units run their parts one by one then, so that each part has an output to keep.

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

#[derive(Default)]
struct Recorder {
    wanted: BTreeSet<String>,
    path: Vec<String>,
    found: BTreeMap<String, TensorData>,
}

thread_local! {
    static RECORDER: RefCell<Option<Recorder>> = const { RefCell::new(None) };
}

/// Whether this thread is inside [`record`].
pub fn is_recording() -> bool {
    RECORDER.with_borrow(Option::is_some)
}

/// Runs `child` as the module `name` of the module that is running.
pub fn tap<'a, const D: usize>(
    name: impl Into<Name<'a>>,
    child: impl FnOnce() -> Tensor<D>,
) -> Tensor<D> {
    if !is_recording() {
        return child();
    }
    let name = match name.into() {
        Name::Field(name) => name.to_string(),
        Name::Index(index) => index.to_string(),
    };
    with(|recorder| recorder.path.push(name));
    let output = child();
    with(|recorder| {
        let path = recorder.path.join(".");
        recorder.path.pop();
        if recorder.wanted.contains(&path) {
            recorder.found.insert(path, output.to_data());
        }
    });
    output
}

/// Runs `forward` and gives, beside its result, what the modules called `names` returned: feature
/// maps as `[N, H, W, C]`, tokens as `[N, L, C]`. A module that ran more than once gives its last
/// output; one that did not run is absent.
pub fn record<T>(
    names: impl IntoIterator<Item = impl Into<String>>,
    forward: impl FnOnce() -> T,
) -> (T, BTreeMap<String, TensorData>) {
    struct Stop;
    impl Drop for Stop {
        fn drop(&mut self) {
            RECORDER.set(None);
        }
    }
    RECORDER.set(Some(Recorder {
        wanted: names.into_iter().map(Into::into).collect(),
        ..Recorder::default()
    }));
    let stop = Stop;
    let result = forward();
    let found = with(|recorder| std::mem::take(&mut recorder.found));
    drop(stop);
    (result, found.unwrap_or_default())
}

fn with<T>(use_it: impl FnOnce(&mut Recorder) -> T) -> Option<T> {
    RECORDER.with_borrow_mut(|recorder| recorder.as_mut().map(use_it))
}
