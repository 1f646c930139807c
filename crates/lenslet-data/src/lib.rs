//! Datasets, image decoding, transforms and loaders (no dependency on models).
