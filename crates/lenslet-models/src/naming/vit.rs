//! Vision Transformer.

use super::{Naming, each};

/// timm's names (`blocks.0.attn.qkv`), and those of torchvision's published files, whose
/// perceptrons say `linear_1` and `linear_2`.
pub(crate) const VIT: &[Naming] = &[
    Naming::new("timm", |names| each(names, timm)),
    Naming::new("torchvision, first version", |names| {
        each(names, |parts| {
            let linear = match parts {
                [.., "mlp", "0", _] => "linear_1",
                [.., "mlp", "3", _] => "linear_2",
                _ => return Some(parts.join(".")),
            };
            let mut parts = parts.to_vec();
            let unit = parts.len() - 2;
            parts[unit] = linear;
            Some(parts.join("."))
        })
    }),
];

/// timm's names for the guide's definition.
pub(crate) const GUIDE_VIT: &[Naming] = &[Naming::new("timm", |names| {
    each(names, |parts| {
        Some(match parts {
            ["pos_embedding"] => "pos_embed".into(),
            ["patch_embed", "projection", rest] => format!("patch_embed.proj.{rest}"),
            ["blocks", i, "mlp", "0", rest] => format!("blocks.{i}.mlp.fc1.{rest}"),
            ["blocks", i, "mlp", "3", rest] => format!("blocks.{i}.mlp.fc2.{rest}"),
            _ => parts.join("."),
        })
    })
})];

/// The parts of an encoder layer.
const UNITS: [(&str, &str); 6] = [
    ("ln_1", "norm1"),
    ("self_attention.in_proj", "attn.qkv"),
    ("self_attention.out_proj", "attn.proj"),
    ("ln_2", "norm2"),
    ("mlp.0", "mlp.fc1"),
    ("mlp.3", "mlp.fc2"),
];

fn timm(parts: &[&str]) -> Option<String> {
    Some(match parts {
        ["class_token"] => "cls_token".into(),
        ["encoder", "pos_embedding"] => "pos_embed".into(),
        ["conv_proj", rest] => format!("patch_embed.proj.{rest}"),
        ["encoder", "layers", layer, unit @ .., last] => {
            let i = layer.strip_prefix("encoder_layer_")?;
            // PyTorch's attention joins the parameter to its layer: in_proj_weight.
            let ours = match last.strip_prefix("in_proj_") {
                Some(_) => "self_attention.in_proj".into(),
                None => unit.join("."),
            };
            let rest = last.strip_prefix("in_proj_").unwrap_or(last);
            let (_, unit) = UNITS.iter().find(|(unit, _)| *unit == ours)?;
            format!("blocks.{i}.{unit}.{rest}")
        }
        ["encoder", "ln", rest] => format!("norm.{rest}"),
        ["heads", "head", rest] => format!("head.{rest}"),
        _ => return None,
    })
}
