"""Loads what examples/write_weights.rs wrote into torchvision, strictly, and compares the answers:
python check_torchvision.py DIR (needs torch, torchvision and safetensors).
"""

import json
import sys
from pathlib import Path

import torch
import torchvision
from safetensors.torch import load_file


def main():
    failed = False
    for path in sorted(Path(sys.argv[1]).glob("*.json")):
        record = json.loads(path.read_text())
        x = torch.tensor(record["input"]).reshape(record["shape"])
        ours = torch.tensor(record["logits"])
        model = torchvision.models.get_model(path.stem, weights=None).eval()
        for ending in (".safetensors", ".f16.safetensors"):
            keys = model.load_state_dict(load_file(path.with_suffix(ending)), strict=True)
            with torch.no_grad():
                theirs = model(x)[0]
            error = ((ours - theirs).abs().max() / theirs.abs().max()).item()
            allowed = 1e-5 if ending == ".safetensors" else 1e-2
            failed |= not error < allowed
            print(f"{path.stem}{ending}: {keys}, largest difference {error:.1e} of the largest logit")
    sys.exit(failed)


if __name__ == "__main__":
    main()
