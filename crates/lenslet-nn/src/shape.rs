//! Layout, joining, shuffling and resizing of feature maps.

use burn::tensor::Tensor;
use burn::tensor::module::interpolate;
use burn::tensor::ops::{InterpolateMode, InterpolateOptions};

/// `[N, C, H, W]` to `[N, H, W, C]`, a view.
pub fn to_nhwc(x: Tensor<4>) -> Tensor<4> {
    x.permute([0, 2, 3, 1])
}

/// `[N, H, W, C]` to `[N, C, H, W]`, a view.
pub fn to_nchw(x: Tensor<4>) -> Tensor<4> {
    x.permute([0, 3, 1, 2])
}

/// Flattens `[N, H, W, C]` to `[N, C * H * W]` in PyTorch's order (channel outermost), as
/// `torch.flatten(x, 1)` does before a classifier.
pub fn flatten(x: Tensor<4>) -> Tensor<2> {
    let [n, h, w, c] = x.dims();
    to_nchw(x).reshape([n, c * h * w])
}

/// Joins feature maps `[N, H, W, C_i]` along the channels.
pub fn concat(maps: Vec<Tensor<4>>) -> Tensor<4> {
    Tensor::cat(maps, 3)
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
