"""Files that a stranger, a broken disk or a hurried hand may leave behind, for test_bad_input.py."""

import gzip
import io
import json
import os
import pickle
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

OUTSIDE = "secret.png"
"""A picture beside the data folder, which nothing in that folder may name."""


class Escapes:
    """Unpickled, it makes a folder."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def gradient(width, height):
    """A picture with another red in each column and another green in each row."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[..., 0] = np.linspace(0, 255, width)
    pixels[..., 1] = np.linspace(0, 255, height)[:, None]
    pixels[..., 2] = 90
    return Image.fromarray(pixels)


def encode(picture, form, **options):
    """Return a picture's file."""
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def png(width, height, rows=b"", bits=8, colours=2, chunks=()):
    """Return a PNG that claims a size; its rows are what is given, not what it claims."""
    header = struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*part) for part in parts)


def _chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def bad_pictures():
    """Files that are no picture which can be read as a whole, by name."""
    photo = gradient(64, 48)
    jpeg, whole = encode(photo, "JPEG"), encode(photo, "PNG")
    return {
        "empty.jpg": b"",
        "svg.png": b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
        "html.jpg": b"<!doctype html><title>404</title>",
        "postscript.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) (w) file\n%%EOF\n",
        "bomb.png": png(50_000, 50_000),
        "claims_wide.png": png(50_000, 1),
        "no_pixels.png": png(0, 9),
        "cut.jpg": jpeg[: len(jpeg) // 2],
        "cut.png": whole[: len(whole) // 2],
        "zeros.jpg": jpeg[:-200] + bytes(200),
        "head.jpg": jpeg[:20],
        "checksum.png": whole[:40] + bytes([whole[40] ^ 255]) + whole[41:],
        "text_bomb.png": png(1, 1, bytes(4), chunks=[(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 26)))]),
        "nan.tif": encode(Image.fromarray(np.full((4, 4), np.nan, dtype=np.float32)), "TIFF"),
        "loop.tif": b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 254, 4, 1, 0) + struct.pack("<I", 8),
        "no_frames.gif": b"GIF89a\x01\0\x01\0\0\0\0;",
    }


def odd_pictures():
    """Files that can be read though they are odd: by name the file, and the plain picture that it shows."""
    photo = gradient(64, 48)
    grey = Image.fromarray(np.linspace(0, 65535, 64 * 48).reshape(48, 64).astype(np.uint16))
    frames = {"save_all": True, "append_images": [gradient(64, 48).rotate(90)], "loop": 0}
    upright = {"exif": Image.Exif()}
    upright["exif"][274] = 6
    wide = Image.fromarray(np.tile(np.arange(64, dtype=np.uint8), (1, 782))[:, :50_000]).convert("RGB")
    inks = photo.convert("CMYK")
    return {
        "cmyk.tif": (encode(inks, "TIFF"), inks.convert("RGB")),
        "sixteen_bits.png": (encode(grey, "PNG"), np.rint(np.asarray(grey) / 257.0)),
        "animated.gif": (encode(photo, "GIF", **frames), Image.open(io.BytesIO(encode(photo, "GIF"))).convert("RGB")),
        "animated.png": (encode(photo, "PNG", **frames), photo),
        "two_pages.tif": (encode(photo, "TIFF", **frames), photo),
        "jpeg_named.png": (encode(photo, "JPEG"), Image.open(io.BytesIO(encode(photo, "JPEG")))),
        "turned.png": (encode(photo, "PNG", **upright), photo.transpose(Image.Transpose.ROTATE_270)),
        "dot.png": (encode(gradient(1, 1), "PNG"), gradient(1, 1)),
        "wide.png": (encode(wide, "PNG"), wide),
        "tall.png": (
            encode(wide.transpose(Image.Transpose.ROTATE_90), "PNG"),
            wide.transpose(Image.Transpose.ROTATE_90),
        ),
        "palette.png": (encode(photo.quantize(16), "PNG"), photo.quantize(16).convert("RGB")),
        "bits.png": (encode(photo.convert("1"), "PNG"), photo.convert("1").convert("RGB")),
    }


def write_pictures(folder):
    """Write all of these, and things that only look like pictures."""
    folder.mkdir(parents=True)
    for name, content in bad_pictures().items():
        (folder / name).write_bytes(content)
    (folder / "folder.jpg").mkdir()
    (folder / "loop.jpg").symlink_to("loop2.jpg")
    (folder / "loop2.jpg").symlink_to("loop.jpg")
    (folder / "dangling.jpg").symlink_to("nowhere.jpg")
    return folder


def tables():
    """Tables beside the pictures `a.png` and `b.png`, by name; each has a fault."""
    rows = "a.png,1\nb.png,0\n"
    long = "x" * 10_000_000
    return {
        "formula.csv": "file_name,car\na.png,\"=cmd|' /C calc'!A0\"\n",
        "formula_name.csv": "file_name,car\n=HYPERLINK(0).png,1\n",
        "nul.csv": "file_name,car\na.png,1\0\n",
        "nul_name.csv": "file_name,car\na\0.png,1\n",
        "nul_header.csv": f"file_name,c\0ar\n{rows}",
        "long_cell.csv": f"file_name,car\na.png,{long}\n",
        "long_name.csv": f"file_name,car\n{long},1\n",
        "long_header.csv": f"file_name,{long}\n{rows}",
        "long_line.jsonl": json.dumps({"file_name": "a.png", "car": long}),
        "utf16.csv": f"file_name,car\n{rows}".encode("utf-16"),
        "latin1.csv": "file_name,car\na.png,1\nü.png,1\n".encode("latin-1"),
        "latin1_header.csv": f"file_name,süß\n{rows}".encode("latin-1"),
        "mixed.csv": "file_name,Straße\na.png,".encode() + "größer\n".encode("latin-1"),
        "twice.csv": "file_name,car,car\na.png,1,0\n",
        "twice_blank.csv": "file_name,car, car \na.png,1,0\n",
        "repeated.csv": f"file_name,car\n{rows}a.png,0\n",
        "repeated_dot.csv": f"file_name,car\n{rows}./a.png,0\n",
        "ragged.csv": f"file_name,car\n{rows}a.png\na.png,1,1\n",
        "quote.csv": 'file_name,car\na.png,"1\nb.png,0\n',
        "newline_header.csv": f'file_name,"c\nar"\n{rows}',
        "separator.csv": f"file_name;car\n{rows.replace(',', ';')}",
        "empty.csv": "",
        "blank.csv": "\n\n \n",
        "mark.csv": "\ufeff",
        "header.csv": "file_name,car\n",
        "no_labels.csv": "file_name,split\na.png,train\n",
        "no_file.csv": "path,car\na.png,1\n",
        "two.csv": "file_name,car\na.png,2\n",
        "maybe.csv": "file_name,car\na.png,maybe\n",
        "inf.csv": "file_name,car\na.png,inf\n",
        "half.csv": "file_name,car\na.png,0.5\n",
        "split.csv": "file_name,car,split\na.png,1,tset\n",
        "climbs.csv": f"file_name,car\n../{OUTSIDE},1\n",
        "absolute.csv": "file_name,car\n/etc/hostname,1\n",
        "windows.csv": "file_name,car\nC:\\Windows\\a.png,1\n",
        "backslash.csv": f"file_name,car\n..\\{OUTSIDE},1\n",
        "gone.csv": "file_name,car\ngone.png,1\n",
        "folder.csv": "file_name,car\nfolder.jpg,1\n",
        "loop.csv": "file_name,car\nloop.jpg,1\n",
        "long_path.csv": f"file_name,car\n{'d/' * 3000}a.png,1\n",
        "twice.jsonl": '{"file_name": "a.png", "car": 1, "car": 0}\n',
        "list.jsonl": '["a.png", 1]\n',
        "deep.jsonl": '{"file_name": "a.png", "car": ' + "[" * 100_000 + "]" * 100_000 + "}\n",
        "digits.jsonl": '{"file_name": "a.png", "car": ' + "9" * 5000 + "}\n",
        "surrogate.jsonl": '{"file_name": "a.png", "car": "\\ud800"}\n',
        "infinity.jsonl": '{"file_name": "a.png", "car": Infinity}\n',
        "text.parquet": f"file_name,car\n{rows}",
        "cut.parquet": b"PAR1" + bytes(40),
        "cut.csv.gz": gzip.compress(f"file_name,car\n{rows}".encode())[:-9],
        "plain.csv.gz": f"file_name,car\n{rows}",
        "twice.json": json.dumps({"images": [{"id": 1, "file_name": "a.png"}] * 2, "annotations": [],
                                  "categories": [{"id": 1, "name": "car"}]}),
        "list.json": "[1, 2]",
        "number.json": json.dumps({"images": [1], "annotations": [], "categories": [{"id": 1, "name": "car"}]}),
        "table.xlsx": b"PK\x03\x04",
    }  # fmt: skip


def write_tables(folder):
    """Write all of these, with the pictures that they name."""
    folder.mkdir(parents=True)
    for name in ("a.png", "b.png", f"../{OUTSIDE}"):
        gradient(40, 40).save(folder / name)
    (folder / "folder.jpg").mkdir()
    (folder / "loop.jpg").symlink_to("loop.jpg")
    (folder / "directory.csv").mkdir()
    for name, content in tables().items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def recipes(escape):
    """Recipes by name; those that run code when they are read make the folder `escape`."""
    bomb = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    bomb += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    return {
        "tag.yaml": f"data: !!python/object/apply:os.mkdir ['{escape}']\nbackbone: test_resnet\n",
        "tag_new.yaml": f"!!python/object/new:os.mkdir ['{escape}']\n",
        "bomb.yaml": "\n".join([*bomb, "data: *a11", "backbone: test_resnet"]),
        "bomb_value.yaml": "\n".join(
            [
                "data:",
                "- " + bomb[0][4:],
                *("- " + line.partition(": ")[2] for line in bomb[1:]),
                "backbone: test_resnet",
            ]
        ),
        "itself.yaml": "data: &a [*a]\nbackbone: test_resnet\n",
        "no_anchor.yaml": "data: *nothing\nbackbone: test_resnet\n",
        "unknown.yaml": "data: x.csv\nbackbone: test_resnet\nlerning_rate: 1\n",
        "number_key.yaml": "data: x.csv\nbackbone: test_resnet\n7: 1\n",
        "list_key.yaml": "? [a, b]\n: 1\n",
        "type.yaml": "data: x.csv\nbackbone: test_resnet\nnum_train_epochs: many\n",
        "type_list.yaml": "data: x.csv\nbackbone: [test_resnet, resnet18]\n",
        "type_map.yaml": "data: x.csv\nbackbone: {a: 1}\n",
        "head_args.yaml": "data: x.csv\nbackbone: test_resnet\nhead_args: [1]\n",
        "date.yaml": "data: {path: 2020-01-01}\nbackbone: test_resnet\n",
        "list.yaml": "- data\n- backbone\n",
        "text.yaml": "just words\n",
        "empty.yaml": "",
        "twice.yaml": "data: x.csv\nbackbone: test_resnet\nbackbone: resnet18\n",
        "two.yaml": "data: x.csv\n---\nbackbone: test_resnet\n",
        "tabs.yaml": "data:\n\tx.csv\n",
        "nul.yaml": b"data: x\0.csv\n",
        "utf16.yaml": "data: x.csv\nbackbone: test_resnet\n".encode("utf-16"),
        "deep.yaml": "data: " + "[" * 900 + "]" * 900 + "\n",
    }


def write_recipes(folder, escape):
    """Write all of these."""
    folder.mkdir(parents=True)
    for name, content in recipes(escape).items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def _configured(**changes):
    def change(folder, escape):
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def _without_keys(*names):
    def change(folder, escape):
        path = folder / "config.json"
        path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k not in names}))

    return change


def _text(name, text):
    def change(folder, escape):
        (folder / name).write_text(text)

    return change


def _pickle_only(folder, escape):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Escapes(escape)))


def _cut(folder, escape):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def _weights(change):
    def rewrite(folder, escape):
        path = folder / "model.safetensors"
        save_file(change(load_file(path)), path, metadata={"format": "pt"})

    return rewrite


def _code(model_type):
    """Code beside the model that makes a folder when it is imported, named for every class by every file."""

    def change(folder, escape):
        (folder / "evil.py").write_text(f"import os\nos.mkdir({str(escape)!r})\n")
        for name, kinds in (
            ("config.json", ("AutoConfig", "AutoModel", "AutoModelForImageClassification", "AutoImageProcessor")),
            ("preprocessor_config.json", ("AutoImageProcessor", "AutoProcessor", "AutoFeatureExtractor")),
        ):
            content = json.loads((folder / name).read_text())
            content["auto_map"] = dict.fromkeys(kinds, "evil.Evil")
            if name == "config.json":
                content["model_type"] = model_type
                content["custom_pipelines"] = {"image-classification": {"impl": "evil.Evil", "pt": ["AutoModel"]}}
            (folder / name).write_text(json.dumps(content))

    return change


def _without_head(state):
    return {name: tensor for name, tensor in state.items() if not name.startswith("head.")}


def _nan(state):
    return {name: torch.full_like(tensor, torch.nan) if tensor.is_floating_point() else tensor
            for name, tensor in state.items()}  # fmt: skip


MODELS = {
    "pickle_only": _pickle_only,
    "cut_weights": _cut,
    "empty_weights": lambda folder, escape: (folder / "model.safetensors").write_bytes(b""),
    "text_weights": _text("model.safetensors", "x" * 100),
    "huge_header": lambda folder, escape: (folder / "model.safetensors").write_bytes(
        struct.pack("<Q", 1 << 60) + b"{}"
    ),
    "no_head": _weights(_without_head),
    "wrong_shape": _weights(
        lambda state: {name: tensor[:1].clone() if tensor.ndim == 2 else tensor for name, tensor in state.items()}
    ),  # fmt: skip
    "nan_weights": _weights(_nan),
    "no_config": lambda folder, escape: (folder / "config.json").unlink(),
    "broken_config": _text("config.json", "{"),
    "list_config": _text("config.json", "[]"),
    "newer": _configured(halflabel_version="9.0.0"),
    "no_version": _configured(halflabel_version="new"),
    "other_type": _configured(model_type="bert"),
    "no_type": _without_keys("model_type"),
    "other_labels": _configured(id2label={"0": "a", "1": "b", "2": "c"}, label2id={"a": 0, "b": 1, "c": 2}),
    "repeated_labels": _configured(id2label={"0": "a", "1": "a"}),
    "numbered_labels": _configured(id2label={"1": "a", "2": "b"}),
    "word_numbers": _configured(id2label={"zero": "a", "one": "b"}),
    "list_labels": _configured(id2label=["a", "b"]),
    "number_labels": _configured(id2label={"0": 1, "1": 2}),
    "newline_label": _configured(id2label={"0": "a\nb", "1": "c"}),
    "unknown_key": _configured(bakcbone="x"),
    "unknown_backbone": _configured(backbone="test_resnt"),
    "number_backbone": _configured(backbone=7),
    "hub_backbone": _configured(backbone="hf-hub:somebody/model"),
    "backbone_file": lambda folder, escape: _configured(backbone_args={"checkpoint_path": str(escape)})(folder, escape),
    "backbone_url": _configured(backbone_args={"pretrained": True, "pretrained_cfg": {"url": "http://localhost:9/x"}}),
    "backbone_args": _configured(backbone_args={"colour": 1}),
    "backbone_list": _configured(backbone_args=[1]),
    "huge_depth": _configured(backbone="test_vit", backbone_args={"depth": 10**6}),
    "huge_width": _configured(backbone="test_vit", backbone_args={"embed_dim": 8192, "depth": 64, "num_heads": 1}),
    "huge_network_input": _configured(backbone="test_vit", backbone_args={"img_size": [10**5, 10**5]}),
    "huge_labels": _configured(num_labels=10**9),
    "huge_head": _configured(head="mlp", head_args={"width": 10**9}),
    "wide_head": _configured(head="mlp", head_args={"width": 1 << 16, "layers": 64}),
    "foreign_kernel": _configured(attn_implementation="somebody/kernel"),
    "contradicting_labels": _configured(label2id={"b": 0, "a": 1}),
    "head": _configured(head="__import__"),
    "loss": _configured(loss="os.system"),
    "decisions": _configured(decisions={"scale": [1.0]}),
    "relations": _configured(relations={"x": 1}),
    "no_processor": lambda folder, escape: (folder / "preprocessor_config.json").unlink(),
    "broken_processor": _text("preprocessor_config.json", "{"),
    "evil_processor": _text("preprocessor_config.json", '{"image_processor_type": "Evil", "auto_map": {}}'),
    "huge_input": lambda folder, escape: (folder / "preprocessor_config.json").write_text(
        json.dumps({**json.loads((folder / "preprocessor_config.json").read_text()), "input_size": [3, 10**6, 10**6]})
    ),
    "no_input": lambda folder, escape: (folder / "preprocessor_config.json").write_text(
        json.dumps({**json.loads((folder / "preprocessor_config.json").read_text()), "input_size": [3, 0, "x"]})
    ),
    "evil_code": _code("evil"),
    "evil_code_of_ours": _code("timm_multilabel"),
    "broken_card": _text("card.json", "{"),
    "no_counts": _text("card.json", '{"name": "x", "training": 3, "datasets": [], "repository": null}'),
    "broken_metrics": _text("metrics.json", '{"split": "test", "labels": 7}'),
    "list_metrics": _text("metrics.json", "[]"),
    "tagged_recipe": lambda folder, escape: (folder / "recipe.yaml").write_text(
        f"data: !!python/object/apply:os.mkdir ['{escape}']\n"
    ),
}


def write_model(good: Path, folder: Path, name: str, escape: Path) -> Path:
    """Copy a model's folder and break it."""
    shutil.copytree(good, folder, ignore=shutil.ignore_patterns("checkpoint-*", "*.png"))
    MODELS[name](folder, escape)
    return folder


def _unpickled(name):
    def change(folder, escape):
        torch.save(Escapes(escape), folder / name)

    return change


CHECKPOINTS = {
    "empty_folder": lambda folder, escape: [path.unlink() for path in folder.iterdir()],
    "half_model": _cut,
    "no_model": lambda folder, escape: (folder / "model.safetensors").unlink(),
    "no_state": lambda folder, escape: (folder / "trainer_state.json").unlink(),
    "half_state": lambda folder, escape: os.truncate(folder / "trainer_state.json", 100),
    "half_optimizer": lambda folder, escape: os.truncate(folder / "optimizer.pt", 100),
    "evil_optimizer": _unpickled("optimizer.pt"),
    "evil_scheduler": _unpickled("scheduler.pt"),
    "evil_random": _unpickled("rng_state.pth"),
    "evil_arguments": _unpickled("training_args.bin"),
    "other_labels": _weights(
        lambda state: {n: t[:1].clone() if n.startswith("head.") and t.ndim == 2 else t for n, t in state.items()}
    ),  # fmt: skip
    "other_network": lambda folder, escape: save_file({"x": torch.zeros(1)}, folder / "model.safetensors"),
}


def write_checkpoint(good: Path, folder: Path, name: str, escape: Path) -> Path:
    """Copy a checkpoint and break it."""
    shutil.copytree(good, folder)
    CHECKPOINTS[name](folder, escape)
    return folder


def change_in_secret(path):
    """Change a file so that neither its size nor the time of its content tell."""
    found, content = path.stat(), path.read_bytes()
    path.write_bytes(content[:-40] + content[-40:][::-1])
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
