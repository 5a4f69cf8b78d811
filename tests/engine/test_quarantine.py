from __future__ import annotations

import json
from pathlib import Path

import pytest

from a2mamba.engine import Hook, QuarantineHook, Trainer

from .toy import StopAt, make_trainer


class Meet(Hook):
    """Puts a name on the list after some steps, as the loader would."""

    def __init__(self, quarantine: dict[str, str], steps: list[int]) -> None:
        self.quarantine, self.steps = quarantine, steps

    def after_step(self, trainer: Trainer) -> None:
        if trainer.step in self.steps:
            self.quarantine[f"{trainer.step}.png"] = f"reason {trainer.step}"


def hooks(path: Path, steps: list[int], share: float) -> list[Hook]:
    found: dict[str, str] = {}
    return [Meet(found, steps), QuarantineHook(found, samples=20, largest_share=share, path=path)]


def test_samples_are_named_in_a_file_and_borne_up_to_a_share(tmp_path: Path) -> None:
    path = tmp_path / "quarantine.json"
    trainer = make_trainer(epochs=2, hooks=hooks(path, [9, 2], 0.1))
    trainer.fit()
    assert json.loads(path.read_text()) == {
        "samples": 20,
        "share": 0.1,
        "largest_share": 0.1,
        "quarantined": {"2.png": "reason 2", "9.png": "reason 9"},
    }


def test_above_the_share_the_run_ends_at_once(tmp_path: Path) -> None:
    path = tmp_path / "quarantine.json"
    trainer = make_trainer(epochs=2, hooks=hooks(path, [2, 4, 5, 9], 0.1))
    with pytest.raises(
        ValueError, match="3 of 20 training samples cannot be decoded, more than the share of 0"
    ) as error:
        trainer.fit()
    assert "\n" not in str(error.value)
    assert "2.png: reason 2; all are named in" in str(error.value)
    assert trainer.step == 5
    assert len(json.loads(path.read_text())["quarantined"]) == 3


def test_a_resumed_run_knows_what_was_found_before(tmp_path: Path) -> None:
    path = tmp_path / "quarantine.json"
    half = make_trainer(epochs=2, hooks=[*hooks(path, [2, 3], 0.1), StopAt(4)])
    half.fit()
    rest = make_trainer(epochs=2, hooks=hooks(path, [9], 0.1))
    rest.load_state_dict(half.state_dict())
    with pytest.raises(ValueError, match="3 of 20"):
        rest.fit()
    # a new run in the same folder begins anew
    make_trainer(epochs=2, hooks=hooks(path, [9], 0.1)).fit()
    assert list(json.loads(path.read_text())["quarantined"]) == ["9.png"]


@pytest.mark.parametrize("content", ["{", "[]", '{"quarantined": 3}'])
def test_a_damaged_file_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "quarantine.json"
    half = make_trainer(epochs=2, hooks=[StopAt(4)])
    half.fit()
    path.write_text(content)
    rest = make_trainer(epochs=2, hooks=hooks(path, [], 0.1))
    rest.load_state_dict(half.state_dict())
    with pytest.raises(ValueError, match=r"quarantine\.json is damaged: .*; remove it"):
        rest.fit()


def test_nothing_is_written_where_nothing_is_wrong(tmp_path: Path) -> None:
    make_trainer(epochs=2, hooks=hooks(tmp_path / "quarantine.json", [], 0.1)).fit()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="expected 0 to 1"):
        hooks(tmp_path / "a", [], 1.5)


def test_what_was_found_is_told_at_the_end_of_the_epoch(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer = make_trainer(epochs=3, hooks=hooks(tmp_path / "quarantine.json", [2, 3, 9], 0.5))
    trainer.fit()
    first, second = (record.getMessage() for record in caplog.records)
    assert first.startswith("2 of 20 training images cannot be decoded and were replaced; new in this epoch: 2.png (")
    assert "3.png (reason 3); all are in " in first
    assert first.endswith("quarantine.json")
    assert second.startswith("3 of 20 training images")
    assert "new in this epoch: 9.png (reason 9);" in second
    assert [row["undecodable_images"] for row in trainer.history] == [2, 3, 3]
