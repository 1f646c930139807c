//! Pooling.

use burn::tensor::Tensor;
use lenslet_kernels::{AdaptiveAveragePool2d, AveragePool2d, MaxPool2d, Pool2d};

use super::CHECKED;
use super::op::{CpuOp, Values, input, label, run};
use crate::timing::Label;

/// The largest of each window of `[N, H, W, C]`.
pub(crate) fn max_pool2d(x: &Tensor<4>, windows: Pool2d) -> Option<Tensor<4>> {
    // First of all: elsewhere, the shape need not make sense.
    let input = input(x)?;
    let pool = MaxPool2d::new(windows);
    let size = pool.output_size().ok()?;
    let (y, ()) = run(Max(pool, output(x, size)), [input]);
    Some(y)
}

/// The average of each window of `[N, H, W, C]`.
pub(crate) fn avg_pool2d(
    x: &Tensor<4>,
    windows: Pool2d,
    count_include_pad: bool,
) -> Option<Tensor<4>> {
    let input = input(x)?;
    let pool = AveragePool2d {
        windows,
        count_include_pad,
    };
    let size = pool.output_size().ok()?;
    let op = Average(Averages::Windows(pool), x.dims(), output(x, size));
    let (y, ()) = run(op, [input]);
    Some(y)
}

/// `[N, H, W, C]` to `[N, size[0], size[1], C]`, every output the average of its part.
pub(crate) fn adaptive_avg_pool2d(x: &Tensor<4>, size: [usize; 2]) -> Option<Tensor<4>> {
    if size.contains(&0) || x.dims()[1..3].contains(&0) {
        return None;
    }
    let pool = Averages::Adaptive(AdaptiveAveragePool2d {
        input: x.dims(),
        output: size,
    });
    let (y, ()) = run(Average(pool, x.dims(), output(x, size)), [input(x)?]);
    Some(y)
}

fn output(x: &Tensor<4>, [h, w]: [usize; 2]) -> [usize; 4] {
    let [n, _, _, c] = x.dims();
    [n, h, w, c]
}

/// Windows and the output's shape.
#[derive(Debug, Clone)]
struct Max(MaxPool2d, [usize; 4]);

impl CpuOp<1> for Max {
    /// Which of its window each output is.
    type Saved = Vec<u16>;
    type Extra = ();

    fn label(&self) -> Label {
        label("max pool", &self.0.windows.input)
    }

    fn forward(&self, [x]: [Values; 1]) -> (Values, Vec<u16>, ()) {
        let mut taps = vec![0; self.1.iter().product()];
        let y = Values::written(&self.1, |y| {
            self.0.forward(x.data(), y, Some(&mut taps)).expect(CHECKED);
        });
        (y, taps, ())
    }

    fn backward(&self, taps: Vec<u16>, dy: Values, _: [bool; 1]) -> [Option<Values>; 1] {
        let dx = Values::written(&self.0.windows.input, |dx| {
            self.0.backward(dy.data(), &taps, dx).expect(CHECKED);
        });
        [Some(dx)]
    }
}

#[derive(Debug, Clone, Copy)]
enum Averages {
    Windows(AveragePool2d),
    Adaptive(AdaptiveAveragePool2d),
}

/// Windows, and the shapes of input and output.
#[derive(Debug, Clone)]
struct Average(Averages, [usize; 4], [usize; 4]);

impl CpuOp<1> for Average {
    type Saved = ();
    type Extra = ();

    fn label(&self) -> Label {
        label("average pool", &self.1)
    }

    fn forward(&self, [x]: [Values; 1]) -> (Values, (), ()) {
        let y = Values::written(&self.2, |y| {
            let done = match self.0 {
                Averages::Windows(pool) => pool.forward(x.data(), y),
                Averages::Adaptive(pool) => pool.forward(x.data(), y),
            };
            done.expect(CHECKED);
        });
        (y, (), ())
    }

    fn backward(&self, (): (), dy: Values, _: [bool; 1]) -> [Option<Values>; 1] {
        let dx = Values::written(&self.1, |dx| {
            let done = match self.0 {
                Averages::Windows(pool) => pool.backward(dy.data(), dx),
                Averages::Adaptive(pool) => pool.backward(dy.data(), dx),
            };
            done.expect(CHECKED);
        });
        [Some(dx)]
    }
}
