"""A data set of the Hugging Face hub, with images that are reached by their index."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np


class HubReader:
    """A data set of the Hugging Face hub, downloaded once, through timm's reader."""

    def __init__(self, name: str, split: str) -> None:
        # timm prints on stdout where the library is missing.
        if importlib.util.find_spec("datasets") is None:
            raise ValueError("data.source=hfds needs the datasets library; install it with: pip install datasets")
        from timm.data.readers.reader_hfds import ReaderHfds

        self.name, self.split = name, split
        self.reader = ReaderHfds(name, split=split)
        indices: dict[str, int] = self.reader.class_to_idx
        if sorted(indices.values()) != list(range(len(indices))):
            raise ValueError(f"the labels of {name} are not numbered from 0 without gaps; choose another data set")
        self.classes = sorted(indices, key=indices.__getitem__)
        # The column itself: the reader has `iter_targets` only since timm 1.0.31.
        self.targets = np.asarray(self.reader.dataset[self.reader.label_key][:], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.reader[index]

    def filename(self, index: int, *, absolute: bool = False) -> str:
        """The data set, the split and the row: images of the hub need not have names."""
        return f"{self.name if absolute else ''}[{self.split}][{index}]"
