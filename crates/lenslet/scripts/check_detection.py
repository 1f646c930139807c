"""Compares `lenslet eval` on boxes with pycocotools on what `lenslet predict` prints.

    pip install pycocotools
    python scripts/check_detection.py target/release/lenslet RUN DATA   # a COCO folder with images/val
"""

import contextlib
import io
import json
import pathlib
import subprocess
import sys

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

program, run, data = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3])


def output(*arguments):
    result = subprocess.run([program, *arguments], capture_output=True, text=True, check=True)
    return [json.loads(line) for line in result.stdout.splitlines()]


measured = output("eval", str(data), "--model", run, "--json")[0]
# As sure, and as much overlap, as `eval` looks at.
found = output(
    "predict", str(data / "images/val"), "--model", run, "--score", "0.005", "--overlap", "0.45", "--json", "-q"
)

with contextlib.redirect_stdout(io.StringIO()):
    coco = COCO(str(data / "annotations/instances_val.json"))
    image_of = {image["file_name"]: image["id"] for image in coco.dataset["images"]}
    class_of = {category["name"]: category["id"] for category in coco.dataset["categories"]}
    detected = coco.loadRes(
        [
            {
                "image_id": image_of[pathlib.Path(picture["path"]).name],
                "category_id": class_of[box["class"]],
                "bbox": box["box"],
                "score": box["score"],
            }
            for picture in found
            for box in picture["boxes"]
        ]
    )
    evaluation = COCOeval(coco, detected, "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()

for name, ours, theirs in [
    ("mAP@0.5:0.95", measured["map"], evaluation.stats[0]),
    ("mAP@0.5", measured["map50"], evaluation.stats[1]),
    ("mAP@0.75", measured["map75"], evaluation.stats[2]),
]:
    print(f"{name}: {ours:.9f}, pycocotools {theirs:.9f}")
    assert abs(ours - theirs) < 1e-6, name
