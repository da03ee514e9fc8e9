"""How a dataclass of numbers is kept in a model's configuration, which is JSON."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any, TypeVar

from .errors import HalflabelError, did_you_mean

Kind = TypeVar("Kind")


def to_stored(values: Any) -> dict[str, Any]:  # noqa: ANN401 - any dataclass
    """Return what JSON can hold; tuples become lists."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(values).items()}


def from_stored(kind: type[Kind], name: str, stored: Mapping[str, Any]) -> Kind:
    """Read what `to_stored` wrote; the dataclass checks its own values.

    Args:
        kind: The dataclass.
        name: The name of the entry in the configuration, for messages.
        stored: The entry.

    Raises:
        HalflabelError: If it is no mapping, or a key is missing or unknown.
    """
    if not isinstance(stored, Mapping):
        raise HalflabelError(f"{name} is {stored!r}, expected a mapping of names to values")
    keys = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    for key in stored:
        if key not in keys:
            raise HalflabelError(f"{name}: unknown key {key!r}{did_you_mean(key, keys)}")
    for key in keys:
        if key not in stored:
            raise HalflabelError(f"{name}: {key} is missing")
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in stored.items()})
