"""A user's mistake is one line on stderr and exit status 2; nothing is written."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import nn

import a2mamba
from a2mamba.cli.main import COMMANDS, main
from support import uninitialized

from .helpers import Trained, content, in_new_process, in_process


@pytest.fixture(scope="module")
def bad_files(tmp_path_factory: pytest.TempPathFactory, digits: Path, trained: Trained) -> Path:
    """Files that commands must refuse."""
    root = tmp_path_factory.mktemp("bad")
    good = next((digits / "val" / "digit_0").iterdir())
    shutil.copy(good, root / "good.png")
    (root / "cut.png").write_bytes(good.read_bytes()[:-60])
    (root / "text.png").write_text("this is no image\n")
    (root / "empty.png").touch()

    whole = trained.best.read_bytes()
    (root / "cut.pt").write_bytes(whole[: len(whole) // 2])
    (root / "empty.pt").touch()
    (root / "text.pt").write_text("these are no weights\n")
    torch.save([1, 2, 3], root / "list.pt")
    torch.save({"weight": torch.zeros(3)}, root / "foreign.pt")
    torch.save(nn.Linear(2, 2), root / "code.pt")
    state = a2mamba.create_model("a2mamba_test", num_classes=3).state_dict()
    torch.save(state, root / "three.pth")
    safetensors.torch.save_file({k: v.contiguous() for k, v in state.items()}, root / "three.safetensors")
    (root / "cut.safetensors").write_bytes((root / "three.safetensors").read_bytes()[:-1000])
    torch.save(uninitialized("a2mamba_nano").state_dict(), root / "nano.pth")
    (root / "two.txt").write_text("cat\ndog\n")

    (root / "no_folders").mkdir()
    (root / "no_classes" / "train").mkdir(parents=True)
    (root / "no_classes" / "val").mkdir()
    for name in ("empty_class", "empty_val_class", "broken_image", "other_classes"):
        labels = ("cat", "dog") if name == "other_classes" else ("digit_0", "digit_1")
        for split in ("train", "val"):
            for label in labels:
                (root / name / split / label).mkdir(parents=True)
                for i in range(4):
                    noise = torch.randint(0, 255, (8, 8), generator=torch.Generator().manual_seed(i)).byte()
                    Image.fromarray(noise.numpy()).save(root / name / split / label / f"{i}.png")
    for split, name in (("train", "empty_class"), ("val", "empty_val_class")):
        shutil.rmtree(root / name / split / "digit_1")
        (root / name / split / "digit_1").mkdir()
    return root


TEST_MODEL = ("model.name=a2mamba_test", "data.image_size=32")
EVAL_PLAIN = ("eval", "digits", "data.root={digits}", *TEST_MODEL, "--checkpoint")
PREDICT = ("predict", "a2mamba_test", "--out", "out", "--checkpoint", "{best}")
PREDICT_PLAIN = ("predict", "a2mamba_test", "{bad}/good.png", "--out", "out", "--checkpoint")
SMALL = ("train", "digits", "--small", "--out", "run")

MISTAKES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    # images
    "missing image": ((*PREDICT, "{bad}/absent.png"), ("absent.png", "No such file")),
    "truncated image": ((*PREDICT, "{bad}/cut.png"), ("cut.png", "truncated")),
    "text as image": ((*PREDICT, "{bad}/text.png"), ("text.png", "not an image")),
    "empty image": ((*PREDICT, "{bad}/empty.png"), ("empty.png", "empty")),
    "several bad images": ((*PREDICT, "{bad}/cut.png", "{bad}/text.png"), ("2 of 2 images", "cut.png", "text.png")),
    "folder without images": ((*PREDICT, "{bad}/no_classes"), ("no_classes", "has no images")),
    "glob that nothing matches": ((*PREDICT, "{bad}/*.jpeg"), ("no file matches", "*.jpeg")),
    "no image": (PREDICT, ("IMAGE",)),
    # checkpoints
    "missing checkpoint, eval": (("eval", "digits", "--checkpoint", "{bad}/absent.pt"), ("absent.pt", "no such file")),
    "missing checkpoint, predict": ((*PREDICT_PLAIN, "{bad}/absent.pt"), ("absent.pt", "no such file")),
    "missing checkpoint, train": (
        (*SMALL, "data.root={digits}", "model.checkpoint={bad}/absent.pt"),
        ("absent.pt", "no such file"),
    ),
    "truncated checkpoint, eval": (("eval", "digits", "--checkpoint", "{bad}/cut.pt"), ("cut.pt", "damaged")),
    "truncated checkpoint, predict": ((*PREDICT_PLAIN, "{bad}/cut.pt"), ("cut.pt", "damaged")),
    "truncated safetensors": ((*EVAL_PLAIN, "{bad}/cut.safetensors"), ("cut.safetensors", "damaged")),
    "empty checkpoint": ((*PREDICT_PLAIN, "{bad}/empty.pt"), ("empty.pt",)),
    "text as checkpoint": ((*EVAL_PLAIN, "{bad}/text.pt"), ("text.pt", "damaged")),
    "image as checkpoint": ((*EVAL_PLAIN, "{bad}/good.png"), ("good.png", "damaged")),
    "folder as checkpoint": ((*EVAL_PLAIN, "{bad}"), ("no such file",)),
    "list as checkpoint": ((*EVAL_PLAIN, "{bad}/list.pt"), ("list.pt", "list")),
    "foreign checkpoint": ((*EVAL_PLAIN, "{bad}/foreign.pt"), ("foreign.pt", "no weights")),
    "code in the checkpoint": ((*EVAL_PLAIN, "{bad}/code.pt"), ("code.pt", "more than plain data")),
    "another architecture, eval": ((*EVAL_PLAIN, "{bad}/nano.pth"), ("nano.pth", "does not fit")),
    "another architecture, predict": ((*PREDICT_PLAIN, "{bad}/nano.pth"), ("nano.pth", "does not fit")),
    "another model's run, predict": (
        ("predict", "a2mamba_nano", "{bad}/good.png", "--out", "out", "--checkpoint", "{best}"),
        ("holds a2mamba_test, not a2mamba_nano", "a2mamba predict a2mamba_test"),
    ),
    "another recipe's run, eval": (
        ("eval", "folder", "--checkpoint", "{best}"),
        ("trained with the recipe 'digits'", "a2mamba eval digits"),
    ),
    # classes
    "wrong class count, eval": ((*EVAL_PLAIN, "{bad}/three.pth"), ("3 classes", "10")),
    "wrong class count, eval of a run": (
        ("eval", "digits", "--checkpoint", "{best}", "data.root={bad}/other_classes"),
        ("other classes than training", "cat"),
    ),
    "wrong class count, predict": (
        (*PREDICT, "{bad}/good.png", "--classes", "{bad}/two.txt"),
        ("two.txt names 2 classes, the model has 10",),
    ),
    "wrong class count, predict with weights": (
        (*PREDICT_PLAIN, "{bad}/three.pth", "--classes", "{bad}/two.txt"),
        ("two.txt names 2 classes, the model has 3",),
    ),
    "missing class names": ((*PREDICT, "{bad}/good.png", "--classes", "{bad}/absent.txt"), ("absent.txt",)),
    "image as class names": ((*PREDICT, "{bad}/good.png", "--classes", "{bad}/good.png"), ("good.png",)),
    # data
    "missing data, train": ((*SMALL, "data.root={bad}/absent"), ("absent", "does not exist")),
    "missing data, eval": (("eval", "digits", "--checkpoint", "{best}", "data.root={bad}/absent"), ("absent",)),
    "missing data, fit": (("fit", "{bad}/absent"), ("absent", "does not exist")),
    "missing data, check": (("data", "check", "{bad}/absent"), ("absent", "does not exist")),
    "empty data folder, train": ((*SMALL, "data.root={bad}/no_folders"), ("no_folders", "no folders")),
    "empty split, train": ((*SMALL, "data.root={bad}/no_classes"), ("no class folders",)),
    "class folder without images, train": ((*SMALL, "data.root={bad}/empty_class"), ("without images", "digit_1")),
    "class folder without images, eval": (
        ("eval", "digits", "--checkpoint", "{bad}/three.pth", "data.root={bad}/empty_val_class", *TEST_MODEL),
        ("three.pth", "3 classes"),
    ),
    "data demo over other files": (("data", "demo", "{bad}"), ("not empty",)),
    "data without an action": (("data",), ("ACTION",)),
    # names and values
    "unknown model, info": (("info", "a2mamba_tinny"), ("a2mamba_tinny", "did you mean 'a2mamba_tiny'?")),
    "unknown model, predict": (
        ("predict", "a2mamba_nono", "x.png", "--checkpoint", "{best}", "--out", "out"),
        ("did you mean 'a2mamba_nano'?",),
    ),
    "unknown model, train": ((*SMALL, "model.name=a2mamba_bas"), ("did you mean 'a2mamba_base'?",)),
    "unknown recipe, train": (("train", "digts"), ("did you mean 'digits'?",)),
    "unknown recipe, eval": (("eval", "foldr", "--checkpoint", "{best}"), ("did you mean 'folder'?",)),
    "unknown key": ((*SMALL, "optimizer.lrr=1"), ("optimizer.lrr", "did you mean optimizer.lr?")),
    "unknown key, eval": (
        ("eval", "digits", "--checkpoint", "{best}", "data.rot=x"),
        ("data.rot", "did you mean data.root?"),
    ),
    "unknown group": ((*SMALL, "shedule.epochs=1"), ("did you mean schedule.epochs?",)),
    "mistyped number": ((*SMALL, "schedule.epochs=many"), ("schedule.epochs", "int", "'many'")),
    "mistyped switch": ((*SMALL, "channels_last=maybe"), ("channels_last", "true or false", "'maybe'")),
    "no key=value": ((*SMALL, "epochs"), ("key=value", "'epochs'")),
    "warm-up longer than the run": ((*SMALL, "data.root={digits}", "schedule.warmup_epochs=9"), ("warmup_epochs",)),
    "unknown optimizer": ((*SMALL, "data.root={digits}", "optimizer.name=adamq"), ("adamq",)),
    "no epochs": ((*SMALL, "data.root={digits}", "schedule.epochs=0", "schedule.warmup_epochs=0"), ("epochs",)),
    "unknown command": (("trian", "digits"), ("'trian'", "did you mean 'train'?")),
    "no command": ((), ("COMMAND",)),
    "unknown option": (("train", "digits", "--epochs", "3"), ("--epochs",)),
    "stray word": (("models", "all"), ("all",)),
    "no such file to save": (("hub", "save", "nothing.pt", "folder"), ("nothing.pt",)),
    "no such file to serve": (("serve", "nothing.pt"), ("nothing.pt",)),
    "no such file to explain": (
        ("explain", "--checkpoint", "nothing.pt", "{bad}/good.png", "--out", "out"),
        ("nothing.pt",),
    ),
    "stray word, weights": (("weights", "all"), ("all",)),
    "missing option": (("eval", "digits"), ("--checkpoint",)),
    "option without a value": (("eval", "digits", "--checkpoint"), ("--checkpoint",)),
    "unknown device, train": ((*SMALL, "data.root={digits}", "--device", "nonsense"), ("nonsense", "--device cpu")),
    "unknown device, eval": (("eval", "digits", "--checkpoint", "{best}", "--device", "nonsense"), ("nonsense",)),
    "unknown device, predict": ((*PREDICT, "{bad}/good.png", "--device", "cuda:99"), ("cuda:99", "--device cpu")),
    "a device without values": ((*SMALL, "data.root={digits}", "--device", "meta"), ("meta", "--device cpu")),
    "missing checkpoint, export": (("export", "{bad}/absent.pt", "--out", "x.onnx"), ("absent.pt", "no such file")),
    "unknown table, paper": (("paper", "XX"), ("XX", "XIII")),
    "unknown model, bench": (
        ("bench", "--models", "a2mamba_tinny", "--sizes", "32"),
        ("a2mamba_tinny", "did you mean"),
    ),
    "no threads, bench": (("bench", "--threads", "0"), ("--threads", "at least 1")),
    "unknown kind of file, bench": (("bench", "--out", "speed.txt"), ("speed.txt", ".csv")),
    # sizes
    "size 0, bench": (("bench", "--sizes", "0"), ("--sizes", "at least 1")),
    "size 0": (("info", "a2mamba_test", "--size", "0"), ("--size", "at least 1")),
    "width 0": (("info", "a2mamba_test", "--size", "32", "0"), ("--size", "at least 1")),
    "three sizes": (("info", "a2mamba_test", "--size", "32", "32", "3"), ("--size",)),
    "size no number": (("info", "a2mamba_test", "--size", "big"), ("--size", "'big'")),
    "images of size 0": ((*SMALL, "data.image_size=0"), ("image_size=0", "1 or more")),
    "no classes to list": ((*PREDICT, "{bad}/good.png", "--top", "0"), ("--top", "at least 1")),
    # runs
    "nothing to resume": ((*SMALL, "data.root={digits}", "--resume"), ("nothing to resume", "run/checkpoints")),
    "result into a file": ((*PREDICT[:2], "{bad}/good.png", *PREDICT[4:], "--out", "{bad}/text.pt"), ("text.pt",)),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(mistake: str, bad_files: Path, digits: Path, trained: Trained, workplace: Path) -> None:
    words, parts = MISTAKES[mistake]
    names = {"bad": str(bad_files), "digits": str(digits), "best": str(trained.best)}
    before = content(bad_files)
    result = in_process(*(word.format(**names) for word in words))
    result.refused(*(part.format(**names) for part in parts))
    assert content(workplace) == {}
    assert content(bad_files) == before


def test_an_empty_folder_is_told_what_is_missing(bad_files: Path) -> None:
    result = in_process("data", "check", bad_files / "no_folders")
    assert (result.status, result.out) == (2, "")
    lines = result.err.splitlines()
    assert lines[0] == f"a2mamba data check: {bad_files / 'no_folders'} is no data set that is known here"
    assert [line.split(":")[0].strip() for line in lines[1:]] == ["found", "nearest", "try", "all layouts"]


def test_a_new_run_does_not_touch_another(trained: Trained, small_run: tuple[str, ...], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained.folder, folder)
    before = content(folder)
    result = in_process(*small_run, "--out", folder, "seed=1")
    result.refused(str(folder / "checkpoints"), "another run")
    assert content(folder) == before


def test_a_run_is_resumed_by_its_own_recipe_only(trained: Trained, small_run: tuple[str, ...], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained.folder, folder)
    before = content(folder)
    in_process(*small_run, "--out", folder, "--resume", "model.name=a2mamba_nano").refused("does not fit this run")
    in_process(*small_run, "--out", folder, "--resume", "schedule.epochs=9").refused("another schedule")
    assert content(folder) == before


def test_a_broken_image_in_training_names_its_file(bad_files: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(bad_files / "broken_image", root)
    broken = root / "val" / "digit_1" / "2.png"
    broken.write_bytes(broken.read_bytes()[:50])
    words = (
        "train",
        "digits",
        "--small",
        "--quiet",
        f"data.root={root}",
        "data.batch_size=2",
        "optimizer.lr=1e-3",
        "--out",
        tmp_path / "run",
    )
    result = in_process(*words)
    result.refused(str(broken))


def test_stderr_is_one_line_in_a_process_of_its_own(bad_files: Path, digits: Path, workplace: Path) -> None:
    """Here nothing takes away what the libraries would log or warn."""
    words = (word.format(digits=digits) for word in EVAL_PLAIN)
    result = in_new_process(*words, bad_files / "three.pth")
    result.refused("three.pth", "3 classes", "10")
    assert content(workplace) == {}


def test_weights_that_cannot_be_downloaded(bad_files: Path, workplace: Path) -> None:
    words = ("predict", "a2mamba_nano", "--pretrained", bad_files / "good.png", "--out", "out")
    result = in_new_process(*words, HF_HUB_OFFLINE="1", HF_HOME=str(workplace.parent / "hub"))
    result.refused("a2mamba_nano", "could not be downloaded", "checkpoint")
    assert content(workplace) == {}


def test_an_interrupt_outside_of_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(a2mamba.analysis, "flops", interrupt)
    result = in_process("info", "a2mamba_test")
    assert (result.status, result.out, result.err) == (130, "", "a2mamba: stopped\n")


def test_a_mistake_of_ours_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("ours")

    monkeypatch.setattr(a2mamba.analysis, "flops", fail)
    with pytest.raises(AssertionError, match="ours"):
        main(["info", "a2mamba_test"])


@pytest.mark.parametrize(
    "call",
    [
        lambda: a2mamba.create_model("a2mamba_test")(torch.zeros(1, 3, 0, 32)),
        lambda: a2mamba.create_model("a2mamba_test")(torch.zeros(1, 3, 32, 0)),
        lambda: a2mamba.create_model("a2mamba_test", img_size=0),
        lambda: a2mamba.create_model("a2mamba_test", img_size=(32, 0)),
        lambda: a2mamba.create_model("a2mamba_tset"),
    ],
)
def test_the_same_mistakes_in_python_are_value_errors(call: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"at least 1|positive|did you mean"):
        call()


def test_the_list_of_mistakes_covers_the_commands() -> None:
    used = {words[0] for words, _ in MISTAKES.values() if words}
    assert set(COMMANDS) - {"doctor", "demo"} <= used
