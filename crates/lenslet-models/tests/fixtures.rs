//! Every architecture against PyTorch's numbers.

use burn::tensor::{Device, Tensor, TensorData};
use lenslet_models::{ImageModel, Model, variant};
use lenslet_nn::{Init, StateDict, load_state_dict, num_params, state_dict};
use lenslet_reference::{Inference, inference, input, relative_error, tensor};

fn generated(fixture: &Inference) -> StateDict {
    fixture
        .state_dict
        .iter()
        .map(|(name, shape, kind)| {
            let data = match kind.as_str() {
                "i64" => TensorData::new(vec![0i64; shape.iter().product()], shape.clone()),
                _ => TensorData::new(tensor(name, shape, fixture.gain), shape.clone()),
            };
            (name.clone(), data)
        })
        .collect()
}

fn check(fixture: &Inference, model: Model) {
    let names: Vec<_> = state_dict(&model)
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    let expected: Vec<_> = fixture.state_dict.iter().map(|e| e.0.clone()).collect();
    assert_eq!(names, expected);
    assert_eq!(num_params(&model), fixture.num_params);
    let model = load_state_dict(model, generated(fixture)).unwrap();

    let len = fixture.input_shape.iter().product();
    let data = TensorData::new(input("input", len), fixture.input_shape.clone());
    let output = model.forward(Tensor::from_data(data, &Device::flex()));
    assert_eq!(output.dims().to_vec(), fixture.output_shape);
    let values = output.into_data().try_to_vec::<f32>().unwrap();
    let error = relative_error(&values, &fixture.output_f64);
    assert!(
        error <= fixture.tolerance(),
        "relative error {error:.1e} above {:.1e}",
        fixture.tolerance()
    );
}

#[test]
fn lenet5() {
    let fixture = inference("guide_lenet5");
    assert_eq!(fixture.num_params, 61_706);
    let mut init = Init::empty(&Device::flex());
    check(&fixture, variant("lenet5").unwrap().build(10, &mut init));
}
