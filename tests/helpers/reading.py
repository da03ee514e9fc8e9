"""What tests of readers share: small data sets on disk, the one line of a refusal, and what images hold."""

from io import BytesIO

import pytest
from PIL import Image

from halflabel import HalflabelError
from halflabel.data.source import Source


def write_files(folder, files):
    """Write texts or bytes by their paths within a folder, and return the folder."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def draw(folder, *names):
    """Write small pictures, of which no two are alike."""
    for i, name in enumerate(names):
        content = BytesIO()
        Image.new("RGB", (8, 8), (i, 0, 0)).save(content, "PNG")
        write_files(folder, {name: content.getvalue()})
    return folder


def error_of(call, *arguments, **keys):
    """Return the one line with which a call refuses."""
    with pytest.raises(HalflabelError) as error:
        call(*arguments, **keys)
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


def fault(read, path, **keys):
    """Return what a reader says against a source, without the source's path in front."""
    text = error_of(read, Source(str(path), **keys))
    assert text.startswith(str(path))
    return text.removeprefix(str(path))


def check(images, **expected):
    """Compare what images hold: `labels`, `names`, `paths` of their pictures, or a column of texts by its name."""
    found = {"labels": images.labels.tolist(), "names": images.label_space.names}
    found["paths"] = [row["path"] for row in images.dataset["image"]]
    found |= {key: images.column(key).tolist() for key in expected if key not in found}
    assert {key: found[key] for key in expected} == expected
