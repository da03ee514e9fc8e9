"""What `compare` compares, and under which kinds of missing labels."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.hiding import PROTOCOLS
from ..model.errors import HalflabelError, did_you_mean, shortlist
from ..model.labels import LabelSpace
from ..training.recipe import Recipe, parse_recipe

KEEP, PER_LABEL = (0.1, 0.3, 0.5), (20,)
"""What is hidden where nobody says how much."""

_EVERY_RUN = (
    "--validation_share=0", "--eval_strategy=no", "--save_strategy=no", "--logging_strategy=no", "--report_to=none",
    "--disable_tqdm=true", "--layer_decay=1", "--decide=none", "--plots=false",
    "--compare_unknown_as_negative=false",
)  # fmt: skip
_SAME = ("backbone", "weights", "backbone_args")


@dataclass(frozen=True)
class Entrant:
    """A recipe as it was given, with its overrides, and what it says."""

    name: str
    recipe: Recipe


@dataclass(frozen=True)
class Setting:
    """A kind of missing labels.

    Attributes:
        name: For people.
        hiding: Arguments of `hiding.hide_labels`; None: nothing is hidden.
    """

    name: str
    hiding: Mapping[str, Any] | None = None


def parse_entrants(
    given: Sequence[str], sources: Sequence[str], folder: Path, backbone: str | None = None, weights: str | None = None
) -> list[Entrant]:
    """Read recipes, each a name or a path, with overrides behind it as on the command line.

    What they say of data, splits, hiding, validation and decisions is not used.

    Args:
        given: Like `linear_probe`, `my.yaml` or `linear_probe --loss em`.
        sources: The data, as on the command line.
        folder: Where runs may write.
        backbone: In the place of the recipes' own.
        weights: Likewise.

    Raises:
        HalflabelError: On a recipe that is not there, is given twice, or cannot be compared with the others.
    """
    names = [" ".join(text.split()) for text in given]
    for name in names:
        if names.count(name) > 1:
            raise HalflabelError(f"recipe {name!r} is given twice")
    model = [f"--{key}={value}" for key, value in (("backbone", backbone), ("weights", weights)) if value is not None]
    ours = ["--data", *sources, f"--output_dir={folder}", *_EVERY_RUN, *model]
    entrants = [Entrant(name, _parse(name, ours, folder)) for name in names]
    pixels = [one.name for one in entrants if not one.recipe.training.cache_features]
    if pixels:
        raise HalflabelError(f"only recipes with cache_features: true are compared; without it: {shortlist(pixels)}")
    waiting = [one.name for one in entrants if one.recipe.training.early_stopping_patience is not None]
    if waiting:
        raise HalflabelError(
            f"all are trained to the last epoch: remove early_stopping_patience from {shortlist(waiting)}"
        )
    for key in _SAME:
        values = {one.name: getattr(one.recipe.model, key) for one in entrants}
        if any(value != values[names[0]] for value in values.values()):
            told = "; ".join(f"{name}: {value}" for name, value in values.items())
            raise HalflabelError(f"the recipes have different {key}: {told}; give --backbone and --weights")
    return entrants


def _parse(text: str, ours: Sequence[str], folder: Path) -> Recipe:
    try:
        name, *overrides = shlex.split(text)
    except ValueError as error:
        raise HalflabelError(f"recipe {text!r}: {error}; give a name or path, and --key value ... behind it") from error
    recipe = parse_recipe(name, [*overrides, *ours])
    if recipe.training.feature_cache == "none":  # in memory they would be made anew for each run
        recipe = recipe.change(feature_cache=str(folder / "features"))
    return recipe


def make_settings(
    protocols: Sequence[str] | None,
    keep: Sequence[float] | None,
    per_label: Sequence[int] | None,
    groups: Mapping[str, Sequence[str]] | None,
    space: LabelSpace,
) -> list[Setting]:
    """Return the kinds of missing labels that were asked for; none: only the labels as they are.

    Args:
        protocols: Of `hiding.PROTOCOLS`; None: those whose parameters are given.
        keep: The shares for `random`; default `KEEP`.
        per_label: The counts for `per_label`; default `PER_LABEL`.
        groups: For `by_group`; default: two teams that share the labels.
        space: The labels.

    Raises:
        HalflabelError: On another protocol (the nearest is named), or a parameter without its protocol.
    """
    parameters = {"random": keep, "per_label": per_label, "by_group": groups}
    chosen = [name for name, value in parameters.items() if value is not None] if protocols is None else protocols
    for name in chosen:
        if name not in PROTOCOLS:
            nearest = did_you_mean(name, PROTOCOLS)
            raise HalflabelError(f"unknown protocol {name!r}; it is one of {', '.join(PROTOCOLS)}{nearest}")
    for name, value in parameters.items():
        if value is not None and name not in chosen:
            option = {"random": "keep", "by_group": "groups"}.get(name, name)
            raise HalflabelError(f"--{option} belongs to protocol {name}, which is not asked for")
    settings = [
        one for name in chosen for one in _settings_of(name, keep or KEEP, per_label or PER_LABEL, groups, space)
    ]
    return list({one.name: one for one in settings}.values()) or [Setting("as it is")]


def _settings_of(
    protocol: str,
    keep: Sequence[float],
    per_label: Sequence[int],
    groups: Mapping[str, Sequence[str]] | None,
    space: LabelSpace,
) -> list[Setting]:
    """Return one protocol's settings."""
    if protocol == "random":
        return [Setting(f"random {share:g}", {"protocol": protocol, "keep": share}) for share in keep]
    if protocol == "per_label":
        return [Setting(f"{count} per label", {"protocol": protocol, "per_label": count}) for count in per_label]
    if protocol == "single_positive":
        return [Setting("single positive", {"protocol": protocol})]
    teams = groups if groups is not None else _two_teams(space)
    name = f"by group ({len(teams)} teams)"
    return [Setting(name, {"protocol": protocol, "groups": teams, "label_space": space})]


def _two_teams(space: LabelSpace) -> dict[str, list[str]]:
    """Deal the labels out in turn."""
    if len(space) < 2:
        raise HalflabelError("protocol by_group needs at least 2 labels, one for each team")
    return {"first": list(space.names[0::2]), "second": list(space.names[1::2])}
