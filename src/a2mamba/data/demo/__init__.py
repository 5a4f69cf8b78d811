"""Real data on a fresh machine: scikit-learn's handwritten digits, written in the layouts of the large data sets.

    root/imagenet/{train,val}/digit_<d>/*.png              single digits, 32 x 32, gray
    root/ADEChallengeData2016/{images,annotations}/...     scenes of digits, and their class maps
    root/coco/{train2017,val2017}, coco/annotations/...    scenes of digits, and their instances

A scene is made of several digits in their own colors, sizes and angles, some behind others, on an uneven ground with
strokes that belong to no digit. About a fifth of the scenes hold no digit at all. Every image of a digit belongs to
either training or validation, in all three sets alike.
"""

from a2mamba.data.demo.samples import demo_photos, demo_samples
from a2mamba.data.demo.writing import DemoSummary, write_demo

__all__ = ["DemoSummary", "demo_photos", "demo_samples", "write_demo"]
