//! EfficientNet, EfficientNetV2 and EfficientNet-Lite.

use std::collections::BTreeMap;

use super::{Naming, each};

/// timm's names (`blocks.1.0.conv_pw`) and EfficientNet-PyTorch's (`_blocks.1._expand_conv`).
pub(crate) const EFFICIENTNET: &[Naming] = &[
    Naming::new("timm", |names| rename(names, &TIMM)),
    Naming {
        name: "EfficientNet-PyTorch",
        tensorflow: true,
        theirs: |names| rename(names, &EFFICIENTNET_PYTORCH),
    },
];

/// EfficientNet-PyTorch's names have an underscore in front of every module.
pub(crate) const EFFICIENTNET_LITE: &[Naming] = &[Naming::new("EfficientNet-PyTorch", |names| {
    each(names, |parts| {
        let (last, modules) = parts.split_last()?;
        let numbered = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
        let theirs = modules.iter().map(|part| match numbered(part) {
            true => format!("{part}."),
            false => format!("_{part}."),
        });
        Some(theirs.collect::<String>() + last)
    })
})];

/// A unit of ours and what it is called elsewhere.
type Units = &'static [(&'static str, &'static str)];

/// A naming of torchvision's EfficientNet: parts of the network, parts of a block by the number of
/// its layers, and how a block is addressed by stage, place in the stage, and place in all.
struct Table {
    /// Stem, its norm, head, its norm, classifier.
    ends: [&'static str; 5],
    /// Blocks of one layer (fused, no expansion), two (fused), three (no expansion) and four.
    blocks: [Units; 4],
    address: fn(usize, usize, usize) -> String,
}

const TIMM: Table = Table {
    ends: ["conv_stem", "bn1", "conv_head", "bn2", "classifier"],
    blocks: [
        &[("0.0", "conv"), ("0.1", "bn1")],
        &[
            ("0.0", "conv_exp"),
            ("0.1", "bn1"),
            ("1.0", "conv_pwl"),
            ("1.1", "bn2"),
        ],
        &[
            ("0.0", "conv_dw"),
            ("0.1", "bn1"),
            ("1.fc1", "se.conv_reduce"),
            ("1.fc2", "se.conv_expand"),
            ("2.0", "conv_pw"),
            ("2.1", "bn2"),
        ],
        &[
            ("0.0", "conv_pw"),
            ("0.1", "bn1"),
            ("1.0", "conv_dw"),
            ("1.1", "bn2"),
            ("2.fc1", "se.conv_reduce"),
            ("2.fc2", "se.conv_expand"),
            ("3.0", "conv_pwl"),
            ("3.1", "bn3"),
        ],
    ],
    // torchvision's first stage stands behind the stem.
    address: |stage, i, _| format!("blocks.{}.{i}", stage - 1),
};

const EFFICIENTNET_PYTORCH: Table = Table {
    ends: ["_conv_stem", "_bn0", "_conv_head", "_bn1", "_fc"],
    blocks: [
        &[],
        &[],
        &[
            ("0.0", "_depthwise_conv"),
            ("0.1", "_bn1"),
            ("1.fc1", "_se_reduce"),
            ("1.fc2", "_se_expand"),
            ("2.0", "_project_conv"),
            ("2.1", "_bn2"),
        ],
        &[
            ("0.0", "_expand_conv"),
            ("0.1", "_bn0"),
            ("1.0", "_depthwise_conv"),
            ("1.1", "_bn1"),
            ("2.fc1", "_se_reduce"),
            ("2.fc2", "_se_expand"),
            ("3.0", "_project_conv"),
            ("3.1", "_bn2"),
        ],
    ],
    address: |_, _, index| format!("_blocks.{index}"),
};

fn rename(names: &[String], table: &Table) -> Vec<Option<String>> {
    // Layers of every block, by stage and place in the stage.
    let mut layers = BTreeMap::<(usize, usize), usize>::new();
    let mut head = 0;
    for name in names {
        let parts: Vec<&str> = name.split('.').collect();
        let numbers: Vec<usize> = parts.iter().filter_map(|part| part.parse().ok()).collect();
        match (parts.as_slice(), numbers.as_slice()) {
            (["features", _, _, "block", ..], [stage, i, layer, ..]) => {
                let count = layers.entry((*stage, *i)).or_default();
                *count = (*count).max(layer + 1);
            }
            (["features", ..], [stage, ..]) => head = head.max(*stage),
            _ => {}
        }
    }
    let place: BTreeMap<_, _> = layers
        .keys()
        .enumerate()
        .map(|(i, key)| (*key, i))
        .collect();
    let [stem, stem_norm, head_conv, head_norm, classifier] = table.ends;
    each(names, |parts| {
        Some(match parts {
            ["features", "0", "0", rest] => format!("{stem}.{rest}"),
            ["features", "0", "1", rest] => format!("{stem_norm}.{rest}"),
            ["features", stage, i, "block", unit @ .., rest] => {
                let key = (stage.parse().ok()?, i.parse().ok()?);
                let units = table.blocks.get(layers.get(&key)? - 1)?;
                let unit = unit.join(".");
                let (_, unit) = units.iter().find(|(ours, _)| *ours == unit)?;
                let address = (table.address)(key.0, key.1, *place.get(&key)?);
                format!("{address}.{unit}.{rest}")
            }
            ["features", stage, "0", rest] if stage.parse() == Ok(head) => {
                format!("{head_conv}.{rest}")
            }
            ["features", stage, "1", rest] if stage.parse() == Ok(head) => {
                format!("{head_norm}.{rest}")
            }
            ["classifier", "1", rest] => format!("{classifier}.{rest}"),
            _ => return None,
        })
    })
}
