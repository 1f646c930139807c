//! Layout, joining, shuffling and resizing of feature maps.

use burn::tensor::Tensor;
use burn::tensor::module::interpolate;
use burn::tensor::ops::{InterpolateMode, InterpolateOptions};

use crate::cpu;

/// `[N, C, H, W]` to `[N, H, W, C]`: a view, or a copy where the CPU's kernels would make one.
pub fn to_nhwc(x: Tensor<4>) -> Tensor<4> {
    cpu::to_nhwc(&x).unwrap_or_else(|| x.permute([0, 2, 3, 1]))
}

/// `[N, H, W, C]` to `[N, C, H, W]`, a view.
pub fn to_nchw(x: Tensor<4>) -> Tensor<4> {
    x.permute([0, 3, 1, 2])
}

/// The sum of two tensors of one shape: a residual connection.
pub fn add<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> Tensor<D> {
    cpu::add(&a, &b).unwrap_or_else(|| a + b)
}

/// `x * factor + residual` on `[N, H, W, C]`, with a factor for each channel (`[1, 1, 1, C]`), each
/// image (`[N, 1, 1, 1]`), or each channel of each image (`[N, 1, 1, C]`).
pub fn scale(x: Tensor<4>, factor: Tensor<4>, residual: Option<Tensor<4>>) -> Tensor<4> {
    cpu::scale(&x, &factor, residual.as_ref()).unwrap_or_else(|| match residual {
        Some(residual) => x * factor + residual,
        None => x * factor,
    })
}

/// Flattens `[N, H, W, C]` to `[N, C * H * W]` in PyTorch's order (channel outermost), as
/// `torch.flatten(x, 1)` does before a classifier.
pub fn flatten(x: Tensor<4>) -> Tensor<2> {
    let [n, h, w, c] = x.dims();
    to_nchw(x).reshape([n, c * h * w])
}

/// Joins feature maps `[N, H, W, C_i]` along the channels.
pub fn concat(maps: Vec<Tensor<4>>) -> Tensor<4> {
    let joined = match &maps[..] {
        [a, b] => cpu::concat(a, b),
        _ => None,
    };
    joined.unwrap_or_else(|| Tensor::cat(maps, 3))
}

/// Mixes the channels of `groups` groups: channel `j` of group `i` becomes channel
/// `j * groups + i` (Zhang et al., 2018, ShuffleNet, section 3.1).
pub fn channel_shuffle(x: Tensor<4>, groups: usize) -> Tensor<4> {
    let [n, h, w, c] = x.dims();
    x.reshape([n, h, w, groups, c / groups])
        .swap_dims(3, 4)
        .reshape([n, h, w, c])
}

/// How [`resize`] fills positions between the given ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interpolation {
    /// The value at `floor(i * from / to)`.
    Nearest,
    /// Linear between the two neighbours on each axis.
    Bilinear {
        /// Whether the corners' centres stay corners.
        align_corners: bool,
    },
    /// Cubic convolution over four neighbours on each axis (`a = -0.75`).
    Bicubic {
        /// Whether the corners' centres stay corners.
        align_corners: bool,
    },
}

/// `torch.nn.functional.interpolate` of feature maps `[N, H, W, C]` to `size` rows and columns.
pub fn resize(x: Tensor<4>, size: [usize; 2], interpolation: Interpolation) -> Tensor<4> {
    use lenslet_kernels::Interpolation as Kernel;
    let kernel = match interpolation {
        Interpolation::Nearest => Some(Kernel::Nearest),
        Interpolation::Bilinear {
            align_corners: false,
        } => Some(Kernel::Bilinear),
        _ => None,
    };
    if let Some(y) = kernel.and_then(|kernel| cpu::resize(&x, size, kernel)) {
        return y;
    }
    let (mode, align_corners) = match interpolation {
        Interpolation::Nearest => (InterpolateMode::Nearest, false),
        Interpolation::Bilinear { align_corners } => (InterpolateMode::Bilinear, align_corners),
        Interpolation::Bicubic { align_corners } => (InterpolateMode::Bicubic, align_corners),
    };
    let options = InterpolateOptions::new(mode)
        .with_output_size(size)
        .with_align_corners(align_corners);
    to_nhwc(interpolate(to_nchw(x), options))
}
