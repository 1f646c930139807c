"""What pycocotools and torchvision make of random boxes: tests/fixtures/boxes.json.

    pip install pycocotools torch torchvision
    python scripts/make_fixtures.py tests/fixtures/boxes.json
"""

import contextlib
import io
import json
import sys

import numpy as np
import torch
import torchvision
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def random_boxes(rng, count, whole):
    """Boxes as x, y, width, height; whole numbers give overlaps that lie just on a threshold."""
    corner = rng.uniform(0, 80, (count, 2))
    size = rng.uniform(4, 40, (count, 2))
    boxes = np.concatenate([corner, size], 1)
    return (np.round(boxes) if whole else np.round(boxes, 3)).tolist()


def precision_case(seed):
    rng = np.random.default_rng(seed)
    images, classes = int(rng.integers(1, 12)), int(rng.integers(1, 5))
    whole = seed % 2 == 0
    truths, found = [], []
    for image in range(images):
        # Some images are empty, some have only truths, or only detections.
        count = int(rng.integers(0, 9)) if rng.random() > 0.2 else 0
        for box in random_boxes(rng, count, whole):
            crowd = bool(rng.random() < 0.15)
            truths.append({"image": image, "class": int(rng.integers(classes)), "box": box, "crowd": crowd})
        # Detections near truths, and others anywhere; few different scores, so that there are ties.
        for truth in [t for t in truths if t["image"] == image]:
            for _ in range(int(rng.integers(0, 4))):
                box = np.array(truth["box"]) + rng.normal(0, 2.5, 4)
                box[2:] = np.maximum(box[2:], 1)
                box = np.round(box) if whole else np.round(box, 3)
                cls = truth["class"] if rng.random() < 0.85 else int(rng.integers(classes))
                score = round(float(rng.random()), 1 if seed % 3 else 4)
                found.append({"image": image, "class": cls, "box": box.tolist(), "score": score})
        for box in random_boxes(rng, int(rng.integers(0, 5)), whole):
            score = round(float(rng.random()), 1)
            found.append({"image": image, "class": int(rng.integers(classes)), "box": box, "score": score})
    if seed == 3:
        # More detections of a class in one image than count.
        for box in random_boxes(rng, 150, whole):
            found.append({"image": 0, "class": 0, "box": box, "score": round(float(rng.random()), 2)})
    expected = coco_precision(images, classes, truths, found)
    return {"classes": classes, "truths": truths, "found": found, "expected": expected}


def coco_precision(images, classes, truths, found):
    """Average precision by class at the ten overlaps; None where a class has no box."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "info": {},
            "images": [{"id": i + 1} for i in range(images)],
            "categories": [{"id": c + 1, "name": str(c)} for c in range(classes)],
            "annotations": [
                {
                    "id": n + 1,
                    "image_id": t["image"] + 1,
                    "category_id": t["class"] + 1,
                    "bbox": t["box"],
                    "area": t["box"][2] * t["box"][3],
                    "iscrowd": int(t["crowd"]),
                }
                for n, t in enumerate(truths)
            ],
        }
        coco.createIndex()
        if found:
            detected = coco.loadRes(
                [
                    {
                        "image_id": f["image"] + 1,
                        "category_id": f["class"] + 1,
                        "bbox": f["box"],
                        "score": f["score"],
                    }
                    for f in found
                ]
            )
        else:
            detected = COCO()
            detected.dataset = {**coco.dataset, "annotations": []}
            detected.createIndex()
        evaluation = COCOeval(coco, detected, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    # Overlaps, recalls, classes, areas (the first is all), most detections (the last is 100).
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    result = []
    for c in range(classes):
        values = precision[:, :, c]
        result.append(None if (values < 0).all() else values.mean(1).tolist())
    return result


def suppression_case(seed):
    rng = np.random.default_rng(1000 + seed)
    count = int(rng.integers(0, 120))
    boxes = np.array(random_boxes(rng, count, seed % 2 == 0)).reshape(-1, 4)
    scores = np.round(rng.random(count), 1 if seed % 3 == 0 else 5)
    classes = rng.integers(0, 4, count)
    threshold = float(rng.choice([0.3, 0.45, 0.5, 0.7]))
    corners = torch.tensor(np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1), dtype=torch.float64)
    kept = torchvision.ops.batched_nms(
        corners, torch.tensor(scores), torch.tensor(classes), threshold
    )
    return {
        "boxes": boxes.tolist(),
        "scores": scores.tolist(),
        "classes": classes.tolist(),
        "threshold": threshold,
        "kept": kept.tolist(),
    }


def complete_iou_case(seed):
    rng = np.random.default_rng(2000 + seed)
    a, b = random_boxes(rng, 2, False)
    corners = lambda v: torch.tensor([[v[0], v[1], v[0] + v[2], v[1] + v[3]]], dtype=torch.float64)
    loss = torchvision.ops.complete_box_iou_loss(corners(a), corners(b))
    return {"a": a, "b": b, "loss": float(loss)}


if __name__ == "__main__":
    cases = {
        "precision": [precision_case(s) for s in range(24)],
        "suppression": [suppression_case(s) for s in range(40)],
        "complete_iou": [complete_iou_case(s) for s in range(20)],
        "made_with": {"torchvision": torchvision.__version__.split("+")[0], "torch": torch.__version__.split("+")[0]},
    }
    with open(sys.argv[1], "w") as file:
        json.dump(cases, file, separators=(",", ":"))
        file.write("\n")
