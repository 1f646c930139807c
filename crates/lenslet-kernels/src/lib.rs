//! CPU kernels for image models on plain slices (no tensor library).
