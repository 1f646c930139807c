//! Interpolation to another size.

use burn::tensor::Tensor;
use lenslet_kernels::{Interpolation, Resize2d};

use super::CHECKED;
use super::op::{CpuOp, Values, input, label, run};
use crate::timing::Label;

/// `[N, H, W, C]` to `[N, size[0], size[1], C]`.
pub(crate) fn resize(
    x: &Tensor<4>,
    size: [usize; 2],
    interpolation: Interpolation,
) -> Option<Tensor<4>> {
    let op = Resize2d {
        input: x.dims(),
        output: size,
        interpolation,
    };
    if size.contains(&0) || x.dims()[1..3].contains(&0) {
        return None;
    }
    let (y, ()) = run(Resize(op), [input(x)?]);
    Some(y)
}

#[derive(Debug, Clone)]
struct Resize(Resize2d);

impl Resize {
    fn output(&self) -> [usize; 4] {
        let ([n, _, _, c], [h, w]) = (self.0.input, self.0.output);
        [n, h, w, c]
    }
}

impl CpuOp<1> for Resize {
    type Saved = ();
    type Extra = ();

    fn label(&self) -> Label {
        label("interpolation", &self.output())
    }

    fn forward(&self, [x]: [Values; 1]) -> (Values, (), ()) {
        let y = Values::written(&self.output(), |y| {
            self.0.forward(x.data(), y).expect(CHECKED);
        });
        (y, (), ())
    }

    fn backward(&self, (): (), dy: Values, _: [bool; 1]) -> [Option<Values>; 1] {
        let dx = Values::written(&self.0.input, |dx| {
            self.0.backward(dy.data(), dx).expect(CHECKED);
        });
        [Some(dx)]
    }
}
