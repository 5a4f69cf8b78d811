"""The command `a2mamba`: finds the subcommand, imports it alone, and turns mistakes into one line."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from a2mamba import __version__
from a2mamba.cli.output import any_terminal, printable
from a2mamba.near_names import did_you_mean

COMMANDS = {
    "doctor": "versions, devices, and which backend each operator uses and why",
    "models": "the backbones: sizes, accuracy, weights",
    "weights": "the released weights: task, data set, accuracy, license, address",
    "info": "parameters, multiply-accumulates and feature maps of a model",
    "data": "write the embedded data, or check a data set",
    "train": "train a recipe",
    "fit": "look at a folder of images, choose a recipe, train",
    "eval": "evaluate a checkpoint on a recipe's data",
    "predict": "classify, segment or find objects in images",
    "hub": "a network as a folder for timm, transformers and the Hugging Face hub",
    "explain": "what a network looks at: attention, states, Grad-CAM, features, receptive field",
    "export": "a network as a file for ONNX Runtime, OpenVINO or torch.export",
    "serve": "a local web page for images",
    "bench": "speed and memory of models, timm's beside ours in one run",
    "paper": "the tables of the paper, our numbers beside them",
    "demo": "embedded data, training, evaluation, prediction, report: the whole way",
}
"""Each is a module of this package with ``add_arguments(parser)`` and ``run(arguments) -> exit status``."""


FAILED, MISTAKE, INTERRUPTED = 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status.

    0; 1 where training failed; 2 for a user's mistake; 130 on Ctrl-C, 143 on SIGTERM and 75 at a time limit, all three
    with the run saved where one was under way.
    """
    any_terminal()
    argv = _with_resume_mode(sys.argv[1:] if argv is None else argv)
    arguments = _parse(_parser(argv), argv)
    try:
        return importlib.import_module(f"a2mamba.cli.{arguments.command}").run(arguments)
    except KeyboardInterrupt:
        print("a2mamba: stopped", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output (head, less) has gone; nobody is left to tell.
        sys.stderr.close()
        return 0
    except Exception as error:
        status = _status(error)
        if status is None or (arguments.debug and status in (FAILED, MISTAKE)):
            raise
        what = arguments.command if status in (FAILED, MISTAKE) else "stopped"
        print(f"a2mamba{' ' if what != 'stopped' else ': '}{what}: {printable(_one_line(error))}", file=sys.stderr)
        return status


def _status(error: Exception) -> int | None:
    """Return the exit status that an error of ours or of the user's comes to; None: it is a fault of the program.

    `engine.errors` have an ``exit_status``; they are not imported here, for torch would come with them.
    """
    if isinstance(error, (ValueError, OSError, ImportError)):
        return MISTAKE
    status = getattr(error, "exit_status", None)
    return status if isinstance(status, int) else None


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, without the usage before it."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and exit with 2."""
        self.exit(2, f"{self.prog}: {' '.join(message.split())}; see {self.prog} --help\n")


def _parse(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    """Parse; options may stand anywhere among a command's key=value or image words.

    argparse alone takes such a list of words only as far as the first option, and refuses those behind it.
    """
    arguments, rest = parser.parse_known_args(argv)
    if rest and not any(word.startswith("-") for word in rest):
        for name, read in (("overrides", str), ("words", str), ("images", Path)):
            if hasattr(arguments, name):
                getattr(arguments, name).extend(map(read, rest))
                return arguments
    if rest:
        parser.prog = f"{parser.prog} {arguments.command}"
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return arguments


def _with_resume_mode(argv: Sequence[str]) -> list[str]:
    """Give every `--resume` its value: of an optional one argparse takes whatever word follows, a recipe say."""
    words: list[str] = []
    for word in argv:
        if word == "auto" and words[-1:] == ["--resume=require"]:
            words[-1] = "--resume=auto"
        else:
            words.append("--resume=require" if word == "--resume" else word)
    return words


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    """Return the parser; only the subcommand that is asked for is imported, the others are names with a help line."""
    parser = _Parser(
        prog="a2mamba",
        description="Vision backbones that mix attention with state-space models.",
        epilog="Example: a2mamba info a2mamba_tiny",
    )
    parser.add_argument("--version", action="version", version=f"a2mamba {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    wanted = next((word for word in argv if not word.startswith("-")), None)
    if wanted is not None and wanted not in COMMANDS:
        parser.error(f"unknown command {wanted!r}, {did_you_mean(wanted, COMMANDS)}")
    for name, line in COMMANDS.items():
        subparser = subparsers.add_parser(
            name, help=line, description=line[0].upper() + line[1:] + ".", formatter_class=argparse.RawTextHelpFormatter
        )
        if name == wanted:
            importlib.import_module(f"a2mamba.cli.{name}").add_arguments(subparser)
        subparser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
