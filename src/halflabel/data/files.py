"""Files and folders by name: whether they are there. The command line checks with it before it loads anything."""

import os

from ..model.errors import HalflabelError, did_you_mean, nearest_file, shortlist

EMBEDDED = "street_scenes"
"""The name of the pictures that the package draws itself."""


def check_data_place(path: str) -> None:
    """Refuse what is no file or folder that is there, and cannot be a data set of the Hub either.

    Raises:
        HalflabelError: It names the nearest file.
    """
    if path == EMBEDDED or os.path.exists(path):
        return
    name = os.path.basename(path)
    if "." in name or path.count("/") > 1 or path.startswith(("/", ".", "~")):
        raise HalflabelError(f"{path}: no such file or folder{nearest_file(path)}")
    if "/" not in path:
        nearest = nearest_file(path) or did_you_mean(path, [EMBEDDED])
        raise HalflabelError(
            f"data {path!r} is neither a file, a folder nor {EMBEDDED!r}{nearest}; a data set of the Hub is owner/name"
        )


def check_model_place(name: str) -> None:
    """Refuse a path that is no model's folder, of which transformers would speak as of a name on the Hub.

    Raises:
        HalflabelError: It says what is there instead.
    """
    reason = ""
    if os.path.isdir(name):
        if not os.path.isfile(os.path.join(name, "config.json")):
            reason = "the folder holds no config.json: give the output folder of a finished run"
            inside = sorted(entry.path for entry in os.scandir(name) if os.path.isfile(f"{entry.path}/config.json"))
            reason += f", like {shortlist(inside, 3)}" if inside else ""
    elif os.path.isfile(name):
        reason = "it is a file: give the folder of a model"
    elif name.count("/") != 1 or name.startswith((".", "~", "/")):  # the Hub has owner/name
        reason = f"there is no such folder{nearest_file(name)}; a name on the Hub is like me/my-model"
    if reason:
        raise HalflabelError(f"model {name!r} cannot be loaded: {reason}")
