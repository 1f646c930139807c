//! A model's tensors by PyTorch's names: reading them out, loading them strictly.

use std::collections::HashMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Int, Tensor, TensorData};

/// A model's tensors by name, in the order of its fields (`torch.nn.Module.state_dict`).
pub type StateDict = Vec<(String, TensorData)>;

/// The counter that PyTorch keeps beside a batch norm's running statistics.
const COUNTER: &str = "num_batches_tracked";

/// Why weights did not fit a model. Nothing was loaded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadError {
    /// Tensors of the model that the weights lack.
    pub missing: Vec<String>,
    /// Tensors of the weights that the model lacks.
    pub unexpected: Vec<String>,
    /// Tensors of another shape: name, the model's, the weights'.
    pub misshapen: Vec<(String, Vec<usize>, Vec<usize>)>,
}

impl std::error::Error for LoadError {}

impl std::fmt::Display for LoadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (missing, extra, shape) = (
            self.missing.len(),
            self.unexpected.len(),
            self.misshapen.len(),
        );
        write!(
            f,
            "the weights do not fit the model: {missing} tensors missing, {extra} unexpected, \
             {shape} of another shape"
        )?;
        for name in self.missing.iter().take(SHOWN) {
            write!(f, "\n  missing     {name}")?;
            if let Some(near) = nearest(name, &self.unexpected) {
                write!(f, "  (the weights have {near})")?;
            }
        }
        for name in self.unexpected.iter().take(SHOWN) {
            write!(f, "\n  unexpected  {name}")?;
        }
        for (name, model, weights) in self.misshapen.iter().take(SHOWN) {
            write!(
                f,
                "\n  shape       {name}: the model has {model:?}, the weights {weights:?}"
            )?;
        }
        let hidden: usize = [missing, extra, shape]
            .iter()
            .map(|n| n.saturating_sub(SHOWN))
            .sum();
        if hidden > 0 {
            write!(f, "\n  … and {hidden} more")?;
        }
        Ok(())
    }
}

/// Tensors of each kind that an error's text names.
const SHOWN: usize = 8;

fn nearest<'a>(name: &str, among: &'a [String]) -> Option<&'a str> {
    let score = |other: &str| strsim::normalized_damerau_levenshtein(name, other);
    let best = among
        .iter()
        .max_by(|a, b| score(a).total_cmp(&score(b)))
        .filter(|best| score(best) > 0.6)?;
    Some(best)
}

/// The path of the field that a traversal is at, as PyTorch would name it. The variants of an
/// enum of layers are no part of it.
#[derive(Debug, Clone, Default)]
pub struct ModulePath(Vec<String>);

impl ModulePath {
    /// To be called from `enter_module`.
    pub fn enter(&mut self, name: &str, container: &str) {
        if !container.starts_with("Enum:") {
            self.0.push(name.to_string());
        }
    }

    /// To be called from `exit_module`.
    pub fn exit(&mut self, container: &str) {
        if !container.starts_with("Enum:") {
            self.0.pop();
        }
    }

    /// The dotted name, `features.0.weight`.
    pub fn name(&self) -> String {
        self.0.join(".")
    }
}

/// Whether a tensor of this name is a buffer (running statistics, a computed table of indices),
/// not a trained parameter.
pub fn is_buffer(name: &str) -> bool {
    let field = name.rsplit('.').next().unwrap_or(name);
    matches!(
        field,
        "running_mean" | "running_var" | "relative_position_index" | COUNTER
    )
}

/// Reads every tensor of a model, buffers included.
pub fn state_dict<M: Module>(model: &M) -> StateDict {
    let mut reader = Reader::default();
    model.visit(&mut reader);
    reader.tensors
}

/// Names and shapes of a model's tensors in the order of its fields, batch norm's counters apart.
/// Nothing is computed: tensors that have no values yet do not get any.
pub fn tensor_shapes<M: Module>(model: &M) -> Vec<(String, Vec<usize>)> {
    let mut shapes = Shapes::default();
    model.visit(&mut shapes);
    shapes.shapes
}

/// Values in the model's trained parameters.
pub fn num_params<M: Module>(model: &M) -> usize {
    tensor_shapes(model)
        .iter()
        .filter(|(name, _)| !is_buffer(name))
        .map(|(_, shape)| shape.iter().product::<usize>())
        .sum()
}

/// Puts `tensors` into the model: all or nothing. Tensors of integers are tables that the model
/// computes for itself; theirs are kept, only names and shapes are compared.
///
/// # Errors
/// When a tensor is missing, unexpected or of another shape; the model is given back unchanged
/// in that case only by not having been touched: pass a clone to keep it.
pub fn load_state_dict<M: Module>(model: M, tensors: StateDict) -> Result<M, LoadError> {
    let shapes = tensor_shapes(&model);
    let mut tensors: HashMap<String, TensorData> = tensors.into_iter().collect();
    let mut error = LoadError::default();
    for (name, shape) in &shapes {
        match tensors.get(name) {
            None => error.missing.push(name.clone()),
            Some(data) if data.shape().to_vec() != *shape => {
                error
                    .misshapen
                    .push((name.clone(), shape.clone(), data.shape().to_vec()));
            }
            Some(_) => {}
        }
        if let Some(norm) = name.strip_suffix("running_var") {
            tensors.remove(&format!("{norm}{COUNTER}"));
        }
    }
    let known: std::collections::HashSet<&String> = shapes.iter().map(|(name, _)| name).collect();
    error.unexpected = tensors
        .keys()
        .filter(|name| !known.contains(name))
        .cloned()
        .collect();
    error.unexpected.sort();
    if error != LoadError::default() {
        return Err(error);
    }
    Ok(model.map(&mut Loader {
        path: ModulePath::default(),
        tensors,
    }))
}

#[derive(Default)]
struct Reader {
    path: ModulePath,
    tensors: StateDict,
}

impl ModuleVisitor for Reader {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }
    fn exit_module(&mut self, _: &str, container: &str) {
        self.path.exit(container);
    }
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let name = self.path.name();
        let counter = name
            .strip_suffix("running_var")
            .map(|norm| format!("{norm}{COUNTER}"));
        self.tensors.push((name, param.val().into_data()));
        if let Some(counter) = counter {
            let zero = TensorData::new(vec![0i64], Vec::<usize>::new());
            self.tensors.push((counter, zero));
        }
    }
    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        let data = param.val().into_data().convert::<i64>();
        self.tensors.push((self.path.name(), data));
    }
}

#[derive(Default)]
struct Shapes {
    path: ModulePath,
    shapes: Vec<(String, Vec<usize>)>,
}

impl ModuleVisitor for Shapes {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }
    fn exit_module(&mut self, _: &str, container: &str) {
        self.path.exit(container);
    }
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.shapes
            .push((self.path.name(), param.lazy_shape().to_vec()));
    }
    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        self.shapes
            .push((self.path.name(), param.lazy_shape().to_vec()));
    }
}

struct Loader {
    path: ModulePath,
    tensors: HashMap<String, TensorData>,
}

impl ModuleMapper for Loader {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }
    fn exit_module(&mut self, _: &str, container: &str) {
        self.path.exit(container);
    }
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(data) = self.tensors.remove(&self.path.name()) else {
            return param;
        };
        let tensor = Tensor::from_data(data, &param.lazy_device());
        let id = param.id;
        param.transform_for_load(tensor, id)
    }
}
