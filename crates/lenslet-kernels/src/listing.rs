//! Which kernels this machine picks, for people to read.

use crate::conv::{Algorithm, Conv2d, Pass};
use crate::simd::isa;
use crate::tile::{geometry, max_rows, max_vectors};

/// A kind of work and the kernel that does it here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelChoice {
    /// What is computed.
    pub work: String,
    /// The name of the kernel: algorithm, instruction set, register tile.
    pub kernel: String,
}

/// The kernels for the instruction set in use ([`isa`](crate::simd::isa)), one for each kind of work; of convolutions, those
/// that typical layers take in training at `batch` images: forward, input gradient, weight gradient.
pub fn kernel_choices(batch: usize) -> Vec<KernelChoice> {
    let isa = isa();
    let (lanes, registers) = geometry(isa);
    let vectors = max_vectors(registers);
    let tile = format!("{isa} {}x{}", max_rows(registers, vectors), vectors * lanes);
    let choice = |work: &str, kernel: String| KernelChoice {
        work: work.to_string(),
        kernel,
    };
    let mut choices = vec![
        choice(
            "products: linear layers, 1x1 convolutions, attention",
            format!("packed panels, {tile}"),
        ),
        choice(
            "weight gradients of linear layers",
            format!("outer products, {tile}"),
        ),
        choice(
            "batch norm, activations, sums, optimiser steps",
            format!("column passes, {isa} 4x{lanes}"),
        ),
        choice(
            "layer norm, local response norm, softmax, cross entropy",
            format!("row passes, {isa} {lanes} lanes"),
        ),
        choice(
            "pooling, interpolation",
            format!("gathers, {isa} {lanes} lanes"),
        ),
    ];
    let conv = |size, c_in, c_out, k: usize| {
        Conv2d::new([batch, size, size, c_in], c_out, [k, k]).padding(k / 2)
    };
    let layers = [
        ("stem 7x7/2, 224, 3-64", conv(224, 3, 64, 7).stride(2)),
        ("5x5, 28, 1-6", conv(28, 1, 6, 5)),
        ("3x3, 224, 64-64", conv(224, 64, 64, 3)),
        ("3x3, 56, 64-64", conv(56, 64, 64, 3)),
        ("3x3, 14, 256-256", conv(14, 256, 256, 3)),
        ("3x3, 7, 512-512", conv(7, 512, 512, 3)),
        ("3x3/2, 56, 128-128", conv(56, 128, 128, 3).stride(2)),
        (
            "3x3, 14, 512-512, 32 groups",
            conv(14, 512, 512, 3).groups(32),
        ),
        ("1x1, 14, 256-1024", conv(14, 256, 1024, 1)),
        ("depthwise 3x3, 56, 144", conv(56, 144, 144, 3).groups(144)),
        ("depthwise 5x5, 14, 480", conv(14, 480, 480, 5).groups(480)),
        ("depthwise 7x7, 14, 384", conv(14, 384, 384, 7).groups(384)),
    ];
    for (name, shape) in layers {
        let names = [
            Algorithm::choose_repacked(&shape, Pass::Forward),
            Algorithm::choose_repacked(&shape, Pass::InputGradient),
            Algorithm::choose_weight_gradient(&shape),
        ];
        let names = names.map(Algorithm::name);
        choices.push(choice(
            &format!("convolution {name}"),
            format!("{}, {isa}", names.join(" / ")),
        ));
    }
    choices
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::with_each_isa;

    #[test]
    fn every_kind_of_work_has_a_kernel_of_the_set_in_use() {
        with_each_isa(|isa| {
            let choices = kernel_choices(8);
            assert!(choices.iter().all(|c| c.kernel.contains(isa.name())));
            let work: std::collections::HashSet<_> = choices.iter().map(|c| &c.work).collect();
            assert_eq!(work.len(), choices.len());
        });
    }
}
