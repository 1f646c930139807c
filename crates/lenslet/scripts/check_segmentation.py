"""Compares `lenslet eval` on masks with scikit-learn's confusion matrix of what `lenslet predict` writes.

    pip install scikit-learn pillow numpy
    python scripts/check_segmentation.py target/release/lenslet RUN DATA/val
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
from PIL import Image
from sklearn.metrics import confusion_matrix

program, run, part = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3])
text = subprocess.run(
    [program, "eval", str(part.parent), "--model", run, "--json"], capture_output=True, text=True, check=True
).stdout
measured = json.loads(text)
classes = len(measured["classes"])

counts = np.zeros((classes, classes), dtype=np.int64)
with tempfile.TemporaryDirectory() as folder:
    subprocess.run(
        [program, "predict", str(part / "images"), "--model", run, "-o", folder, "-q"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    for mask in sorted((part / "masks").glob("*.png")):
        truth = np.asarray(Image.open(mask)).ravel()
        found = np.asarray(Image.open(pathlib.Path(folder) / f"{mask.stem}.mask.png")).ravel()
        kept = truth != 255
        counts += confusion_matrix(truth[kept], found[kept], labels=range(classes))

assert counts.tolist() == measured["confusion"], "the confusion matrices differ"
hits, truth, found = counts.diagonal(), counts.sum(1), counts.sum(0)
union = truth + found - hits
with np.errstate(invalid="ignore"):
    iou, dice = hits / union, 2 * hits / (truth + found)
for name, ours, theirs in [
    ("mIoU", measured["miou"], np.nanmean(iou)),
    ("mean Dice", measured["mdice"], np.nanmean(dice)),
    ("pixel accuracy", measured["pixel_accuracy"], hits.sum() / counts.sum()),
]:
    print(f"{name}: {ours:.12f}, scikit-learn {theirs:.12f}")
    assert abs(ours - theirs) < 1e-9, name
for entry, expected in zip(measured["classes"], iou):
    assert (entry["iou"] is None) == np.isnan(expected)
    assert entry["iou"] is None or abs(entry["iou"] - expected) < 1e-9, entry
print(f"{classes} classes, {counts.sum()} pixels: equal")
