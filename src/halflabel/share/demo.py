"""A page in the browser: drop a picture, see what the model answers, and where it saw it."""

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from ..model.decisions import say_threshold
from ..model.errors import HalflabelError
from ..model.image_processing_timm_multilabel import decode_image
from ..model.pipeline import MultiLabelImageClassificationPipeline
from ..use.explain import Explanation, explain
from ..use.inference import load_model

if TYPE_CHECKING:
    import gradio

_UPLOADS_STAY = 3600  # seconds
_CSS = """
.gradio-container {max-width: 1100px !important; margin: auto !important}
.hl-title {font-size: 1.4em; font-weight: 600}
.hl-quiet {opacity: .7}
.hl-answers {max-height: 32em; overflow-y: auto; padding-right: .5em}
.hl-row {display: grid; grid-template-columns: 1fr auto; gap: .15em 1em; padding: .5em 0}
.hl-name {overflow-wrap: anywhere; font-weight: 600}
.hl-no .hl-name {font-weight: 400}
.hl-answer {white-space: nowrap; font-variant-numeric: tabular-nums}
.hl-yes .hl-answer b {color: #0072b2}
.dark .hl-yes .hl-answer b {color: #56b4e9}
.hl-bar {grid-column: 1 / 3; position: relative; height: .7em; border-radius: .35em;
  background: var(--border-color-primary)}
.hl-fill {height: 100%; border-radius: .35em; background: #9aa1ac}
.hl-yes .hl-fill {background: #0072b2}
.hl-threshold {position: absolute; top: -.2em; bottom: -.2em; width: 2px; margin-left: -1px;
  background: var(--body-text-color)}
#heat_map img {width: 100%; height: 100%; object-fit: contain}
"""


class Demo:
    """What the page asks the model."""

    def __init__(self, name: str) -> None:
        """Load a model from a folder or from the Hub."""
        model, processor = load_model(name)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.pipeline = MultiLabelImageClassificationPipeline(model=model, image_processor=processor, device=device)
        self.model, self.processor = model, processor
        rule, names = model.config.decision_rule, model.config.label_space.names
        self.thresholds = dict(zip(names, rule.thresholds, strict=True))

    def answer(self, path: str | None) -> tuple[str, Any]:
        """Return the answers about a picture, and the labels in their order for the choice of a heat map."""
        import gradio

        nothing = gradio.update(choices=[], value=None)
        if path is None:
            return _quiet("Drop a picture on the left."), nothing
        try:
            answers: Any = self.pipeline(path)
        except HalflabelError as error:
            return _quiet(str(error)), nothing
        labels = [answer["label"] for answer in answers]
        return _render(answers, self.thresholds), gradio.update(choices=labels, value=labels[0])

    def show(self, path: str | None, label: str | None) -> tuple[Any, str]:
        """Return a heat map of a label, and what there is to say about it."""
        import gradio

        hidden = gradio.update(value=None, visible=False)
        if path is None or label is None:
            return hidden, ""
        try:
            picture = decode_image({"path": path}, path, self.processor.needed_side())
            explanation = explain(self.model, self.processor, picture, [label])
        except HalflabelError as error:
            return hidden, _quiet(str(error))
        found = explanation.labels[0].heat_map.any()
        words = "Bright: speaks most for the label." if found else "No single place speaks for this label."
        words += " The picture is as the model sees it, resized and cropped."
        return gradio.update(value=draw_heat_map(explanation), visible=True), _quiet(words)


def _quiet(text: str) -> str:
    return f'<p class="hl-quiet">{escape(text)}</p>'


def _render(answers: list[dict[str, Any]], thresholds: dict[str, float]) -> str:
    """Return HTML with a bar per label, a tick at its threshold, and the answer in words."""
    rows = []
    for answer in answers:
        threshold, said = thresholds[answer["label"]], "yes" if answer["decision"] else "no"
        tick = f'<div class="hl-threshold" style="left: {100 * threshold:.2f}%"></div>' if threshold <= 1 else ""
        rows.append(
            f'<div class="hl-row hl-{said}"><span class="hl-name">{escape(answer["label"])}</span>'
            f'<span class="hl-answer"><b>{said}</b> {answer["score"]:.3f} '
            f'<span class="hl-quiet">({say_threshold(threshold)})</span></span>'
            f'<div class="hl-bar"><div class="hl-fill" style="width: {100 * answer["score"]:.2f}%"></div>{tick}</div>'
            "</div>"
        )
    return f'<div class="hl-answers">{"".join(rows)}</div>'


def draw_heat_map(explanation: Explanation) -> Image.Image:
    """Return what the network saw, in grey, under the heat map of the first label.

    Where the map is h, a pixel is the mix of (1 - 0.75 h) grey and 0.75 h of the colour that h has in `inferno`.
    """
    from matplotlib import colormaps

    heat = explanation.labels[0].heat_map[..., None]
    grey = np.asarray(explanation.view.convert("L"))[..., None] / 255
    colours = colormaps["inferno"](heat[..., 0])[..., :3]
    return Image.fromarray(np.rint(255 * (grey + 0.75 * heat * (colours - grey))).astype(np.uint8))


def build_page(name: str) -> "gradio.Blocks":
    """Make the page for a model.

    Args:
        name: The model's folder or Hub name.

    Raises:
        HalflabelError: If Gradio is not installed, or the model cannot be loaded.
    """
    try:
        import gradio as gr
    except ImportError as error:
        raise HalflabelError("the demo needs Gradio: pip install 'halflabel[demo]'") from error
    demo = Demo(name)
    title = Path(name).resolve().name if Path(name).is_dir() else name
    about = f"{len(demo.thresholds)} yes/no questions; a bar is a score, the tick on it the threshold of a yes"
    page: gr.Blocks = gr.Blocks(title=title, analytics_enabled=False, delete_cache=(_UPLOADS_STAY, _UPLOADS_STAY))
    with page:
        gr.HTML(f'<div class="hl-title">{escape(title)}</div>{_quiet(about)}')
        with gr.Row():
            with gr.Column():
                picture = gr.Image(
                    type="filepath", image_mode=None, sources=["upload", "clipboard"], label="picture", buttons=[],
                    height=330, elem_id="picture",
                )  # fmt: skip
                label = gr.Dropdown([], label="heat map of", elem_id="label")
                heat_map = gr.Image(
                    label="where the picture speaks for it", visible=False, format="png", buttons=[], height=330,
                    interactive=False, elem_id="heat_map",
                )  # fmt: skip
                words = gr.HTML(elem_id="words")
            answers = gr.HTML(demo.answer(None)[0], elem_id="answers")
        one_at_a_time: Any = {"concurrency_id": "model", "concurrency_limit": 1}
        answered = picture.change(demo.answer, picture, [answers, label], **one_at_a_time)
        answered.then(demo.show, [picture, label], [heat_map, words], **one_at_a_time)
        label.input(demo.show, [picture, label], [heat_map, words], **one_at_a_time)
    return page


def serve(name: str, host: str | None = "127.0.0.1", port: int | None = None) -> None:
    """Show the page of a model until it is interrupted; nothing is sent to anybody else, and no link is shared.

    Args:
        name: The model's folder or Hub name.
        host: The address to listen on; the default is reached from this machine alone. None: Gradio's choice, which is
            the same, but on a Space the one that is reached from outside.
        port: None: the first free one from 7860.

    Raises:
        HalflabelError: As `build_page`, or if the address or the port is taken or none of this machine.
    """
    page = build_page(name)
    import gradio as gr

    theme = gr.themes.Base(primary_hue="blue", font=("system-ui", "sans-serif"), font_mono=("monospace",))
    try:
        page.launch(
            server_name=host, server_port=port, share=False, quiet=True, ssr_mode=False, footer_links=[],
            prevent_thread_lock=True, theme=theme, css=_CSS,
        )  # fmt: skip
    except (OSError, OverflowError) as error:
        where = f"{host}, port {port}" if port else host
        raise HalflabelError(f"the demo cannot listen on {where}: give another --port or --host") from error
    print(f"open {page.local_url} in a browser; Ctrl-C ends it", flush=True)
    page.block_thread()
