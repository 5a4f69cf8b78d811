"""The drop path of A2Mamba under detectors and UperNet."""

from __future__ import annotations

DROP_PATH = {"nano": 0.05, "tiny": 0.1, "small": 0.2, "base": 0.35, "large": 0.5, "large_paper": 0.5}
"""A choice, for the paper states none: the middle of what the first author's other backbones of these sizes take in the
same protocols. SparX and OverLoCK have 0.2 at the size of S, 0.3 to 0.4 at that of B, 0.45 to 0.6 at that of L."""
