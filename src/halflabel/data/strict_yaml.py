"""YAML as recipes and data sets need it: plain values, nothing said twice, nothing that grows as it is read."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from ..model.errors import HalflabelError, reason_of


def read_yaml(path: Path) -> Any:  # noqa: ANN401 - what a file holds
    """Read a YAML file of plain values: mappings, lists, texts, numbers, dates.

    Raises:
        HalflabelError: If it is not YAML of plain values in UTF-8, has an alias (merged aliases make a short file grow
            without bounds), or a key twice in one mapping, of which YAML keeps the last in silence.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
        aliases = [event for event in yaml.parse(text, Loader=yaml.SafeLoader) if isinstance(event, yaml.AliasEvent)]
        content = None if aliases else yaml.safe_load(text)
        repeated = [] if aliases else list(_repeated(yaml.compose(text, Loader=yaml.SafeLoader)))
        repr(content)  # a hexadecimal number may be too long for that, which no message could tell
    # PyYAML lets Python's own errors through: of `!!int ""` an IndexError, of `!!timestamp x` an AttributeError.
    except (yaml.YAMLError, OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise HalflabelError(f"{path}: cannot be read as YAML ({reason_of(error)})") from error
    if aliases:
        raise HalflabelError(f"{path}: it has an alias (*{aliases[0].anchor}); write out what it stands for")
    if repeated:
        raise HalflabelError(f"{path}: the key {repeated[0][:100]!r} is given twice")
    return content


def _repeated(root: yaml.Node | None) -> Iterator[str]:
    """Give the keys that stand twice in a mapping of a tree."""
    nodes = [root]
    while nodes:
        node = nodes.pop()
        if isinstance(node, yaml.MappingNode):
            keys = [str(key.value) for key, _ in node.value]
            yield from (key for i, key in enumerate(keys) if key in keys[:i])
            nodes += [value for _, value in node.value]
        elif isinstance(node, yaml.SequenceNode):
            nodes += node.value
