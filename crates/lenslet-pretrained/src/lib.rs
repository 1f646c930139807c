//! A model trained on ImageNet, inside the program: 9 MB that only who wants them links.
//!
//! `weights/README.md` says where the weights come from and under which licence.

/// EfficientNet-Lite0 as a Lenslet model file, its weights in 16 bits: what
/// `lenslet_train::parse_model` takes.
pub static EFFICIENTNET_LITE0: &[u8] = include_bytes!("../weights/efficientnet-lite0.safetensors");
