"""A model's page in the browser: here with heat maps, or as a Space of the Hub, a folder that runs there as it is."""

import sys
import tempfile
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any

import httpx2
import torch
from huggingface_hub import HfApi, SpaceCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]
from packaging.requirements import Requirement

from ..model.errors import HalflabelError
from ..training.features import process_state
from ..use.explain import explain
from ..use.inference import Name, SavedModel, hub_reason, open_model
from .image_plots import draw_heat_map

# What the code that lies beside a model's weights needs.
_NEEDED = {"huggingface-hub", "numpy", "pillow", "safetensors", "timm", "torch", "torchvision", "transformers"}
_README = """---
{metadata}
---

What `{model}` answers about a picture. Made by `halflabel demo {model} --space {space}`;
the model is loaded by the code that lies beside its weights.

Where the model is private, give this Space a secret named `HF_TOKEN` that may read it.
"""


def demo(
    model: Name | SavedModel,
    host: str | None = "127.0.0.1",
    port: int | None = None,
    space: str | None = None,
    output: Name | None = None,
) -> str | None:
    """Show the page of a model until it is interrupted, or make a Space that does.

    Args:
        model: A folder, a Hub name, or what is open already; for a Space a Hub name.
        host: The address to listen on; the default is reached from this machine alone.
        port: None: the first free one from 7860.
        space: The Hub name of a Space, which is pushed.
        output: A new or an empty folder: the Space is written there, and not pushed.

    Returns:
        The page of the Space, or its folder.

    Raises:
        HalflabelError: If Gradio is not installed, the model cannot be loaded, or the address or the port is taken or
            none of this machine; of a Space, as `write_space`, and if the Hub refuses.
    """
    if space is not None:
        name = model.name if isinstance(model, SavedModel) else str(model)
        if output is None:
            return push_space(name, space)
        write_space(name, space, Path(output))
        return str(output)
    if output is not None:
        raise HalflabelError("--output is for the folder of a Space: give its name with --space")
    try:
        from .space import build_page, launch
    except ImportError as error:
        raise HalflabelError("the demo needs Gradio: pip install 'halflabel[demo]'") from error
    saved = open_model(model)
    torch.nn.Module.to(saved.model, process_state().device)
    title = saved.folder.resolve().name if saved.folder else saved.name
    page = build_page(saved.model, saved.processor, title, lambda path, label: show_heat_map(saved, path, label))
    try:
        launch(page, host, port)
    except (OSError, OverflowError) as error:
        where = f"{host}, port {port}" if port else host
        raise HalflabelError(f"the demo cannot listen on {where}: give another --port or --host") from error
    return None


def show_heat_map(saved: SavedModel, path: str | None, label: str | None) -> tuple[Any, str]:
    """Return a heat map of a label for the page, and what there is to say about it."""
    import gradio

    from .space import quiet

    hidden = gradio.update(value=None, visible=False)
    if path is None or label is None:
        return hidden, ""
    try:
        explanation = explain(saved, path, [label])
    except HalflabelError as error:
        return hidden, quiet(str(error))
    heat_map = explanation.labels[0].heat_map
    words = "Bright: speaks most for the label." if heat_map.any() else "No single place speaks for this label."
    words += " The picture is as the model sees it, resized and cropped."
    return gradio.update(value=draw_heat_map(explanation.view, heat_map), visible=True), quiet(words)


def write_space(model: str, space: str, folder: Path) -> None:
    """Write a folder that the Hub runs as a Space: `README.md`, `app.py` (see `space`) and `requirements.txt`.

    Raises:
        HalflabelError: If a name is not one of the Hub, if the folder holds something, or if Gradio is not installed.
    """
    if Path(model).is_dir():
        raise HalflabelError(f"a Space loads its model from the Hub, and {model!r} is a folder: push it first")
    try:
        for name in (model, space):
            validate_repo_id(name)
        gradio = version("gradio")
    except HFValidationError as error:
        raise HalflabelError(f"not a name of the Hub: {str(error).rstrip('.')}") from error
    except PackageNotFoundError as error:
        raise HalflabelError("a Space needs Gradio here, too: pip install 'halflabel[demo]'") from error
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise HalflabelError(f"{folder} is not an empty folder: give another for the Space")
    folder.mkdir(parents=True, exist_ok=True)
    metadata = SpaceCardData(
        title=space.rpartition("/")[2], sdk="gradio", sdk_version=gradio, app_file="app.py", models=[model],
        python_version=f"{sys.version_info.major}.{sys.version_info.minor}",
    )  # fmt: skip
    page = Path(__file__).with_name("space.py").read_text(encoding="utf-8")
    own = [Requirement(line) for line in distribution("halflabel").requires or ()]
    needed = [f"{one.name}{one.specifier}" for one in own if one.marker is None and one.name.lower() in _NEEDED]
    files = {
        "README.md": _README.format(metadata=metadata.to_yaml(), model=model, space=space),
        "app.py": page.replace('MODEL = ""', f"MODEL = {model!r}"),
        "requirements.txt": "".join(f"{line}\n" for line in sorted(needed)),
    }
    for file, text in files.items():
        (folder / file).write_text(text, encoding="utf-8")


def push_space(model: str, space: str) -> str:
    """Write a Space and push it to the Hub, where it is created if need be; return its page."""
    api = HfApi()
    with tempfile.TemporaryDirectory() as folder:
        write_space(model, space, Path(folder))
        try:
            subject = f"the model {model!r} cannot be shown"
            api.model_info(model)
            subject = f"the Space {space!r} was not pushed"
            url = api.create_repo(space, repo_type="space", space_sdk="gradio", exist_ok=True)
            commit = f"Demo of {model}"
            api.upload_folder(repo_id=url.repo_id, repo_type="space", folder_path=folder, commit_message=commit)
        except (OSError, ValueError, RuntimeError, httpx2.HTTPError) as error:
            raise HalflabelError(f"{subject}: {hub_reason(error)}") from error
    return str(url)
