"""Push a finished model's folder to the Hub; whatever fails, the folder is left whole and the error says what to do."""

import json
import shlex
from pathlib import Path

import httpx2
from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from ..model.configuration_timm_multilabel import TimmMultiLabelConfig
from ..model.errors import HalflabelError
from ..use.inference import Name, SavedModel, hub_reason
from .card import card, is_rendered

SHARED_FILES = ["*.json", "*.md", "*.onnx", "*.png", "*.py", "*.safetensors", "*.yaml"]
"""What is pushed of a folder; so no pickle, and no file that happens to lie there."""

KEPT_BACK = ["checkpoint-*", "probe/*", "unknown_as_negative/*", ".*", "*/.*"]
"""Of that, what is not: what training goes on from, and hidden files."""


def push(
    folder: Name | SavedModel,
    repository: str,
    private: bool | None = None,
    revision: str | None = None,
    message: str | None = None,
    token: str | None = None,
) -> str:
    """Upload what `halflabel train` left in its output folder, as one commit.

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
    _check_finished(place)
    flags = ["--private"] * bool(private) + (["--revision", revision] if revision else [])
    again = shlex.join(["halflabel", "push", str(place), repository, *flags])
    try:
        name, url = prepare_repository(repository, private, token)
        if is_rendered(place):
            card(place, name)
        api = HfApi(token=token)
        if revision is not None:
            api.create_branch(name, branch=revision, exist_ok=True)
        api.upload_folder(
            repo_id=name, folder_path=place, revision=revision, commit_message=message or f"Upload {name}",
            allow_patterns=SHARED_FILES, ignore_patterns=KEPT_BACK,
        )  # fmt: skip
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


def _check_finished(folder: Path) -> None:
    if not folder.is_dir():
        raise HalflabelError(f"no folder {str(folder)!r}")
    try:
        config = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        config = None
    if not isinstance(config, dict) or config.get("model_type") != TimmMultiLabelConfig.model_type:
        raise HalflabelError(f"{folder} holds no {CONFIG_NAME} of a halflabel model: push what a finished run wrote")
    if not any((folder / name).is_file() for name in (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME)):
        raise HalflabelError(f"{folder} holds no {SAFE_WEIGHTS_NAME}: other files of weights are not pushed")
