"""The image of the README, cut from the sheet that `a2mamba demo` or `a2mamba eval --save-images` draws.

python docs/assets/results.py demo/scenes-images/segmentation.png docs/assets/results.png --rows 2 3
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

HEADER, ROW, WIDTH = 28, 248, 990  # of the sheet: its first line, a scene with the space below it, three columns


def main() -> None:
    """Put chosen rows below the header, image, truth and prediction side by side, in 256 colors."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sheet", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", type=int, nargs="+", default=[0, 1], help="scenes of the sheet, counted from 0")
    arguments = parser.parse_args()
    with Image.open(arguments.sheet) as sheet:
        image = Image.new("RGB", (WIDTH, HEADER + ROW * len(arguments.rows)), "white")
        image.paste(sheet.crop((0, 0, WIDTH, HEADER)), (0, 0))
        for place, row in enumerate(arguments.rows):
            top = HEADER + ROW * row
            image.paste(sheet.crop((0, top, WIDTH, top + ROW)), (0, HEADER + ROW * place))
    image = image.resize((image.width * 2 // 3, image.height * 2 // 3), Image.Resampling.LANCZOS)
    image.quantize(256).save(arguments.out, optimize=True)


if __name__ == "__main__":
    main()
