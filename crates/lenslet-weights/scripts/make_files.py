"""Writes the files that tests/files.rs reads: python make_files.py (needs torch).

Every tensor holds the multiples of 1/8 from -1, which each float type represents exactly.
"""

import os
from collections import OrderedDict
from pathlib import Path

import torch

OUT = Path(__file__).resolve().parent.parent / "tests" / "files"


def values(*shape, dtype=torch.float32):
    n = 1
    for side in shape:
        n *= side
    return ((torch.arange(n) - 8) / 8).reshape(shape).to(dtype)


def weights(dtype=torch.float32):
    return OrderedDict(
        [
            ("conv.weight", values(2, 3, 1, 2, dtype=dtype)),
            ("bn.running_var", values(2, dtype=dtype)),
            ("bn.num_batches_tracked", torch.tensor(7)),
            ("fc.weight", values(3, 4, dtype=dtype)),
        ]
    )


class Command:
    """A pickle that would run a program."""

    def __reduce__(self):
        return os.system, ("touch executed",)


def main():
    OUT.mkdir(exist_ok=True)
    legacy = dict(_use_new_zipfile_serialization=False)
    torch.save(weights(), OUT / "zip.pth")
    torch.save(weights(), OUT / "legacy.pth", **legacy)
    torch.save(weights(torch.float16), OUT / "f16.pth")
    torch.save(weights(torch.bfloat16), OUT / "bf16.pth", **legacy)
    torch.save(weights(torch.float64), OUT / "f64.pth")

    wrapped = OrderedDict(("module." + k, v) for k, v in weights().items())
    moments = {"state": {0: {"exp_avg": values(3, 4)}}}
    torch.save({"epoch": 3, "optimizer": moments, "state_dict": wrapped}, OUT / "checkpoint.pth")
    torch.save({"model": weights(), "lr": 0.1}, OUT / "model_entry.pth", **legacy)
    torch.save({"model_state_dict": weights(), "optimizer": moments}, OUT / "model_state_dict.pth")

    # Views: a transpose, and a part of a larger storage.
    views = weights()
    views["fc.weight"] = values(3, 4).t().contiguous().t()
    views["bn.running_var"] = values(9)[:2]
    torch.save(views, OUT / "views.pth")

    # One stored value that claims to be 40 GB, and one that claims 4 MB.
    huge = torch.ones(1).expand(1000, 10_000_000)
    torch.save({"fc.weight": huge}, OUT / "huge.pth")
    torch.save({"fc.weight": torch.ones(1).expand(1000, 1000)}, OUT / "repeated.pth")

    torch.save({"fc.weight": values(3, 4), "x": Command()}, OUT / "command.pth")
    torch.save({"epoch": 3}, OUT / "no_tensors.pth")
    torch.save({"fc.weight": torch.ones(2, dtype=torch.complex64)}, OUT / "complex.pth")


if __name__ == "__main__":
    main()
