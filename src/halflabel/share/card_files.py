"""A model's card on disk: the files that it is rendered from, and when it is written."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers.utils import CONFIG_NAME

from ..data.files import read_yaml, write_whole
from ..data.loading import find_format, parse_sources
from ..model.configuration_timm_multilabel import TimmMultiLabelConfig
from ..model.errors import HalflabelError, reason_of
from ..model.labels import LabelCounts
from ..training.keys import DEFAULTS
from ..training.run import METRICS, PLOTS, RECIPE
from .card_record import RunRecord
from .model_card import EXAMPLES, render_card

CARD, CARD_DATA = "README.md", "card.json"

_ANSWERS = ("positive", "negative", "uncertain")


def save_card_data(
    folder: Path, name: str, sources: Sequence[Any], counts: LabelCounts, label_names: tuple[str, ...]
) -> None:
    """Write to `card.json` what the card tells and no other file of the folder holds.

    Args:
        folder: The output folder.
        name: The recipe's name.
        sources: The recipe's.
        counts: What was known in training.
        label_names: The labels, in order.
    """
    hub = [one.path for one in parse_sources(list(sources)) if (one.format or find_format(one.path)) == "datasets"]
    content = {
        "name": name,
        "repository": None,
        "datasets": [path for path in hub if not os.path.exists(path)],  # noqa: PTH110
        "training": {
            "images": counts.images,
            "labels": {
                label: {answer: int(getattr(counts, answer)[i]) for answer in _ANSWERS}
                for i, label in enumerate(label_names)
            },
        },
    }
    write_whole(folder / CARD_DATA, json.dumps(content, indent=1) + "\n")


def render_folder(folder: str | Path, repository: str | None = None) -> str:
    """Render the card of a model from its output folder; the same files give the same card, byte for byte.

    Args:
        folder: What `halflabel train` wrote, or a copy from the Hub.
        repository: The Hub repository for the usage blocks; None: the one of the last `write_card`, if any, else the
            recipe's output folder.

    Raises:
        HalflabelError: If a file is missing, or the files do not belong together.
    """
    place = Path(folder)
    try:
        return render_card(_read(place, repository))
    except HalflabelError:
        raise
    except Exception as error:  # the files may hold anything, and rendering stumbles over each thing in its own way
        files, reason = f"{CARD_DATA}, {METRICS} or {RECIPE}", reason_of(error)
        raise HalflabelError(f"{place}: {files} is not as `halflabel train` wrote it: {reason}") from error


def write_card(folder: str | Path, repository: str | None = None) -> None:
    """Render the card into `README.md`; a repository is remembered in `card.json`.

    Arguments and errors are those of `render_folder`; after an error both files are as they were.
    """
    place = Path(folder)
    card = render_folder(place, repository)
    if repository is not None:
        content = {**json.loads((place / CARD_DATA).read_text(encoding="utf-8")), "repository": repository}
        write_whole(place / CARD_DATA, json.dumps(content, indent=1) + "\n")
    write_whole(place / CARD, card)


def is_rendered(folder: str | Path) -> bool:
    """Tell whether `README.md` is what the folder's files render to, so that nobody's words are lost if it is again."""
    try:
        return (Path(folder) / CARD).read_bytes() == render_folder(folder).encode()
    except (HalflabelError, OSError):
        return False


def _read(folder: Path, repository: str | None) -> RunRecord:
    recipe, data, metrics = (_load(folder, name) for name in (RECIPE, CARD_DATA, METRICS))
    if not (folder / CONFIG_NAME).is_file():
        raise HalflabelError(f"{folder} holds no {CONFIG_NAME}: it is not a model's folder")
    config = TimmMultiLabelConfig.from_pretrained(str(folder))
    names = config.label_space.names
    for file, labels in ((CARD_DATA, data["training"]["labels"]), (METRICS, metrics.get("labels", names))):
        if tuple(labels) != names:
            raise HalflabelError(f"{folder}: {file} tells of other labels than {CONFIG_NAME}, so no card can be made")
    defaults = DEFAULTS
    rows = data["training"]["labels"].values()
    positive, negative, uncertain = (np.array([row[answer] for row in rows], dtype=np.int64) for answer in _ANSWERS)
    plots = sorted(f"{PLOTS}/{path.name}" for path in (folder / PLOTS).glob("*.png"))
    return RunRecord(
        name=data["name"],
        recipe={**recipe, **{key: value for key, value in defaults.items() if key not in recipe}},
        metrics={"undefined_labels": [], **metrics},
        counts=LabelCounts(positive + negative, positive, negative, uncertain, data["training"]["images"]),
        label_names=names,
        rule=config.decision_rule,
        datasets=data["datasets"],
        pictures=[*([EXAMPLES] if (folder / EXAMPLES).is_file() else []), *plots],
        repository=repository or data["repository"],
    )


def _load(folder: Path, name: str) -> Any:  # noqa: ANN401 - what a file holds
    path = folder / name
    if not path.is_file():
        raise HalflabelError(f"{folder} holds no {name}: a card is rendered from what `halflabel train` writes")
    content = _read_json(path) if path.suffix == ".json" else read_yaml(path)
    if not isinstance(content, dict):
        raise HalflabelError(f"{path} is not a mapping")
    return content


def _read_json(path: Path) -> Any:  # noqa: ANN401
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise HalflabelError(f"{path}: cannot be read as JSON ({reason_of(error)})") from error
