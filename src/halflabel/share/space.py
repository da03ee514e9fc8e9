"""A page in the browser: drop a picture, see what a model answers. Alone, this file is the `app.py` of a Space.

There is no halflabel: the model is loaded by the code that lies beside its weights, and what is needed of that code is
taken from the modules that it came in.
"""

import sys
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
import torch

MODEL = ""
"""The Hub name; written in when a Space is made."""

_UPLOADS_STAY, _LARGEST_UPLOAD = 3600, "50mb"  # seconds
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


def quiet(text: str) -> str:
    """Return a paragraph of HTML."""
    return f'<p class="hl-quiet">{escape(text)}</p>'


def answer(model: Any, processor: Any, path: str | None) -> tuple[str, Any]:  # noqa: ANN401 - of either code
    """Return the answers about a picture in HTML, and the labels in their order for the choice of a heat map.

    A bar per label, a tick at its threshold, and the answer in words; scores and answers are those of the pipeline.
    """
    nothing = gr.update(choices=[], value=None)
    if path is None:
        return quiet("Drop a picture on the left."), nothing
    rule, names = model.config.decision_rule, model.config.label_space.names
    decode_image = sys.modules[type(processor).__module__].decode_image
    say_threshold = sys.modules[type(rule).__module__].say_threshold
    try:
        picture = decode_image({"path": path}, Path(path).name, processor.needed_side())
        with torch.inference_mode():
            logits = model(pixel_values=processor(picture)["pixel_values"].to(model.device)).logits
        scores = rule.scores(logits.cpu().double().numpy())[0]
    except ValueError as error:
        return quiet(str(error)), nothing
    decisions, rows = rule.decide(scores), []
    order = (-scores).argsort(kind="stable")
    for i in order:
        threshold, said = rule.thresholds[i], "yes" if decisions[i] else "no"
        tick = f'<div class="hl-threshold" style="left: {100 * threshold:.2f}%"></div>' if threshold <= 1 else ""
        rows.append(
            f'<div class="hl-row hl-{said}"><span class="hl-name">{escape(names[i])}</span>'
            f'<span class="hl-answer"><b>{said}</b> {scores[i]:.3f} '
            f'<span class="hl-quiet">({say_threshold(threshold)})</span></span>'
            f'<div class="hl-bar"><div class="hl-fill" style="width: {100 * scores[i]:.2f}%"></div>{tick}</div></div>'
        )
    labels = [names[i] for i in order]
    return f'<div class="hl-answers">{"".join(rows)}</div>', gr.update(choices=labels, value=labels[0])


def build_page(
    model: Any,  # noqa: ANN401
    processor: Any,  # noqa: ANN401
    title: str,
    show: Callable[[str | None, str | None], tuple[Any, str]] | None = None,
) -> gr.Blocks:
    """Make the page for a model in evaluation mode.

    Of a picture's path and a label `show` makes an update of the heat map, and words about it; None: no heat maps.
    """
    count = len(model.config.label_space.names)
    about = f"{count} yes/no questions; a bar is a score, the tick on it the threshold of a yes"
    page: gr.Blocks = gr.Blocks(title=title, analytics_enabled=False, delete_cache=(_UPLOADS_STAY, _UPLOADS_STAY))
    with page:
        gr.HTML(f'<div class="hl-title">{escape(title)}</div>{quiet(about)}')
        with gr.Row():
            with gr.Column():
                picture: Any = gr.Image(
                    type="filepath", image_mode=None, sources=["upload", "clipboard"], label="picture", buttons=[],
                    height=330, elem_id="picture",
                )  # fmt: skip
                opened = picture.preprocess  # which fails, without a reason, where `answer` gives one
                picture.preprocess = lambda given: given.path if given and given.path else opened(given)
                label = gr.Dropdown([], label="heat map of", elem_id="label", visible=show is not None)
                heat_map = gr.Image(
                    label="where the picture speaks for it", visible=False, format="png", buttons=[], height=330,
                    interactive=False, elem_id="heat_map",
                )  # fmt: skip
                words = gr.HTML(elem_id="words")
            answers = gr.HTML(answer(model, processor, None)[0], elem_id="answers")
        one_at_a_time: Any = {"concurrency_id": "model", "concurrency_limit": 1}
        answered = picture.change(lambda path: answer(model, processor, path), picture, [answers, label],
                                  **one_at_a_time)  # fmt: skip
        if show is not None:
            answered.then(show, [picture, label], [heat_map, words], **one_at_a_time)
            label.input(show, [picture, label], [heat_map, words], **one_at_a_time)
    return page


def launch(page: gr.Blocks, host: str | None = None, port: int | None = None) -> None:
    """Show a page until it is interrupted; without a host this machine alone reaches it, of a Space all."""
    theme = gr.themes.Base(primary_hue="blue", font=("system-ui", "sans-serif"), font_mono=("monospace",))
    page.launch(
        server_name=host, server_port=port, share=False, quiet=True, ssr_mode=False, footer_links=[],
        prevent_thread_lock=True, theme=theme, css=_CSS, max_file_size=_LARGEST_UPLOAD,
    )  # fmt: skip
    print(f"open {page.local_url} in a browser; Ctrl-C ends it", flush=True)
    page.block_thread()


if __name__ == "__main__":
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    trusted: dict[str, Any] = {"trust_remote_code": True}
    network = AutoModelForImageClassification.from_pretrained(MODEL, **trusted).eval()
    launch(build_page(network, AutoImageProcessor.from_pretrained(MODEL, **trusted), MODEL))
