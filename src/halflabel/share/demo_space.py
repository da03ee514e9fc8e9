"""The demo as a Space of the Hub: a folder that runs there as it is, written or pushed."""

import shutil
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

import httpx2
from huggingface_hub import HfApi, SpaceCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]
from packaging.requirements import Requirement

from ..model.errors import HalflabelError
from ..use.hub_errors import hub_reason

_PACKAGE = "halflabel"
_EXTRAS = ("demo", "explain")
_APP = """from halflabel.share.demo import serve

serve({model!r}, host=None)
"""
_README = """---
{metadata}
---

What `{model}` answers about a picture, and where it saw it. Made by
`halflabel demo {model} --space {space}`;
the folder `halflabel` is the package as it was then.

Where the model is private, give this Space a secret named `HF_TOKEN` that may read it.
"""


def write_space(model: str, space: str, folder: Path) -> None:
    """Write a folder that the Hub runs as a Space: `README.md`, `app.py`, `requirements.txt` and this package's source.

    The source goes along so that the Space runs with just this version, from wherever it was installed.

    Args:
        model: The model's Hub name.
        space: The Space's Hub name.
        folder: A new or an empty one.

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
        raise HalflabelError(
            "a Space is written for the Gradio installed here: pip install 'halflabel[demo]'"
        ) from error
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise HalflabelError(f"{folder} is not an empty folder: give another for the Space")
    metadata = SpaceCardData(
        title=space.rpartition("/")[2], sdk="gradio", sdk_version=gradio, app_file="app.py", models=[model],
        python_version=f"{sys.version_info.major}.{sys.version_info.minor}",
    )  # fmt: skip
    source = Path(__file__).parents[1]
    shutil.copytree(source, folder / source.name, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
    package = distribution(_PACKAGE)
    about = folder / f"{_PACKAGE}-{package.version}.dist-info"  # where the package looks up its own version
    about.mkdir()
    (about / "METADATA").write_text(package.read_text("METADATA") or "", encoding="utf-8")
    readme = _README.format(metadata=metadata.to_yaml(), model=model, space=space)
    (folder / "README.md").write_text(readme, encoding="utf-8")
    (folder / "app.py").write_text(_APP.format(model=model), encoding="utf-8")
    (folder / "requirements.txt").write_text("".join(f"{line}\n" for line in _requirements()), encoding="utf-8")


def _requirements() -> list[str]:
    """Return what the package and the demo's extras require."""
    found = [Requirement(line) for line in distribution(_PACKAGE).requires or ()]
    wanted = [
        one for one in found if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in _EXTRAS)
    ]
    return sorted({f"{one.name}{one.specifier}" for one in wanted})


def push_space(model: str, space: str) -> str:
    """Write a Space and push it to the Hub, where it is created if need be.

    Returns:
        Its page.

    Raises:
        HalflabelError: As `write_space`, if the model is not on the Hub, or if the Hub refuses.
    """
    api = HfApi()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_space(model, space, folder)
        try:
            subject = f"the model {model!r} cannot be shown"
            api.model_info(model)
            subject = f"the Space {space!r} was not pushed"
            url = api.create_repo(space, repo_type="space", space_sdk="gradio", exist_ok=True)
            api.upload_folder(
                repo_id=url.repo_id, repo_type="space", folder_path=folder, commit_message=f"Demo of {model}"
            )
        except (OSError, ValueError, RuntimeError, httpx2.HTTPError) as error:
            raise HalflabelError(f"{subject}: {hub_reason(error)}") from error
    return str(url)
