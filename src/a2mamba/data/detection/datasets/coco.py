"""COCO 2017: where its files lie.

Source: Lin et al., "Microsoft COCO: Common Objects in Context", 2014; https://cocodataset.org. Images are trained and
evaluated by the 3x multi-scale protocol that Swin, VMamba and others follow, whose numbers are `DetectionData`'s
defaults.
"""

from __future__ import annotations

TRAIN_IMAGES, TRAIN_ANNOTATIONS = "train2017", "annotations/instances_train2017.json"
VAL_IMAGES, VAL_ANNOTATIONS = "val2017", "annotations/instances_val2017.json"
"""Folders and files, relative to the data set's root"""
