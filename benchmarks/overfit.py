"""Whether a detector can learn eight scenes by heart: box AP of Mask R-CNN and Cascade Mask R-CNN on what they saw.

    OMP_NUM_THREADS=1 python benchmarks/overfit.py --out runs/overfit [--kinds mask_rcnn] [--backbone FILE]

Writes overfit.json into the folder; the exit status is 1 where box AP is below 85 %. The recipes are those of the
demonstration (`objects`), without augmentation, trained and evaluated on the first eight scenes that hold objects.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

from a2mamba.data import write_demo
from a2mamba.recipes import train
from a2mamba.recipes.detection import digit_objects

TARGET = 85.0
SCENES = 8


def write_scenes(out: Path) -> Path:
    """Write the eight scenes in COCO's layout, as training and as evaluation data."""
    root = out / "coco"
    if root.is_dir():
        return root
    write_demo(out / "demo", segmentation_scenes=1, train_scenes=2 * SCENES, val_scenes=1)
    source = out / "demo" / "coco"
    content = json.loads((source / "annotations" / "instances_train2017.json").read_text(encoding="utf-8"))
    with_objects = {annotation["image_id"] for annotation in content["annotations"]}
    content["images"] = [image for image in content["images"] if image["id"] in with_objects][:SCENES]
    kept = {image["id"] for image in content["images"]}
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in kept]
    assert len(kept) == SCENES
    (root / "annotations").mkdir(parents=True)
    for split in ("train2017", "val2017"):
        shutil.copytree(source / "train2017", root / split)
        file = root / "annotations" / f"instances_{split}.json"
        file.write_text(json.dumps(content), encoding="utf-8")
    return root


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the data and the runs")
    parser.add_argument("--kinds", nargs="+", default=["mask_rcnn", "cascade_mask_rcnn"])
    parser.add_argument("--epochs", type=int, default=150, help="of one step each")
    parser.add_argument("--backbone", type=Path, help="weights of the backbone; random ones without")
    arguments = parser.parse_args()
    root = write_scenes(arguments.out)
    rows = []
    for kind in arguments.kinds:
        run = digit_objects(kind)
        run = replace(
            run,
            model=replace(run.model, backbone_checkpoint=arguments.backbone),
            data=replace(run.data, root=str(root), min_sizes=(128,), batch_size=SCENES, group_by_aspect=False),
            schedule=replace(
                run.schedule,
                epochs=arguments.epochs,
                milestones=(arguments.epochs * 4 // 5,),
                warmup_iterations=arguments.epochs // 15,
            ),
            evaluate_every=arguments.epochs,
        )
        began, used = time.perf_counter(), time.process_time()
        trainer = train(run, arguments.out / kind, recipe="objects", device="cpu", quiet=True)
        last = trainer.history[-1]
        rows.append(
            {
                "kind": kind,
                "steps": arguments.epochs,
                "box_ap": last["box_ap"],
                "mask_ap": last["mask_ap"],
                "seconds": time.perf_counter() - began,
                "cpu_seconds": time.process_time() - used,
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    (arguments.out / "overfit.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return 0 if all(row["box_ap"] >= TARGET for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
