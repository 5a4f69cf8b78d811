"""Every command says what it is for, and the ones that need no training do what they say."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest

import a2mamba
from a2mamba.cli.main import COMMANDS
from a2mamba.cli.output import print_table
from a2mamba.ops.dispatch import HAS_NUMBA

from .helpers import content, in_new_process, in_process


def test_the_package_installs_the_command() -> None:
    (entry,) = metadata.entry_points(group="console_scripts", name="a2mamba")
    assert entry.value == "a2mamba.cli.main:main"


def test_help_lists_the_commands() -> None:
    result = in_process("--help")
    assert (result.status, result.err) == (0, "")
    assert len(COMMANDS) >= 8
    for name, line in COMMANDS.items():
        assert name in result.out
        assert line.split(",")[0] in result.out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(command: str) -> None:
    result = in_process(command, "--help")
    assert (result.status, result.err) == (0, "")
    assert f"usage: a2mamba {command}" in result.out
    examples = result.out[result.out.index("Example") :]
    assert f"a2mamba {command}" in examples
    assert "--debug" in result.out


def test_version() -> None:
    assert in_process("--version").out.strip() == f"a2mamba {a2mamba.__version__}"


def test_info_as_json_in_a_process_of_its_own(workplace: Path) -> None:
    result = in_new_process("info", "a2mamba_nano", "--json")
    assert (result.status, result.err) == (0, "")
    found = result.json
    assert found["name"] == "a2mamba_nano"
    assert found["size"] == [224, 224]
    assert found["params"] == 4_195_052
    assert found["flops"] == pytest.approx(0.825e9, rel=0.005)
    assert [(m["channels"], m["stride"], m["height"]) for m in found["feature_maps"]] == [
        (32, 4, 56),
        (64, 8, 28),
        (128, 16, 14),
        (192, 32, 7),
    ]
    assert content(workplace) == {}


def test_info_knows_the_networks_of_ablations() -> None:
    found = in_process("info", "ablation_lass_test", "--json").json
    assert [m["channels"] for m in found["feature_maps"]] == [16, 32, 32, 48]
    in_process("info", "ablation_las").refused("unknown model 'ablation_las'", "did you mean 'ablation_lass'?")


def test_the_list_of_recipes_needs_no_torch() -> None:
    code = (
        "import sys; from a2mamba.cli.main import main\n"
        "try: main(['train', '--help'])\n"
        "finally: sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "  segman_v2_tiny_ade20k" in done.stdout


def test_info_of_a_image_that_is_not_square() -> None:
    result = in_process("info", "a2mamba_test", "--size", "64", "33")
    assert result.status == 0
    assert "238,008 parameters" in result.out
    assert "64 x 33" in result.out
    assert "16 x 9" in result.out
    assert "2 x 2" in result.out


def test_models_as_json() -> None:
    every = in_process("models", "--json").json["models"]
    names = [*a2mamba.list_models(), *a2mamba.list_segmenters(), *a2mamba.list_detectors()]
    assert [model["name"] for model in every] == names
    for task in ("segmentation", "detection"):
        only = in_process("models", "--task", task, "--json").json["models"]
        assert only == [model for model in every if model["task"] == task]
    models = in_process("models", "--task", "classification", "--json").json["models"]
    assert models == every[: len(models)]
    for model in models:
        assert {"parameters", "flops", "top1", "weights"} <= model.keys()
    assert models[0]["top1"] == 78.7


def test_models_as_a_table() -> None:
    result = in_process("models")
    assert result.status == 0
    assert all(name in result.out for name in a2mamba.list_models())
    assert "15.37" in result.out


def test_doctor_as_json() -> None:
    result = in_process("doctor", "--json")
    found = result.json
    assert result.status == 0
    assert found["healthy"] is True
    assert found["versions"]["a2mamba"] == a2mamba.__version__
    assert found["devices"][0]["device"] == "cpu"
    for operator in ("neighborhood_attention", "selective_scan_state"):
        rows = [row for row in found["operators"] if row["operator"] == operator and row["device"] == "cpu"]
        assert [row["backend"] for row in rows if row["chosen"]] == ["numba" if HAS_NUMBA else "torch"]
        assert {row["backend"] for row in rows} >= {"torch", "reference"}
        for row in rows:
            assert row["self_test"] == ("passed" if row["reason"] is None else "not run")


def test_doctor_as_a_table() -> None:
    result = in_process("doctor")
    assert (result.status, result.err) == (0, "")
    for word in ("torch", "cpu", "neighborhood_attention", "selective_scan_state", "chosen", "passed"):
        assert word in result.out


def test_doctor_fails_where_an_operator_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    from a2mamba.ops.selective_scan import operator

    def wrong(*arguments: object) -> object:
        return operator._forward(*arguments) * 1.01

    spoilt = tuple(replace(b, run=wrong) if b.name in ("numba", "torch") else b for b in operator.BACKENDS)
    monkeypatch.setattr(operator, "BACKENDS", spoilt)
    result = in_process("doctor", "--json")
    assert result.status == 1
    assert result.json["healthy"] is False
    (row,) = [r for r in result.json["operators"] if r["operator"] == "selective_scan_state" and r["chosen"]]
    assert row["self_test"].startswith("FAILED")


def test_demo_data_has_the_three_layouts(demo_data: Path) -> None:
    """The fixture wrote it with `a2mamba data demo`."""
    assert len(list(demo_data.glob("imagenet/train/*/*.png"))) == 1438
    assert len(list(demo_data.glob("imagenet/val/*/*.png"))) == 359
    assert list(demo_data.glob("ADEChallengeData2016/annotations/training/*.png"))
    assert json.loads((demo_data / "coco/annotations/instances_val2017.json").read_text())["images"]


def test_demo_data_is_not_written_twice(demo_data: Path) -> None:
    in_process("data", "demo", demo_data).refused(str(demo_data), "overwrite")


def test_checking_good_data(digits: Path) -> None:
    before = content(digits)
    result = in_process("data", "check", digits, "--json")
    assert result.status == 0
    assert result.json["problems"] == []
    assert result.json["splits"]["train"]["images"] == 240
    assert "no problems found" in in_process("data", "check", digits).out
    assert content(digits) == before


def test_checking_bad_data(digits: Path, tmp_path: Path) -> None:
    root = tmp_path / "bad"
    shutil.copytree(digits, root)
    (root / "train" / "digit_3" / "broken.png").write_bytes(b"no image")
    (root / "val" / "nothing").mkdir()
    result = in_process("data", "check", root, "--json")
    assert result.status == 1
    assert result.err == f"{len(result.json['problems'])} problems\n"
    problems = "\n".join(result.json["problems"])
    assert "broken.png" in problems
    assert "nothing" in problems


def test_options_may_stand_before_the_last_words(digits: Path) -> None:
    """As in the examples: a2mamba eval RECIPE --checkpoint F key=value."""
    result = in_process("train", "digits", "--keys", f"data.root={digits}", "--small", "seed=5")
    assert result.status == 0
    (row,) = [line for line in result.out.splitlines() if " seed " in line]
    assert " 5 " in row


def test_tables_show_names_that_look_like_markup(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("image", "n"), [("holiday[red]:smile:.png", 1234)])
    shown = capsys.readouterr().out
    assert "holiday[red]:smile:.png" in shown
    assert "1,234" in shown


@pytest.mark.parametrize(("name", "params"), [("segman_v2_nano", 6_531_210), ("mask_rcnn_a2mamba_small", 49_287_882)])
def test_info_counts_systems(name: str, params: int) -> None:
    """As the paper's tables count them: 150 classes at 512 x 512, 80 classes at 800 x 1280."""
    result = in_process("info", name, "--json").json
    assert result["params"] == params
    assert result["flops"] > 5e9
    in_process("info", f"{name}x").refused("unknown model", name)
    in_process("info", name, "--classes", "0").refused("--classes")
