"""`a2mamba eval --sizes`: one network at several image sizes, as in the paper's Table VIII."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .helpers import Trained, in_process


@pytest.fixture
def words(trained: Trained) -> tuple[str | Path, ...]:
    return ("eval", "--checkpoint", trained.folder / "checkpoints" / "best.pt")


def test_each_size_is_what_an_evaluation_at_that_size_says(words: tuple[str | Path, ...], tmp_path: Path) -> None:
    record = tmp_path / "results.jsonl"
    result = in_process(*words, "--sizes", "48,32", "--json", "--record", record)
    assert result.status == 0, result
    found = result.json
    assert [row["size"] for row in found["sizes"]] == [48, 32]
    for row in found["sizes"]:
        alone = in_process(*words, f"data.image_size={row['size']}", "--json").json
        for metric in row.keys() - {"size"}:
            assert row[metric] == pytest.approx(alone[metric], rel=1e-10)
        assert found["images"] == alone["images"] == 60
    assert "top1" in found["sizes"][0]
    losses = [row["loss"] for row in found["sizes"]]
    assert losses[0] != pytest.approx(losses[1], rel=1e-9), "it was really looked at in two sizes"
    recorded = [json.loads(line) for line in record.read_text().splitlines()]
    assert [line["image_size"] for line in recorded] == [48, 32]


def test_a_table_for_people(words: tuple[str | Path, ...]) -> None:
    result = in_process(*words, "--sizes", "32,40")
    assert result.status == 0
    assert all(word in result.out for word in ("size", "top1", "32", "40"))


def test_mistakes_are_one_line(words: tuple[str | Path, ...], tmp_path: Path) -> None:
    in_process(*words, "--sizes", "32;48").refused("--sizes", "224,512,1024")
    in_process(*words, "--sizes", "0").refused("--sizes", "'0'")
    in_process(*words, "--sizes", "32", "--confusion", tmp_path / "c.json").refused("--confusion is of one image size")
