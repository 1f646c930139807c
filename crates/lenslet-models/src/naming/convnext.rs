//! ConvNeXt.

use super::{Naming, each};

/// timm's names (`stages.0.blocks.0.conv_dw`).
pub(crate) const CONVNEXT: &[Naming] = &[Naming::new("timm", |names| each(names, timm))];

/// The layers of a block.
const UNITS: [(&str, &str); 4] = [
    ("0", "conv_dw"),
    ("2", "norm"),
    ("3", "mlp.fc1"),
    ("5", "mlp.fc2"),
];

fn timm(parts: &[&str]) -> Option<String> {
    // Behind the stem, stages stand at odd places, the downsampling in front of them at even ones.
    let stage = |place: &str| place.parse::<usize>().ok().map(|place| place / 2);
    Some(match parts {
        ["features", "0", i, rest] => format!("stem.{i}.{rest}"),
        ["features", place, i, "block", unit, rest] => {
            let (_, unit) = UNITS.iter().find(|(ours, _)| ours == unit)?;
            format!("stages.{}.blocks.{i}.{unit}.{rest}", stage(place)?)
        }
        ["features", place, i, "layer_scale"] => {
            format!("stages.{}.blocks.{i}.gamma", stage(place)?)
        }
        ["features", place, i, rest] => format!("stages.{}.downsample.{i}.{rest}", stage(place)?),
        ["classifier", "0", rest] => format!("head.norm.{rest}"),
        ["classifier", "2", rest] => format!("head.fc.{rest}"),
        _ => return None,
    })
}
