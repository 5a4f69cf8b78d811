"""`a2mamba info NAME`."""

from __future__ import annotations

import argparse

from a2mamba.cli.output import print_json, print_table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = "Example: a2mamba info a2mamba_tiny --size 512 --json"
    parser.add_argument("name", help="a model of `a2mamba models`")
    parser.add_argument(
        "--size", type=int, nargs="+", default=[224], metavar="N", help="image side, or height and width"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Count a model; nothing is computed or downloaded."""
    from a2mamba.analysis import feature_maps, flops, parameters
    from a2mamba.backbone import create_model

    size = arguments.size * 2 if len(arguments.size) == 1 else arguments.size
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"--size must be one or two numbers of at least 1, got {' '.join(map(str, arguments.size))}")
    model = create_model(arguments.name, device="meta")
    image = (3, *size)
    maps = feature_maps(model, image)
    count, operations = parameters(model), flops(model, image)
    if arguments.json:
        print_json({"name": arguments.name, "size": size, "params": count, "flops": operations, "feature_maps": maps})
        return 0
    print(f"{arguments.name}: {count:,} parameters, {operations / 1e9:.3f} G MACs at {size[0]} x {size[1]}")
    rows = [(m["module"], m["channels"], m["stride"], f"{m['height']} x {m['width']}") for m in maps]
    print_table(("feature map", "channels", "stride", "size"), rows)
    return 0
