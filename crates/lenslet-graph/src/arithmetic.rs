//! The arithmetic of convolutions: output sizes, parameters, multiply-accumulates, receptive
//! fields (Dumoulin and Visin, *A guide to convolution arithmetic for deep learning*, 2016;
//! Araujo, Norris and Sim, *Computing Receptive Fields of Convolutional Neural Networks*, Distill
//! 2019).

use serde::Serialize;

/// A layer that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArithmeticError {
    /// A number that must be at least 1.
    #[error("{0} must be at least 1")]
    Zero(&'static str),
    /// The kernel does not fit into the padded input.
    #[error(
        "the kernel spans {span} but the padded input only {padded}; use a larger input, more padding or a \
         smaller kernel"
    )]
    TooLarge {
        /// `dilation * (kernel - 1) + 1`
        span: usize,
        /// `input + 2 * padding`
        padded: usize,
    },
    /// Channels that the groups do not divide.
    #[error("{channels} {what} channels cannot be split into {groups} groups")]
    Groups {
        /// "input" or "output".
        what: &'static str,
        /// How many there are.
        channels: usize,
        /// Into how many parts.
        groups: usize,
    },
    /// A number beyond what 64 bits hold.
    #[error("the numbers are too large to count with")]
    Overflow,
}

/// A sliding window in one dimension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Taps.
    pub kernel: usize,
    /// Step between outputs.
    pub stride: usize,
    /// Zeros on each side.
    pub padding: usize,
    /// Distance between taps.
    pub dilation: usize,
}

impl Window {
    /// From the first tap to the last: `dilation * (kernel - 1) + 1`.
    fn span(&self) -> Result<usize, ArithmeticError> {
        for (name, value) in [
            ("the kernel", self.kernel),
            ("the stride", self.stride),
            ("the dilation", self.dilation),
        ] {
            if value == 0 {
                return Err(ArithmeticError::Zero(name));
            }
        }
        (self.kernel - 1)
            .checked_mul(self.dilation)
            .and_then(|v| v.checked_add(1))
            .ok_or(ArithmeticError::Overflow)
    }
}

/// Positions of a window over `input`: `(input + 2 * padding - span) / stride + 1`, rounded down.
///
/// # Errors
/// When the window does not fit, or a number is zero that must not be.
pub fn output_size(input: usize, window: Window) -> Result<usize, ArithmeticError> {
    let span = window.span()?;
    let padded = window
        .padding
        .checked_mul(2)
        .and_then(|p| p.checked_add(input))
        .ok_or(ArithmeticError::Overflow)?;
    if span > padded {
        return Err(ArithmeticError::TooLarge { span, padded });
    }
    Ok((padded - span) / window.stride + 1)
}

/// A convolution on a square input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conv {
    /// Height and width of the input.
    pub input: usize,
    /// The window, the same in both dimensions.
    pub window: Window,
    /// Input channels.
    pub in_channels: usize,
    /// Output channels.
    pub out_channels: usize,
    /// Channel groups.
    pub groups: usize,
    /// Whether a value per output channel is added.
    pub bias: bool,
}

/// What a layer costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ConvCost {
    /// Height and width of the output.
    pub output: usize,
    /// Weights and biases.
    pub params: u64,
    /// Multiply-accumulates for one picture; biases are not counted.
    pub macs: u64,
}

/// Output size, parameters and multiply-accumulates of a convolution.
///
/// # Errors
/// When the window does not fit or the groups do not divide the channels.
pub fn conv_cost(conv: &Conv) -> Result<ConvCost, ArithmeticError> {
    let output = output_size(conv.input, conv.window)?;
    if conv.groups == 0 {
        return Err(ArithmeticError::Zero("the number of groups"));
    }
    for (what, channels) in [("input", conv.in_channels), ("output", conv.out_channels)] {
        if channels == 0 {
            return Err(ArithmeticError::Zero("the number of channels"));
        }
        if channels % conv.groups != 0 {
            return Err(ArithmeticError::Groups {
                what,
                channels,
                groups: conv.groups,
            });
        }
    }
    let kernel = conv.window.kernel;
    let weights = product(&[
        kernel,
        kernel,
        conv.in_channels / conv.groups,
        conv.out_channels,
    ])?;
    let biases = if conv.bias {
        conv.out_channels as u64
    } else {
        0
    };
    let macs = weights
        .checked_mul(product(&[output, output])?)
        .ok_or(ArithmeticError::Overflow)?;
    Ok(ConvCost {
        output,
        params: weights + biases,
        macs,
    })
}

fn product(factors: &[usize]) -> Result<u64, ArithmeticError> {
    factors
        .iter()
        .try_fold(1u64, |p, &f| p.checked_mul(f as u64))
        .ok_or(ArithmeticError::Overflow)
}

/// A standard convolution beside a depthwise separable one (Howard et al., *MobileNets*, 2017,
/// section 3.1), both without biases and normalisation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Separable {
    /// Parameters of the standard convolution.
    pub standard: u64,
    /// Parameters of the depthwise convolution and the 1x1 after it.
    pub separable: u64,
    /// Share of the parameters, and of the multiply-accumulates, that is saved.
    pub saved: f64,
}

/// What separating a `kernel` x `kernel` convolution saves.
///
/// # Errors
/// When a number is zero or too large.
pub fn separable_cost(
    kernel: usize,
    in_channels: usize,
    out_channels: usize,
) -> Result<Separable, ArithmeticError> {
    let standard = product(&[kernel, kernel, in_channels, out_channels])?;
    if standard == 0 {
        return Err(ArithmeticError::Zero("every number"));
    }
    let separable = product(&[kernel, kernel, in_channels])?
        .checked_add(product(&[in_channels, out_channels])?)
        .ok_or(ArithmeticError::Overflow)?;
    Ok(Separable {
        standard,
        separable,
        saved: 1.0 - separable as f64 / standard as f64,
    })
}

/// The receptive field after a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct FieldStep {
    /// Pixels of the input that one output sees, in each dimension.
    pub size: usize,
    /// Pixels of the input between neighbouring outputs.
    pub jump: usize,
}

/// The receptive field after each of a stack of layers.
///
/// # Errors
/// When a kernel, stride or dilation is zero.
pub fn receptive_field(layers: &[Window]) -> Result<Vec<FieldStep>, ArithmeticError> {
    let mut field = FieldStep { size: 1, jump: 1 };
    layers
        .iter()
        .map(|layer| {
            let grown = (layer.span()? - 1)
                .checked_mul(field.jump)
                .and_then(|g| g.checked_add(field.size));
            field = FieldStep {
                size: grown.ok_or(ArithmeticError::Overflow)?,
                jump: field
                    .jump
                    .checked_mul(layer.stride)
                    .ok_or(ArithmeticError::Overflow)?,
            };
            Ok(field)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(kernel: usize, stride: usize, padding: usize) -> Window {
        Window {
            kernel,
            stride,
            padding,
            dilation: 1,
        }
    }

    fn conv(input: usize, window: Window, channels: [usize; 2], groups: usize, bias: bool) -> Conv {
        Conv {
            input,
            window,
            in_channels: channels[0],
            out_channels: channels[1],
            groups,
            bias,
        }
    }

    /// The guide's section 1: 224, 112, 112; the third is the stem of ResNet, AlexNet's first
    /// layer (11, 4, 2) gives 55.
    #[test]
    fn output_sizes_of_the_guide() {
        let cases = [
            (224, window(3, 1, 1), 224),
            (224, window(3, 2, 1), 112),
            (224, window(7, 2, 3), 112),
            (224, window(11, 4, 2), 55),
            (32, window(5, 1, 0), 28),
            (28, window(2, 2, 0), 14),
            (14, window(5, 1, 0), 10),
            (5, window(5, 1, 0), 1),
            (55, window(3, 2, 0), 27),
        ];
        for (input, window, want) in cases {
            assert_eq!(output_size(input, window), Ok(want), "{input} {window:?}");
        }
    }

    /// Conv(3 -> 64, 3x3) has 1,792 parameters.
    #[test]
    fn parameters_of_the_guide() {
        let cost = conv_cost(&conv(224, window(3, 1, 1), [3, 64], 1, true)).unwrap();
        assert_eq!((cost.params, cost.macs), (1_792, 86_704_128));
    }

    /// LeNet-5's convolutions: 156, 2,416 and 48,120 parameters.
    #[test]
    fn parameters_of_lenet() {
        let cases = [
            (32, [1, 6], 156),
            (14, [6, 16], 2_416),
            (5, [16, 120], 48_120),
        ];
        for (input, channels, params) in cases {
            let cost = conv_cost(&conv(input, window(5, 1, 0), channels, 1, true)).unwrap();
            assert_eq!(cost.params, params);
        }
    }

    /// The guide's depthwise separable comparison: 2,359,296 against 266,752, 88.7 % saved.
    #[test]
    fn separable_of_the_guide() {
        let cost = separable_cost(3, 512, 512).unwrap();
        assert_eq!((cost.standard, cost.separable), (2_359_296, 266_752));
        assert_eq!((cost.saved * 1000.0).round(), 887.0);
    }

    /// VGG's argument: two 3x3 save 28 % over one 5x5, three 45 % over one 7x7.
    #[test]
    fn stacked_small_kernels_save_what_the_guide_says() {
        let weights = |k: usize| separable_cost(k, 64, 64).unwrap().standard as f64;
        let saved = |layers: f64, k| (100.0 * (1.0 - layers * weights(3) / weights(k))).round();
        assert_eq!((saved(2.0, 5), saved(3.0, 7)), (28.0, 45.0));
    }

    /// The guide's `vgg_layers` give 16.
    #[test]
    fn receptive_field_of_the_guide() {
        let (c, p) = (window(3, 1, 1), window(2, 2, 0));
        let field = receptive_field(&[c, c, p, c, c, p]).unwrap();
        let sizes: Vec<_> = field.iter().map(|f| (f.size, f.jump)).collect();
        assert_eq!(sizes, [(3, 1), (5, 1), (6, 2), (10, 2), (14, 2), (16, 4)]);
    }

    /// VGG-16 to pool5: 212 (Araujo et al. 2019, table 1).
    #[test]
    fn receptive_field_of_vgg16() {
        let (c, p) = (window(3, 1, 1), window(2, 2, 0));
        let blocks = [2, 2, 3, 3, 3];
        let layers: Vec<_> = blocks
            .iter()
            .flat_map(|&n| std::iter::repeat_n(c, n).chain([p]))
            .collect();
        assert_eq!(
            receptive_field(&layers).unwrap().last(),
            Some(&FieldStep {
                size: 212,
                jump: 32
            })
        );
    }

    #[test]
    fn dilation_spreads_and_groups_divide() {
        let wide = Window {
            dilation: 2,
            ..window(3, 1, 0)
        };
        assert_eq!(output_size(7, wide), Ok(3));
        assert_eq!(receptive_field(&[wide]).unwrap()[0].size, 5);
        let depthwise = conv_cost(&conv(56, window(3, 1, 1), [32, 32], 32, false)).unwrap();
        assert_eq!(depthwise.params, 288);
    }

    #[test]
    fn what_cannot_be_is_said() {
        let refused = output_size(2, window(3, 1, 0)).unwrap_err();
        assert_eq!(refused, ArithmeticError::TooLarge { span: 3, padded: 2 });
        assert!(output_size(2, window(0, 1, 0)).is_err());
        assert!(output_size(2, window(1, 0, 0)).is_err());
        let odd = conv(8, window(3, 1, 1), [3, 64], 2, true);
        assert!(conv_cost(&odd).is_err());
        let huge = window(usize::MAX, 1, usize::MAX);
        assert_eq!(output_size(1, huge), Err(ArithmeticError::Overflow));
    }
}
