"""Drawings of class maps, objects and metrics for people; knows no model."""

from a2mamba.visualize.class_bars import class_bars
from a2mamba.visualize.class_maps import class_legend, class_map_image, image_grid, overlay
from a2mamba.visualize.heat import heat_image, heat_overlay, mark_point
from a2mamba.visualize.objects import GalleryCase, detection_gallery, draw_objects, object_color
from a2mamba.visualize.png import write_png
from a2mamba.visualize.precision_recall import precision_recall_plot

__all__ = [
    "GalleryCase",
    "class_bars",
    "class_legend",
    "class_map_image",
    "detection_gallery",
    "draw_objects",
    "heat_image",
    "heat_overlay",
    "image_grid",
    "mark_point",
    "object_color",
    "overlay",
    "precision_recall_plot",
    "write_png",
]
