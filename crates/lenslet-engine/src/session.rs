//! Compiling a model, and running what came out.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use burn::module::Module;
use burn::tensor::Tensor;
use lenslet_graph::{Field, Graph, Outputs};
use lenslet_kernels::AlignedBuf;

use crate::EngineError;
use crate::fuse::{Fusions, fuse};
use crate::passes::{PassInfo, Tally};
use crate::plan::{Plan, plan};
use crate::run::{Failure, Fixed, Workspace};
use crate::view::{Place, View, copy};

/// How a model is compiled.
#[derive(Debug, Clone)]
pub struct Options {
    /// Whether sums are made as they are defined: no Winograd transforms, whose rounding errors
    /// are a few times larger.
    pub exact: bool,
    /// Whether batch norms, factors and summands after a layer go into its weights.
    pub fuse_norms: bool,
    /// Whether activations are applied before a result is written.
    pub fuse_activations: bool,
    /// Whether a residual is added before a result is written.
    pub fuse_residuals: bool,
    /// Whether the factors of squeeze-and-excitation go into the weights of the convolution behind them.
    pub fuse_gates: bool,
    /// Whether layers write straight into the concatenation that joins them.
    pub concat_in_place: bool,
    /// Whether depthwise convolutions write the means of their rows for the average over the map.
    pub row_means: bool,
    /// A depthwise convolution is computed strip by strip together with the 1 x 1 convolutions beside it where the map that it reads
    /// has so many bytes, in all images, and work for some threads; always if this is 0. Else, unless it is `usize::MAX`, one on a small
    /// map is computed by panels of channels with the convolution before it.
    pub strips_from: usize,
}

impl Default for Options {
    /// Everything that is fast.
    fn default() -> Self {
        Self {
            exact: false,
            fuse_norms: true,
            fuse_activations: true,
            fuse_residuals: true,
            fuse_gates: true,
            concat_in_place: true,
            row_means: true,
            // A map of 28 x 28 pixels and 192 channels was faster in strips, on processors whose second cache level has 2 MB a core.
            strips_from: 512 << 10,
        }
    }
}

impl Options {
    /// Leaves out a pass, by its name in [`PassInfo`]: for finding out what it is worth. Says whether it is one that can be left out.
    pub fn leave_out(&mut self, pass: &str) -> bool {
        let flag = match pass {
            "fold-norms" => &mut self.fuse_norms,
            "fuse-activations" => &mut self.fuse_activations,
            "fuse-residuals" => &mut self.fuse_residuals,
            "fuse-gates" => &mut self.fuse_gates,
            "concat-in-place" => &mut self.concat_in_place,
            "row-means" => &mut self.row_means,
            "strips" => {
                self.strips_from = usize::MAX;
                return true;
            }
            _ => return false,
        };
        *flag = false;
        true
    }
}

/// Compiles models.
#[derive(Debug)]
pub struct Engine;

impl Engine {
    /// Compiles a model for inputs of shape `[N, …]`. A session takes any number of images, `N` at
    /// a time; another size of images needs another session, for which a graph that is there need
    /// not be captured again ([`Graph::resized`]).
    ///
    /// # Errors
    ///
    /// When the model cannot be captured, or a kernel refuses a node's shape.
    pub fn compile<M: Module, O: Into<Outputs>, const D: usize>(
        model: &M,
        input: [usize; D],
        options: &Options,
        forward: impl FnOnce(&M, Tensor<D>) -> O,
    ) -> Result<Session, EngineError> {
        Self::compile_graph(Graph::capture_result(model, input, forward)?, options)
    }

    /// Compiles a captured graph with one input. The memory of a weight goes back as soon as it is packed, if nobody else holds it: drop
    /// the model first.
    ///
    /// # Errors
    ///
    /// When a kernel refuses a node's shape.
    pub fn compile_graph(mut graph: Graph, options: &Options) -> Result<Session, EngineError> {
        let fusions = Fusions {
            norms: options.fuse_norms,
            activations: options.fuse_activations,
            residuals: options.fuse_residuals,
            gates: options.fuse_gates,
        };
        let mut tally = Tally::default();
        let layers = fuse(&graph, fusions, &mut tally)?;
        let input = graph.value(graph.inputs()[0]).shape.clone();
        let plan = plan(&mut graph, layers, options, &mut tally)?;
        Ok(Session {
            input,
            graph: plan.needs_graph.then_some(graph),
            plan,
            tally,
            idle: Mutex::new(Vec::new()),
        })
    }
}

/// A compiled model. Any number of threads can run it at once.
#[derive(Debug)]
pub struct Session {
    /// Shape of the input, the number of images first.
    input: Vec<usize>,
    plan: Plan,
    tally: Tally,
    /// For nodes that have no kernel.
    graph: Option<Graph>,
    /// Memory of runs that are over.
    idle: Mutex<Vec<Workspace>>,
}

/// What a step of a session does.
#[derive(Debug, Clone)]
pub struct StepInfo {
    /// The node that it starts with.
    pub name: String,
    /// The kernel.
    pub kernel: &'static str,
    /// When it is taken.
    pub rule: &'static str,
    /// Rows and columns of what it writes.
    pub output: [usize; 2],
    /// The numbers it holds: weights, summands and factors, norms folded in.
    pub params: usize,
    /// What a position of its layer's output depends on.
    pub field: Field,
    /// Multiply-accumulates of the definition, whatever the kernel saves.
    pub macs: usize,
    /// Bytes of what it reads and writes, each counted once, weights included.
    pub bytes: usize,
}

impl Session {
    /// The output's numbers for any number of images, in row-major order, image after image.
    ///
    /// # Errors
    ///
    /// When the numbers are no whole number of images, or an index in the model points outside.
    pub fn run(&self, input: &[f32]) -> Result<Vec<f32>, EngineError> {
        let mut output = Vec::new();
        self.run_into(input, &mut output)?;
        Ok(output)
    }

    /// The same into a vector that may have memory already; after the first call, with a vector
    /// that is large enough, nothing is allocated, except by depthwise convolutions and average
    /// pooling over windows (some small vectors), by a last batch that is not full, and by steps
    /// whose kernel is `reference`.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    pub fn run_into(&self, input: &[f32], output: &mut Vec<f32>) -> Result<(), EngineError> {
        self.run_timed(input, output, &mut |_, _| ())
    }

    /// The same, telling `observe` how long every step took, in the order of
    /// [`steps`](Self::steps).
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    pub fn run_timed(
        &self,
        input: &[f32],
        output: &mut Vec<f32>,
        observe: &mut dyn FnMut(usize, Duration),
    ) -> Result<(), EngineError> {
        let image: usize = self.input[1..].iter().product();
        if image == 0 || !input.len().is_multiple_of(image) {
            return Err(EngineError::Input {
                expected: self.input[1..].to_vec(),
                found: input.len(),
            });
        }
        let mut workspace = self.workspace();
        output.clear();
        let batch = self.input[0];
        let mut result = Ok(());
        for images in input.chunks(batch * image) {
            let given = images.len() / image;
            if given < batch {
                // The rest of the batch is empty images, whose output nobody sees.
                let mut padded = images.to_vec();
                padded.resize(batch * image, 0.0);
                result = self.batch(&padded, given, &mut workspace, output, observe);
            } else {
                result = self.batch(images, given, &mut workspace, output, observe);
            }
            if result.is_err() {
                break;
            }
        }
        (self.idle.lock().unwrap_or_else(|e| e.into_inner())).push(workspace);
        result
    }

    fn workspace(&self) -> Workspace {
        let idle = self.idle.lock().unwrap_or_else(|e| e.into_inner()).pop();
        idle.unwrap_or_else(|| {
            let mut workspace = Workspace::default();
            let slots = self.plan.slots.iter().map(|&len| AlignedBuf::zeroed(len));
            workspace.slots = slots.collect();
            workspace
        })
    }

    /// One batch of the compiled size, of which the first `given` images count.
    fn batch(
        &self,
        input: &[f32],
        given: usize,
        workspace: &mut Workspace,
        output: &mut Vec<f32>,
        observe: &mut dyn FnMut(usize, Duration),
    ) -> Result<(), EngineError> {
        let fixed = Fixed {
            input,
            constants: &self.plan.constants,
            graph: self.graph.as_ref(),
        };
        for (i, step) in self.plan.steps.iter().enumerate() {
            let start = Instant::now();
            step.run(fixed, workspace)
                .map_err(|failure| match failure {
                    Failure::Kernel(source) => EngineError::Kernel {
                        node: step.name.clone(),
                        source,
                    },
                    Failure::Graph(error) => error.into(),
                })?;
            observe(i, start.elapsed());
        }
        for view in &self.plan.outputs {
            let len = view.len() / self.input[0].max(1) * given;
            let source: &[f32] = match view.place {
                Place::Input(_) => input,
                Place::Constant(i) => &self.plan.constants[i],
                Place::Buffer(i) => &workspace.slots[i],
            };
            let start = output.len();
            if view.is_row_major() {
                output.extend_from_slice(&source[view.offset..][..len]);
            } else {
                output.resize(start + view.len(), 0.0);
                let to = View::dense(Place::Buffer(0), &view.shape);
                copy(view, source, &to, &mut output[start..]);
                output.truncate(start + len);
            }
        }
        Ok(())
    }

    /// Shape of the input, the number of images that are computed together first.
    pub fn input(&self) -> &[usize] {
        &self.input
    }

    /// What compiling changed in the model's graph.
    pub fn passes(&self) -> Vec<PassInfo> {
        self.tally.list()
    }

    /// The steps of a run.
    pub fn steps(&self) -> Vec<StepInfo> {
        let info = |step: &crate::step::Step| StepInfo {
            name: step.name.clone(),
            kernel: step.call.kernel(),
            rule: step.call.rule(),
            output: [step.to.rows, step.to.cols],
            params: step.call.weights(),
            field: step.field.clone(),
            macs: step.call.macs(),
            bytes: (step.call.numbers_read() + step.to.rows * step.to.cols) * size_of::<f32>(),
        };
        self.plan.steps.iter().map(info).collect()
    }

    /// Bytes of memory that one run takes, weights aside.
    pub fn workspace_bytes(&self) -> usize {
        self.plan.slots.iter().sum::<usize>() * size_of::<f32>()
    }
}
