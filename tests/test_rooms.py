"""The house: rooms import one way, no circle lies inside one, and what travels to the Hub reaches nothing else."""

import ast
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src"
ROOMS = ["model", "data", "metrics", "decide", "training", "use", "studies", "share", "cli"]
FILES = {
    path: path.relative_to(SOURCE / "halflabel").with_suffix("").parts for path in SOURCE.rglob("halflabel/*/**/*.py")
}


def imports(path):
    """What a file imports of the package, as paths of names: ("model", "labels", "LabelSpace")."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").split(".")[0] == "halflabel"):
            inside = tuple((node.module or "").split(".")) if node.module else ()
            above = FILES[path][: -node.level] if node.level else ()
            found |= {(*above, *(inside if node.level else inside[1:]), name.name) for name in node.names}
    return found


def test_rooms_import_one_way():
    for path, (room, *_) in FILES.items():
        later = ROOMS[ROOMS.index(room) + 1 :]
        assert not [name for name in imports(path) if name[0] in later], path


def test_no_circle_lies_inside_a_room():
    files = set(FILES.values())
    left = {parts: {name[:i] for name in imports(path) for i in range(len(name) + 1)} & files
            for path, parts in FILES.items() if parts[-1] != "__init__"}  # fmt: skip
    while free := [parts for parts, needed in left.items() if not needed & left.keys()]:
        for parts in free:
            del left[parts]
    assert not left


def test_what_travels_to_the_hub_reaches_only_its_siblings():
    for path in (SOURCE / "halflabel" / "model").glob("*.py"):
        assert all(name[0] == "model" for name in imports(path)), path
        assert "from .." not in path.read_text(), path


def test_a_file_is_one_thought_and_a_room_is_seen_at_a_glance():
    for folder in {path.parent for path in FILES}:
        assert "evaluate_modules" in str(folder) or len([path for path in folder.iterdir() if path.is_file()]) <= 12, (
            folder
        )
    for path, parts in FILES.items():
        assert len(path.read_text().splitlines()) <= 450, path
        modules = {name[:2] if name[:2] in {one[:2] for one in FILES.values()} else () for name in imports(path)}
        assert len(modules) <= 15, (parts, modules)
