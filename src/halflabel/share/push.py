"""Push a finished model's folder to the Hub; whatever fails, the folder is left whole and the error says what to do."""

import json
import logging
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HFValidationError
from transformers.dynamic_module_utils import get_relative_import_files
from transformers.utils import CONFIG_NAME, IMAGE_PROCESSOR_NAME, SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from ..model.configuration_timm_multilabel import TimmMultiLabelConfig
from ..model.errors import HalflabelError
from ..training.run import METRICS, RECIPE, TRAINING_LOG
from ..use.inference import Name, SavedModel, hub_reason
from .card import CARD, CARD_DATA, PICTURES, card, is_rendered

log = logging.getLogger(__name__)

_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
_FILES = (CONFIG_NAME, IMAGE_PROCESSOR_NAME, SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME,
          CARD, CARD_DATA, METRICS, RECIPE, TRAINING_LOG, *PICTURES)  # fmt: skip
"""What a run writes to be shared, beside shards of weights and the code that the model needs."""


def push(
    folder: Name | SavedModel,
    repository: str,
    private: bool | None = None,
    revision: str | None = None,
    message: str | None = None,
    token: str | None = None,
) -> str:
    """Upload what `halflabel train` wrote into its output folder, as one commit; see `shared_files`.

    The card, unless somebody rewrote it, is first rendered for the repository, so that its examples load from there.

    Args:
        folder: That of a finished run, or what was loaded from one.
        repository: `user/name` or, in one's own namespace, `name`; created where there is none.
        private: True: a repository that is created is private, and one that is public is refused.
        revision: A branch, created where there is none; None: `main`.
        message: The commit's title.
        token: None: the one of `hf auth login` or `HF_TOKEN`.

    Returns:
        The model's page.

    Raises:
        HalflabelError: If the folder holds no finished model, or the push fails; the folder is left whole.
    """
    place = Path(folder.name if isinstance(folder, SavedModel) else folder)
    files = _check_finished(place)
    flags = ["--private"] * bool(private) + (["--revision", revision] if revision else [])
    again = shlex.join(["halflabel", "push", str(place), repository, *flags])
    try:
        name, url = prepare_repository(repository, private, token)
        if is_rendered(place):
            card(place, name)
        api = HfApi(token=token)
        if revision is not None:
            api.create_branch(name, branch=revision, exist_ok=True)
        added = [CommitOperationAdd(file, place / file) for file in files]
        api.create_commit(name, added, revision=revision, commit_message=message or f"Upload {name}")
    except HalflabelError as error:
        raise HalflabelError(f"{error}; {place} is whole, go on with: {again}") from error
    except (OSError, ValueError, RuntimeError, httpx2.HTTPError) as error:  # RuntimeError: an upload that broke off
        raise HalflabelError(
            f"{repository!r} was not pushed: {hub_reason(error)}; {place} is whole, go on with: {again}"
        ) from error
    return f"{url}/tree/{revision}" if revision else url


def prepare_repository(repository: str, private: bool | None = None, token: str | None = None) -> tuple[str, str]:
    """Create a repository unless it is there, and return its full name and its page.

    A run does so before it trains, so that a wrong token or name shows at once.

    Raises:
        HalflabelError: If the Hub refuses it or cannot be reached, or it is public and should be private.
    """
    api = HfApi(token=token)
    try:
        url = api.create_repo(repository, private=private, exist_ok=True)
        if private and not api.model_info(url.repo_id).private:
            raise HalflabelError(f"{url.repo_id!r} is there already and public: take another name, or make it private")
    except (HFValidationError, OSError, httpx2.HTTPError) as error:
        raise HalflabelError(f"{repository!r} cannot be pushed to: {hub_reason(error)}") from error
    return url.repo_id, str(url)


def shared_files(folder: Path) -> list[str]:
    """Return which files of a model's folder are pushed: those that a run writes, and nothing that only lies there.

    A link is none of them, wherever it leads, and neither is what lies in a folder that is one; a warning names both.
    """
    root = folder.resolve()
    present = sorted({name for name in (*_FILES, *_named_in(root)) if os.path.lexists(root / name)})
    files = [name for name in present if (root / name).is_file() and (root / name).resolve() == root / name]
    for name in set(present).difference(files):
        log.warning("%s is no file of its own (a link?) and is not pushed", folder / name)
    return files


def _named_in(folder: Path) -> Iterator[str]:
    """Give the shards that the index of the weights names, and the code that the configurations name."""
    shards = map(str, _read(folder / SAFE_WEIGHTS_INDEX_NAME).get("weight_map", {}).values())
    yield from filter(_SHARD.fullmatch, shards)
    for file in (CONFIG_NAME, IMAGE_PROCESSOR_NAME):
        for place in _read(folder / file).get("auto_map", {}).values():
            module = folder / f"{str(place).partition('.')[0]}.py"
            if module.is_file():
                yield from (Path(path).name for path in (str(module), *get_relative_import_files(module)))


def _read(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file, an empty one where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except ValueError:
        content = None
    return content if isinstance(content, dict) else {}


def _check_finished(folder: Path) -> list[str]:
    """Return what is to be pushed of a folder with a whole model."""
    if not folder.is_dir():
        raise HalflabelError(f"no folder {str(folder)!r}")
    files = shared_files(folder)
    if CONFIG_NAME not in files or _read(folder / CONFIG_NAME).get("model_type") != TimmMultiLabelConfig.model_type:
        raise HalflabelError(f"{folder} holds no {CONFIG_NAME} of a halflabel model: push what a finished run wrote")
    if not {SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME}.intersection(files):
        raise HalflabelError(f"{folder} holds no {SAFE_WEIGHTS_NAME}: other files of weights are not pushed")
    return files
