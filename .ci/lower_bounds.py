"""Print the lowest versions that pyproject.toml allows, one requirement a line, for pip's --constraint."""

import re
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
groups = [
    project["dependencies"],
    *(extra for name, extra in project["optional-dependencies"].items() if name != "dev"),
]
lowest = {match[1]: match[2] for group in groups for one in group if (match := re.match(r"([\w.-]+)>=([\w.]+)", one))}
print("\n".join(f"{name}=={version}" for name, version in sorted(lowest.items())))
