"""The page: a tab for each task that there is a network for, made of Gradio's components."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from a2mamba.predictor import Predictor
from a2mamba.serve.answers import TASK_PAGES, TaskPage, bars
from a2mamba.serve.explanation import Explained, explain_point, point_in_view, show_view
from a2mamba.serve.networks import Offered
from a2mamba.serve.uploads import Upload, read_upload

_HEAD = """<h1>A2Mamba</h1>
<p>Attention-augmented state-space networks on this machine. Images stay here and are deleted after an hour.</p>"""
_EXPLAIN = """<h3>Where does it look?</h3>
<p>Click a point of the image: its attention in the last block of every stage, sliding and dilated.</p>"""
_PROGRESS = gr.Progress()
_ONE_AT_A_TIME = "network"  # networks share the machine's cores
_HOUR, _TEN_MINUTES = 3600, 600


def build_page(networks: Sequence[Offered], examples: Sequence[Path], *, max_pixels: int) -> gr.Blocks:
    """Return the page, not yet launched.

    Args:
        networks: what can be chosen; a tab is made for each task that occurs.
        examples: image files that a click loads.
        max_pixels: largest uploaded image.
    """
    with gr.Blocks(title="A2Mamba", analytics_enabled=False, delete_cache=(_TEN_MINUTES, _HOUR)) as page:
        gr.HTML(_HEAD, elem_id="a2-head")
        with gr.Tabs():
            for task, words in TASK_PAGES.items():
                of_task = {label: predictor for label, predictor in networks if predictor.task == task}
                if of_task:
                    with gr.Tab(words.tab, id=task):
                        _build_tab(_Answers(of_task, max_pixels), words, examples)
    return page


class _Answers:
    """What happens in a tab.

    Its methods are given what the browser has sent, with `preprocess=False`: Gradio has checked that a file is one that
    was uploaded, and has not opened it. `read_upload` does, in the one way that images are decoded.

    Args:
        networks: of the tab's task, by label.
        max_pixels: largest uploaded image.
    """

    def __init__(self, networks: Mapping[str, Predictor], max_pixels: int) -> None:
        self.networks = networks
        self.max_pixels = max_pixels

    def predict(
        self, network: str, file: Upload | None, progress: gr.Progress = _PROGRESS
    ) -> tuple[Image.Image | None, str, str, dict[str, Any] | None, Image.Image | None, None]:
        """Return drawing, a line about it, its entries, the same as JSON, the image to click on, and no maps yet."""
        if file is None:
            return None, "", "", None, None, None
        progress(0.1, desc="reading the image")
        predictor, image = self._open(network, file)
        progress(0.3, desc=f"{predictor.run.model.name} looks at it")
        started = time.perf_counter()
        try:
            (prediction,) = predictor.predict(image)
        except ValueError as error:
            raise _refusal(str(error)) from error
        seconds = time.perf_counter() - started
        progress(0.8, desc="drawing")
        entries = prediction.to_dict()
        del entries["image"]  # a name that the predictor made up
        said = f"{image.width} x {image.height} pixels, {1e3 * seconds:.0f} ms on {predictor.device}"
        return prediction.drawing(), said, bars(prediction, predictor), entries, show_view(predictor, image), None

    def explain(
        self, network: str, file: Upload | None, column: float, row: float, progress: gr.Progress = _PROGRESS
    ) -> Explained:
        """Return the image with the point marked, and the attention maps of that point."""
        if file is None:
            raise _refusal("choose an image first")
        progress(0.1, desc="reading the image")
        predictor, image = self._open(network, file)
        progress(0.3, desc="following the attention")
        try:
            return explain_point(predictor, image, (int(column), int(row)))
        except ValueError as error:
            raise _refusal(str(error)) from error

    def point(self, network: str, file: Upload | None, event: gr.SelectData) -> tuple[int, int]:
        """Return column and row, in the image as the network sees it, of a place that was clicked."""
        if file is None:
            raise _refusal("choose an image first")
        match event.index:
            case [int() | float() as x, int() | float() as y]:
                return point_in_view(*self._open(network, file), (int(x), int(y)))
        raise _refusal("click a point of the image itself")

    def _open(self, network: str, file: Upload) -> tuple[Predictor, Image.Image]:
        if network not in self.networks:
            raise _refusal(f"no network {network!r}; expected one of {', '.join(self.networks)}")
        predictor = self.networks[network]
        try:
            return predictor, read_upload(file, predictor, max_pixels=self.max_pixels)
        except ValueError as error:
            raise _refusal(str(error)) from error


def _build_tab(answers: _Answers, words: TaskPage, examples: Sequence[Path]) -> None:
    labels = list(answers.networks)
    with gr.Row():
        with gr.Column(scale=5, min_width=300):
            network = gr.Dropdown(labels, value=labels[0], label="Network", filterable=False)
            image = gr.Image(
                label="Image", height=300, buttons=["fullscreen"], elem_classes="a2-image", alt_text="the chosen image"
            )
            gr.Examples(
                [[str(file)] for file in examples],
                inputs=[image],
                label="Or one of these",
                cache_examples=False,
                preload=False,
                api_visibility="private",
            )
        with gr.Column(scale=6, min_width=300):
            drawing = gr.Image(
                label="What the network says",
                format="png",
                interactive=False,
                height=380,
                buttons=["download", "fullscreen"],
                elem_classes="a2-image",
                alt_text="the prediction, drawn",
            )
            said = gr.Markdown(elem_classes="a2-said")
            found = gr.HTML(visible=words.listed)
            with gr.Accordion("As JSON", open=False):
                as_json = gr.JSON(show_label=False)
    gr.HTML(_EXPLAIN, elem_classes="a2-section")
    with gr.Row():
        with gr.Column(scale=5, min_width=300):
            view = gr.Image(
                label="As the network sees it",
                interactive=False,
                height=300,
                buttons=[],
                elem_classes="a2-point",
                alt_text="the image as the network sees it, where a point can be clicked",
            )
            with gr.Row():
                column = gr.Number(0, label="Column", precision=0, minimum=0, min_width=80)
                row = gr.Number(0, label="Row", precision=0, minimum=0, min_width=80)
                explain = gr.Button("Explain this point", min_width=140, elem_classes="a2-explain")
        with gr.Column(scale=6, min_width=300):
            maps = gr.Gallery(
                label="Attention of the point",
                columns=4,
                object_fit="contain",
                height="auto",
                interactive=False,
                buttons=["fullscreen"],
                elem_classes="a2-maps",
            )
    gr.on(
        [image.change, network.change],
        answers.predict,
        [network, image],
        [drawing, said, found, as_json, view, maps],
        api_name=words.verb,
        show_progress_on=[drawing],
        concurrency_id=_ONE_AT_A_TIME,
        trigger_mode="always_last",
        preprocess=False,
    )
    clicked = view.select(
        answers.point,
        [network, image],
        [column, row],
        api_visibility="private",
        show_progress="hidden",
        preprocess=False,
    )
    for asked, name in ((explain.click, f"explain_{words.verb}"), (clicked.success, None)):
        asked(
            answers.explain,
            [network, image, column, row],
            [view, maps],
            api_name=name,
            api_visibility="private" if name is None else "public",
            show_progress_on=[maps],
            concurrency_id=_ONE_AT_A_TIME,
            preprocess=False,
        )


def _refusal(text: str) -> gr.Error:
    """An error that the visitor reads, and no traceback in the terminal."""
    return gr.Error(text, duration=10, print_exception=False)
