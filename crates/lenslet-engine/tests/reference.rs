//! Every architecture compiled, against PyTorch's numbers.

mod common;

use common::{compiled, filled};
use lenslet_engine::Options;
use lenslet_models::{BuildOptions, variant};
use lenslet_reference::{inference, input, names, relative_error};

/// Of the largest output, whose error was 2.2e-6 at most when this was written; PyTorch's own f32
/// is off by 2e-6 at most.
const TOLERANCE: f64 = 1e-5;

#[test]
fn compiled_models_give_the_reference_outputs() {
    let mut wrong = Vec::new();
    for name in names("models") {
        let Some(entry) = variant(&name) else {
            continue; // A block, which is no model of the registry.
        };
        let fixture = inference(&name);
        let shape = <[usize; 4]>::try_from(&fixture.input_shape[..]).expect("images");
        let options = BuildOptions::new(entry.num_classes).with_image_size(shape[2]);
        let model = filled(entry, &options, fixture.gain);
        let images = input("input", shape.iter().product());
        for exact in [false, true] {
            let options = Options {
                exact,
                ..Options::default()
            };
            let session = compiled(&model, shape, &options);
            let found = session.run(&images).expect(&name);
            let expected = &fixture.output_f64;
            let error = relative_error(&found[..expected.len()], expected);
            println!("{name} exact {exact}: {error:.1e}");
            // Not a number is no agreement either.
            if error.is_nan() || error > TOLERANCE {
                wrong.push(format!("{name} exact {exact}: {error:.1e}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
