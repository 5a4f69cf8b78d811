"""COCO-Stuff 164k: 171 classes, 80 things and 91 stuff."""

from __future__ import annotations

from a2mamba.data.segmentation.datasets.spec import Protocol, SegmentationDataset, names
from a2mamba.data.segmentation.files import SegmentationLayout
from a2mamba.data.segmentation.labels import LabelMap

COCO_STUFF_CLASSES = names("""
person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign, parking
meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella, handbag, tie,
suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, surfboard, tennis
racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot, hot
dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop, mouse, remote, keyboard,
cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors, teddy bear, hair drier,
toothbrush, banner, blanket, branch, bridge, building-other, bush, cabinet, cage, cardboard, carpet, ceiling-other,
ceiling-tile, cloth, clothes, clouds, counter, cupboard, curtain, desk-stuff, dirt, door-stuff, fence, floor-marble,
floor-other, floor-stone, floor-tile, floor-wood, flower, fog, food-other, fruit, furniture-other, grass, gravel,
ground-other, hill, house, leaves, light, mat, metal, mirror-stuff, moss, mountain, mud, napkin, net, paper,
pavement, pillow, plant-other, plastic, platform, playingfield, railing, railroad, river, road, rock, roof, rug,
salad, sand, sea, shelf, sky-other, skyscraper, snow, solid-other, stairs, stone, straw, structural-other, table,
tent, textile-other, towel, tree, vegetable, wall-brick, wall-concrete, wall-other, wall-panel, wall-stone,
wall-tile, wall-wood, water-other, waterdrops, window-blind, window-other, wood
""")
"""171 classes: 80 things, then 91 stuff (labels.txt of COCO-Stuff without the 11 labels that never occur)."""

_DROPPED = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)
"""Numbers in COCO-Stuff's files, 0 to 181, of labels that never occur."""
_IDS = 182


def coco_stuff_labels(num_classes: int = 171) -> LabelMap:
    """COCO-Stuff's stuffthingmaps: 171 of the numbers 0 to 181; 255 is ignored, and 11 numbers never occur."""
    return LabelMap("COCO-Stuff", tuple(i for i in range(_IDS) if i not in _DROPPED)[:num_classes])


COCO_STUFF = SegmentationDataset(
    name="coco_stuff",
    folder="data/coco_stuff164k",
    layout=SegmentationLayout(
        "images/{split}", "annotations/{split}", "train2017", "val2017", converted_ending="_labelTrainIds"
    ),
    label_map=coco_stuff_labels,
    classes=COCO_STUFF_CLASSES,
    marker=None,
    palette=None,
    images=(118_287, 5_000),
    protocol=Protocol(crop=512, resize=(2048, 512), batch=16, interval=8000, test_mode="coco_stuff"),
)
