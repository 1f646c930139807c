//! Pictures of graphs, by blocks.
//!
//! What people draw as one box is one here: a convolution with the norm and the activation that
//! follow it. Boxes of a module that joins branches (a residual block, an Inception module) stand on
//! a common ground, and equal blocks in a row are drawn once.

mod blocks;
mod boxes;
mod dot;
mod layout;
mod scene;

use lenslet_draw::Scene;

use crate::Graph;

/// How a graph is drawn.
#[derive(Debug, Clone, Default)]
pub struct DrawOptions {
    /// Written above.
    pub title: String,
    /// Modules this deep are boxes; chosen by the number of boxes if `None`.
    pub depth: Option<usize>,
}

/// What a box stands for, which its colour tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    Input,
    Conv,
    Linear,
    Pool,
    Norm,
    Activation,
    Attention,
    Join,
    Resize,
    Module,
    Other,
}

/// A box.
#[derive(Debug, Clone, PartialEq)]
struct Unit {
    look: Look,
    /// What it does: `Conv 3x3, 64, /2`.
    label: String,
    /// What follows in it, or the module's name.
    detail: String,
    /// `64 x 56 x 56`
    shape: String,
    /// The boxes that it reads.
    inputs: Vec<usize>,
    /// Its module's path.
    module: String,
    /// The ground it stands on.
    block: Option<usize>,
    /// Pixels between positions, where it is a map.
    jump: Option<f64>,
    /// What a box that is made of others was made of.
    signature: String,
}

impl Unit {
    /// Whether it is a sum or a product, drawn as a small circle.
    fn is_sign(&self) -> bool {
        self.look == Look::Join && self.label.chars().count() == 1
    }
}

/// A ground: a module's boxes.
#[derive(Debug, Clone)]
struct Block {
    name: String,
    /// How many equal ones stand in a row.
    times: usize,
}

/// Boxes in an order in which they can be computed, and their grounds.
#[derive(Debug, Clone, Default)]
struct Drawing {
    units: Vec<Unit>,
    blocks: Vec<Block>,
}

impl Graph {
    /// The graph as a picture.
    pub fn to_scene(&self, options: &DrawOptions) -> Scene {
        let drawing = boxes::drawing(self, options.depth);
        scene::draw(&drawing, &layout::arrange(&drawing), &options.title)
    }

    /// The graph as text for Graphviz.
    pub fn to_dot(&self, options: &DrawOptions) -> String {
        dot::write(&boxes::drawing(self, options.depth), &options.title)
    }
}
