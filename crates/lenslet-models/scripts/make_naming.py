"""Writes tests/naming/*.json.gz: python make_naming.py (needs torch, timm and efficientnet-pytorch).

Each file holds the names and shapes that another library gives to the tensors of a model, and what
that library's model answers when its tensors are filled by those names. The generator is that of
`lenslet-reference` (`tensor` and `input`): a pure function of name, shape and gain.
"""

import gzip
import json
import math
from functools import partial
from pathlib import Path

import numpy as np
import timm
import torch
from efficientnet_pytorch import EfficientNet

OUT = Path(__file__).resolve().parent.parent / "tests" / "naming"
MASK = (1 << 64) - 1


def unit(name, count):
    """`count` values in [0, 1)."""
    seed = 0xCBF29CE484222325
    for byte in name.encode():
        seed = ((seed ^ byte) * 0x100000001B3) & MASK
    with np.errstate(over="ignore"):
        z = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z += np.uint64(seed)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return (z >> np.uint64(40)).astype(np.float64) / 2.0**24


def values(name, shape, gain):
    u = unit(name, math.prod(shape))
    v = 2 * u - 1
    if name.endswith("running_var"):
        flat = 1 + 0.5 * u
    elif name.endswith("running_mean"):
        flat = 0.1 * v
    elif "layer_scale" in name or name.endswith("gamma"):
        flat = 0.5 + 0.1 * v
    elif name.endswith(("class_token", "cls_token", "pos_embedding", "pos_embed")):
        flat = 0.1 * v
    elif len(shape) >= 2:
        flat = v * math.sqrt(gain / math.prod(shape[1:]))
    elif name.endswith(".weight"):
        flat = 1 + 0.1 * v
    else:
        flat = 0.1 * v
    return torch.from_numpy(flat.astype(np.float32).reshape(shape))


def write(name, variant, naming, model, size, gain):
    tensors = {k: v for k, v in model.state_dict().items() if not k.endswith("tracked")}
    filled = {k: values(k, tuple(v.shape), gain) for k, v in tensors.items()}
    missing, extra = model.load_state_dict(filled, strict=False)
    assert not extra and all(k.endswith("tracked") for k in missing), (missing, extra)
    x = (2 * unit("input", 2 * 3 * size * size) - 1).reshape(2, 3, size, size)
    x = torch.from_numpy(x.astype(np.float32))
    with torch.no_grad():
        logits = model.double().eval()(x.double())
    assert logits.std() > 0.05 and (logits[0] - logits[1]).abs().max() > 1e-3, name
    record = {
        "variant": variant,
        "naming": naming,
        "gain": gain,
        "size": size,
        "tensors": [[k, list(v.shape)] for k, v in tensors.items()],
        "logits": [float(f"{v:.9g}") for v in logits[:, :128].flatten()],
    }
    print(name, (logits[0] - logits[1]).abs().max() / logits.abs().max())
    text = json.dumps(record, separators=(",", ":")).encode()
    (OUT / f"{name}.json.gz").write_bytes(gzip.compress(text, mtime=0))


def main():
    OUT.mkdir(exist_ok=True)
    torch.backends.mha.set_fastpath_enabled(False)
    make = timm.create_model
    guide = partial(torch.nn.LayerNorm, eps=1e-5)
    write("timm_resnet18", "resnet18", "torchvision", make("resnet18"), 64, 4.0)
    write("timm_efficientnet_b0", "efficientnet_b0", "timm", make("efficientnet_b0"), 64, 8.0)
    # Weights from TensorFlow under names that do not say so.
    v2 = make("tf_efficientnetv2_s")
    write("timm_tf_efficientnetv2_s", "efficientnet_v2_s", "timm", v2, 64, 5.5)
    write("timm_convnext_tiny", "convnext_tiny", "timm", make("convnext_tiny"), 64, 4.0)
    vit = make("vit_base_patch16_224", img_size=64)
    write("timm_vit_base", "vit_b_16", "timm", vit, 64, 4.0)
    vit = make("vit_small_patch16_224", img_size=64, norm_layer=guide)
    write("timm_vit_small", "guide_vit_small", "timm", vit, 64, 4.0)
    b0 = EfficientNet.from_name("efficientnet-b0", image_size=64)
    write("pytorch_efficientnet_b0", "efficientnet_b0", "EfficientNet-PyTorch", b0, 64, 8.0)


if __name__ == "__main__":
    main()
