"""COCO 2017: where its files lie, how many there are, and which categories it has.

Source: Lin et al., "Microsoft COCO: Common Objects in Context", 2014; https://cocodataset.org. Images are trained and
evaluated by the 3x multi-scale protocol that Swin, VMamba and others follow, whose numbers are `DetectionData`'s
defaults.
"""

from __future__ import annotations

TRAIN_IMAGES, TRAIN_ANNOTATIONS = "train2017", "annotations/instances_train2017.json"
VAL_IMAGES, VAL_ANNOTATIONS = "val2017", "annotations/instances_val2017.json"
"""Folders and files, relative to the data set's root"""

TRAIN_COUNT, VAL_COUNT = 118_287, 5_000
"""Images"""
TRAIN_COUNT_WITH_OBJECTS = 117_266
"""Training images with an object that is no crowd: those that are trained on"""

CATEGORY_COUNT = 80
"""Their ids are 1 to 90 with gaps; labels are 1 to 80 in the order of the ids"""
