"""Recipes for public data sets run on tiny sets in the very layouts, and know what was written down by hand."""

import json
import logging
import re
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from reading import write_files

import halflabel.training.run
from halflabel import TimmMultiLabelForImageClassification
from halflabel.data.readers.label_files import FINDINGS
from halflabel.training.preparation import load_data
from halflabel.training.recipe import parse_recipe
from halflabel_cli import main

READ_ME = Path(__file__).parents[2] / "recipes" / "README.md"
UNKNOWN = -100
PUBLIC = ("chexpert", "coco_partial", "nuswide", "openimages_v6", "voc2007")
SMALL = {
    "backbone": "test_resnet", "weights": "none", "num_train_epochs": "1", "per_device_train_batch_size": "8",
    "dataloader_num_workers": "0", "disable_tqdm": "true", "report_to": "none",
}  # fmt: skip


class Run:
    """What `halflabel train` left behind, and what its Trainer was given."""

    def __init__(self, recipe, monkeypatch, *overrides):
        seen = {}
        prepare, test = halflabel.training.run.prepare_data, halflabel.training.run._test

        def look_at_data(*arguments):
            seen["data"] = prepare(*arguments)
            return seen["data"]

        def look_at_targets(trainer, config, datasets, *others):
            seen["targets"] = datasets["train"].labels
            return test(trainer, config, datasets, *others)

        folder = Path("outputs") / recipe
        with monkeypatch.context() as patch:
            patch.setattr(halflabel.training.run, "prepare_data", look_at_data)
            patch.setattr(halflabel.training.run, "_test", look_at_targets)
            assert main(["train", recipe, *(f"--{key}={value}" for key, value in SMALL.items()), *overrides]) == 0
        self.images, self.targets = seen["data"].images, np.asarray(seen["targets"])
        self.names = self.images.label_space.names
        self.metrics = json.loads((folder / "metrics.json").read_text())
        self.told = json.loads((folder / "card.json").read_text())["training"]
        model = TimmMultiLabelForImageClassification.from_pretrained(folder)
        assert model.config.label_space.names == self.names
        assert self.metrics["split"] == "test"

    def files(self, split):
        return self.images.of_split(split).column("file_name").tolist()

    def answers(self, split):
        """File -> label -> code."""
        part = self.images.of_split(split)
        rows = (dict(zip(self.names, row, strict=True)) for row in part.labels.tolist())
        return dict(zip(part.column("file_name").tolist(), rows, strict=True))

    def trained(self, name):
        """How many training targets of a label are yes, no, and neither."""
        column = self.targets[:, self.names.index(name)]
        return (column == 1).sum(), (column == 0).sum(), (column < 0).sum()

    def tested(self, name):
        """How many test entries of a label are yes and no."""
        told = self.metrics["labels"][name]
        return told["positives"], told["known"] - told["positives"]


def draw(folder, *names):
    """Write pictures, no two alike: a picture that is in two files would be taken for one."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(zlib.crc32(name.encode())).integers(0, 255, (24, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)


# COCO: what is in each picture. Ids have the gaps of the real file, and some instances are crowds.
COCO_LIST = (
    "person,bicycle,car,motorcycle,airplane,stop sign,bench,cat,dog,horse,elephant,bear,zebra,giraffe,umbrella,orange,"
    "bowl,broccoli,chair,bed,tv,vase,clock,potted plant"
)
COCO_NAMES = COCO_LIST.split(",")
COCO_TRAIN = {
    9: ["bowl", "broccoli", "orange", "bowl"], 25: ["giraffe"], 30: ["vase", "potted plant"], 34: ["zebra"],
    36: ["person", "umbrella"], 42: ["dog"], 49: ["person", "horse"], 61: ["elephant", "person"], 64: ["clock"],
    71: ["car", "person"], 72: ["giraffe", "giraffe"], 73: ["motorcycle"], 74: ["dog", "person", "bicycle"], 77: [],
}  # fmt: skip
COCO_VAL = {139: ["person", "chair", "tv"], 285: ["bear"], 632: ["chair", "bed"], 724: ["car", "person", "stop sign"]}


def coco(root, year, form):
    ids = {name: 2 * i + 1 for i, name in enumerate(COCO_NAMES)}
    categories = [{"supercategory": "thing", "id": number, "name": name} for name, number in ids.items()]
    for split, pictures in (("train", COCO_TRAIN), ("val", COCO_VAL)):
        names = {number: form.format(split=split, number=number) for number in pictures}
        draw(root / f"{split}{year}", *names.values())
        images = [{"id": i, "file_name": name, "license": 3, "height": 24, "width": 24} for i, name in names.items()]
        things = [(image, name) for image, things in pictures.items() for name in things]
        annotations = [
            {"id": i, "image_id": image, "category_id": ids[name], "iscrowd": int(i % 3 == 0), "bbox": [0, 0, 9, 9],
             "area": 81.0, "segmentation": {"counts": [9], "size": [24, 24]} if i % 3 == 0 else [[0, 0, 9, 0, 9, 9]]}
            for i, (image, name) in enumerate(things)
        ]  # fmt: skip
        content = {"info": {}, "images": images, "licenses": [], "annotations": annotations, "categories": categories}
        write_files(root, {f"annotations/instances_{split}{year}.json": json.dumps(content)})


# VOC: picture -> list that it is in, the objects, and those that are difficult.
VOC = {
    "000005": ("train", ["chair"], ["chair", "bottle"]),
    "000007": ("train", ["car"], []),
    "000009": ("train", ["horse", "person"], ["car"]),
    "000012": ("train", ["car"], ["person"]),
    "000016": ("train", ["bicycle"], []),
    "000017": ("train", ["person", "horse"], []),
    "000019": ("val", ["cat"], []),
    "000020": ("val", ["car", "person"], ["chair"]),
    "000021": ("val", ["dog", "person"], []),
    "000001": ("test", ["dog", "person"], []),
    "000002": ("test", ["train"], ["car"]),
    "000003": ("test", ["sofa", "chair"], []),
    "000004": ("test", ["car"], ["person", "car"]),
}
VOC_LABELS = ("bicycle", "bottle", "car", "cat", "chair", "dog", "horse", "person", "sofa", "train")


def voc(root):
    files = {"ImageSets/Main/car_train.txt": "000005 -1\n000007  1\n000009  0\n"}
    for name, (_, objects, difficult) in VOC.items():
        things = "".join(
            f"<object><name>{thing}</name><pose>Unspecified</pose><difficult>{hard}</difficult>"
            "<bndbox><xmin>1</xmin></bndbox><part><name>head</name></part></object>"
            for hard, things in enumerate((objects, difficult))
            for thing in things
        )
        about = "<source><database>The VOC2007 Database</database></source><owner><name>?</name></owner>"
        text = f"<annotation><folder>VOC2007</folder><filename>{name}.jpg</filename>{about}{things}</annotation>"
        files[f"Annotations/{name}.xml"] = text
    lists = {split: [name for name, row in VOC.items() if row[0] == split] for split in ("train", "val", "test")}
    for split, names in {**lists, "trainval": sorted(lists["train"] + lists["val"])}.items():
        files[f"ImageSets/Main/{split}.txt"] = "\n".join(names)
    write_files(root / "VOC2007", files)
    draw(root / "VOC2007" / "JPEGImages", *(f"{name}.jpg" for name in VOC))


# CheXpert: patient, study, view; the findings that are yes, no and uncertain.
CHEXPERT_HEADER = f"Path,Sex,Age,Frontal/Lateral,AP/PA,{','.join(FINDINGS)}"
CHEXPERT_TRAIN = [
    (1, 1, "frontal", "No Finding|Pneumothorax=0|Support Devices"),
    (2, 1, "frontal", "Cardiomegaly=-1|Lung Opacity|Edema=-1|Fracture"),
    (2, 1, "lateral", "Cardiomegaly=-1|Lung Opacity|Edema=-1|Fracture"),
    (2, 2, "frontal", "Lung Opacity|Edema=-1|Consolidation=0"),
    (3, 1, "frontal", "Edema|Pleural Effusion|Atelectasis=-1"),
    (4, 1, "frontal", "Edema=0|Cardiomegaly"),
    (4, 1, "lateral", "Edema=0|Cardiomegaly"),
    (5, 1, "frontal", "No Finding"),
    (6, 1, "frontal", "Edema|Support Devices"),
    (7, 1, "frontal", "Edema=-1|Pneumonia=-1"),
    (8, 1, "frontal", "Pneumonia|Edema=0"),
]
CHEXPERT_VALID = {64541: "Cardiomegaly|Edema", 64542: "No Finding", 64543: "Edema|Pleural Effusion", 64544: "Fracture"}


def chexpert_row(path, view, told, blank):
    cells = dict.fromkeys(FINDINGS, blank)
    for one in filter(None, told.split("|")):
        name, _, value = one.partition("=")
        cells[name] = f"{value or 1}.0"
    return f"{path},Female,68,{view.title()},{'AP' if view == 'frontal' else ''},{','.join(cells.values())}\n"


def chexpert(root, name):
    files = {"train": [], "valid": []}
    for patient, study, view, told in CHEXPERT_TRAIN:
        inner = f"train/patient{patient:05d}/study{study}/view{1 if view == 'frontal' else 2}_{view}.jpg"
        files["train"].append((inner, view, told, ""))
    for patient, told in CHEXPERT_VALID.items():
        files["valid"].append((f"valid/patient{patient}/study1/view1_frontal.jpg", "frontal", told, "0.0"))
    for split, rows in files.items():
        lines = [chexpert_row(f"{name}/{inner}", *rest) for inner, *rest in rows]
        write_files(root, {f"{split}.csv": f"{CHEXPERT_HEADER}\n{''.join(lines)}"})
        draw(root, *(inner for inner, *_ in rows))


# Open Images: picture -> verified answers; "away" are pictures that nobody downloaded.
CODES = {"Car": "/m/0k4j", "Dog": "/m/0bt9lr", "Ham, cooked": "/m/0h9", "Jaguar": "/m/0449p", "jaguar car": "/m/012x34"}
OPEN_TRAIN = {
    **{f"ff{i:014x}": "away" for i in range(25)},
    "000002b66c9c498e": "Car|Dog=0", "000002b97e5471a0": "Dog|Car=0", "000002c707c9895e": "Car|jaguar car",
    "0000048549557964": "Dog=0|Jaguar", "000004f4400f6ec5": "Car=0", "0000071d71a0a6f6": "Ham, cooked|Dog",
    "000008d2c2e1a0a1": "Ham, cooked=0", "000009a1c0b1d2e3": "Car|Dog",
}  # fmt: skip
OPEN_VALIDATION = {"0001eeaf4aed83f9": "Car|Jaguar=0", "0004886b7d043cfd": "Car=0|Jaguar", "000595fe6fee6369": "Dog"}
OPEN_TEST = {"000026e7ee790996": "Dog|Car=0", "000062a39995e348": "Dog=0|Car", "0000c64e1253d68f": "Car=0|Dog=0"}


def open_images(root):
    names = {code: "Jaguar" if name == "jaguar car" else name for name, code in CODES.items()}
    described = [f'{code},"{name}"\n' for code, name in {"LabelName": "DisplayName", **names}.items()]
    write_files(root, {"oidv6-class-descriptions.csv": "".join([*described, "/m/011q46kg,Container\n"])})
    tables = {"oidv6-train": OPEN_TRAIN, "validation": OPEN_VALIDATION, "test": OPEN_TEST}
    for name, pictures in tables.items():
        lines = ["ImageID,Source,LabelName,Confidence"]
        for image, told in pictures.items():
            if told == "away":
                lines.append(f"{image},verification,/m/011q46kg,1")
                continue
            draw(root / name.removeprefix("oidv6-"), f"{image}.jpg")
            for one in told.split("|"):
                label, _, value = one.partition("=")
                lines.append(f"{image},crowdsource-verification,{CODES[label]},{value or 1}")
        write_files(root, {f"{name}-annotations-human-imagelabels.csv": "\n".join(lines)})


# NUS-WIDE: picture -> concepts; one of the pictures cannot be had any more.
CONCEPTS = ["airport", "animal", "clouds", "grass", "person", "plane", "sky", "water", "whales", "zebra"]
NUS = {
    "actor\\0001_2124494179.jpg": ("Train", "person"),
    "actor\\0002_174174086.jpg": ("Train", "sky|clouds|water"),
    "actor\\0004_2124494180.jpg": ("Test", "sky|person"),
    "airport\\0001_1.jpg": ("Train", "plane|sky|airport"),
    "airport\\0003_2.jpg": ("Test", "plane|sky"),
    "zebra\\0005_3.jpg": ("Train", "zebra|animal|grass"),
    "zebra\\0006_4.jpg": ("Train", ""),
    "zebra\\0007_5.jpg": ("Test", "zebra"),
    "zebra\\0008_6.jpg": ("Train", "animal"),
    "zebra\\0009_gone.jpg": ("Train", "zebra"),
}


def nus_wide(root):
    files = {}
    for name, splits in {"": ("Train", "Test"), "Train": ("Train",), "Test": ("Test",)}.items():
        lines = "".join(f"{image}\r\n" for image, (split, _) in NUS.items() if split in splits)
        files[f"ImageList/{name}Imagelist.txt"] = lines
    for concept in CONCEPTS:
        column = "".join(f"{int(concept in told.split('|'))}\n" for _, told in NUS.values())
        files[f"Groundtruth/AllLabels/Labels_{concept}.txt"] = column
    write_files(root, files)
    draw(root / "Flickr", *(image.replace("\\", "/") for image in NUS if "gone" not in image))


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets")
    coco(root / "coco", 2017, "{number:012d}.jpg")
    coco(root / "coco", 2014, "COCO_{split}2014_{number:012d}.jpg")
    voc(root / "VOCdevkit")
    chexpert(root / "CheXpert-v1.0-small", "CheXpert-v1.0-small")
    open_images(root / "open_images")
    nus_wide(root / "NUS-WIDE")
    return root


def test_coco_with_known_labels_hidden(sets, monkeypatch):
    monkeypatch.chdir(sets / "coco")
    run = Run("coco_partial", monkeypatch)
    assert run.names == tuple(COCO_NAMES)
    assert sorted(run.files("train") + run.files("validation")) == [f"{number:012d}.jpg" for number in COCO_TRAIN]
    assert len(run.files("validation")) == 1  # 5 % of 14
    truth = {f"{number:012d}.jpg": set(things) for number, things in {**COCO_TRAIN, **COCO_VAL}.items()}
    for file, answers in run.answers("test").items():
        assert answers == {name: int(name in truth[file]) for name in COCO_NAMES}
    assert [run.tested(name) for name in ("chair", "person", "bear", "zebra")] == [(2, 2), (2, 2), (1, 3), (0, 4)]
    known = 0
    for split in ("train", "validation"):
        for file, answers in run.answers(split).items():
            kept = {name: code for name, code in answers.items() if code != UNKNOWN}
            assert kept == {name: int(name in truth[file]) for name in kept}
            known += len(kept)
    assert 0.2 < known / (14 * len(COCO_NAMES)) < 0.4  # four standard deviations
    assert (run.targets == run.images.of_split("train").labels).all()  # what is unknown is masked


def test_coco_2014_is_another_pair_of_files(sets, monkeypatch):
    monkeypatch.chdir(sets / "coco")
    files = ["annotations/instances_train2014.json", '{"path": "annotations/instances_val2014.json", "split": "test"}']
    assert all(file in READ_ME.read_text() for file in files)
    images = load_data(parse_recipe("coco_partial", ["--data", *files]))
    test = images.of_split("test")
    assert test.column("file_name").tolist() == [f"COCO_val2014_{number:012d}.jpg" for number in COCO_VAL]
    assert (test.labels.sum(), len(images)) == (9, 18)


def test_voc_leaves_difficult_objects_out(sets, monkeypatch):
    monkeypatch.chdir(sets / "VOCdevkit")
    run = Run("voc2007", monkeypatch)
    assert run.names == VOC_LABELS
    for split, given in (("train", "train"), ("validation", "val"), ("test", "test")):
        assert run.files(split) == sorted(f"{name}.jpg" for name, row in VOC.items() if row[0] == given)
        for file, answers in run.answers(split).items():
            _, objects, difficult = VOC[file.removesuffix(".jpg")]
            expected = dict.fromkeys(VOC_LABELS, 0) | dict.fromkeys(difficult, UNKNOWN) | dict.fromkeys(objects, 1)
            assert answers == expected
    # of six pictures to train on: yes, no, not asked
    assert {name: run.trained(name) for name in ("car", "person", "horse", "bottle", "chair", "sofa")} == {
        "car": (2, 3, 1), "person": (2, 3, 1), "horse": (2, 4, 0), "bottle": (0, 5, 1), "chair": (1, 5, 0),
        "sofa": (0, 6, 0),
    }  # fmt: skip
    assert (run.tested("person"), run.tested("car"), run.tested("train")) == ((1, 2), (1, 2), (1, 3))


@pytest.mark.parametrize(("policy", "uncertain_is"), [(None, None), ("positive", 1), ("negative", 0)])
def test_chexpert_under_each_policy(sets, monkeypatch, policy, uncertain_is):
    monkeypatch.chdir(sets / "CheXpert-v1.0-small")
    run = Run("chexpert", monkeypatch, "--validation_share=0", *(("--uncertain", policy) if policy else ()))
    assert run.names == FINDINGS
    assert len(run.files("train")) == len(CHEXPERT_TRAIN)
    assert [re.search(r"patient(\d+)", file)[1] for file in run.files("test")] == [str(one) for one in CHEXPERT_VALID]
    # of eleven pictures, as the file says it: yes, no, uncertain; and so it is told
    written = {"Edema": (2, 3, 4), "Cardiomegaly": (2, 0, 2), "Pneumonia": (1, 0, 1), "No Finding": (2, 0, 0),
               "Atelectasis": (0, 0, 1), "Consolidation": (0, 1, 0), "Support Devices": (2, 0, 0)}  # fmt: skip
    told = {name: tuple(run.told["labels"][name].values()) for name in written}
    assert told == written
    assert list(run.told["labels"]["Edema"]) == ["positive", "negative", "uncertain"]
    # and so it is trained on: what is not mentioned is a no
    for name, (yes, _, uncertain) in written.items():
        expected = [yes, 11 - yes - uncertain, uncertain]
        if uncertain_is is not None:
            expected = [expected[0] + uncertain * uncertain_is, expected[1] + uncertain * (1 - uncertain_is), 0]
        assert list(run.trained(name)) == expected
    assert (run.tested("Edema"), run.tested("No Finding"), run.tested("Pneumonia")) == ((2, 2), (1, 3), (0, 4))


def test_chexpert_keeps_patients_whole_and_finds_every_release(sets, monkeypatch, tmp_path):
    chexpert(tmp_path / "unpacked", "CheXpert-v1.0")  # the large release, in a folder of another name
    for folder in (tmp_path / "unpacked", sets / "CheXpert-v1.0-small"):
        monkeypatch.chdir(folder)
        images = load_data(parse_recipe("chexpert", ["--validation_share=0.3"]))
        patients = {split: set(images.of_split(split).column("group")) for split in ("train", "validation", "test")}
        assert patients["validation"]
        assert not patients["train"] & patients["validation"]
        assert sorted(map(len, (patients["train"] | patients["validation"], patients["test"]))) == [4, 8]
    monkeypatch.chdir(sets / "CheXpert-v1.0-small")
    images = load_data(parse_recipe("chexpert", ["--data", "train.csv", "valid.csv"]))
    assert images.of_split("validation").column("file_name").tolist()[0].startswith("CheXpert-v1.0-small/valid/")


def test_open_images_with_the_pictures_at_hand(sets, monkeypatch, caplog):
    monkeypatch.chdir(sets / "open_images")
    with caplog.at_level(logging.WARNING, logger="halflabel"):
        run = Run("openimages_v6", monkeypatch)
    assert "25 of 33 pictures are left out, as they are not in train" in caplog.text
    jaguar, car = "Jaguar (/m/0449p)", "Jaguar (/m/012x34)"
    assert run.names == ("Car", "Dog", car, jaguar, "Ham, cooked")
    for split, pictures in (("train", OPEN_TRAIN), ("validation", OPEN_VALIDATION), ("test", OPEN_TEST)):
        there = [image for image, told in pictures.items() if told != "away"]
        assert run.files(split) == [f"{image}.jpg" for image in there]
    assert {name: run.trained(name) for name in run.names} == {
        "Car": (3, 2, 3), "Dog": (3, 2, 3), car: (1, 0, 7), jaguar: (1, 0, 7), "Ham, cooked": (1, 1, 6),
    }  # fmt: skip
    assert [run.tested(name) for name in run.names] == [(1, 2), (1, 2), (0, 0), (0, 0), (0, 0)]
    validation = run.answers("validation")
    assert [row[jaguar] for row in validation.values()] == [0, 1, UNKNOWN]
    assert [row[car] for row in validation.values()] == [UNKNOWN] * 3
    assert run.metrics["labels"][jaguar]["AP"] is None


def test_nus_wide_by_the_table_of_the_read_me_with_one_yes_a_picture(sets, monkeypatch):
    monkeypatch.chdir(sets / "NUS-WIDE")
    blocks = re.findall(r"```python\n(.*?)```", READ_ME.read_text(), re.DOTALL)
    code = next(block for block in blocks if "nuswide.csv" in block)
    exec(compile(code, "README", "exec"), {})
    run = Run("nuswide", monkeypatch)
    assert run.names == tuple(CONCEPTS)
    told = {f"Flickr/{image}".replace("\\", "/"): (split, set(told.split("|"))) for image, (split, told) in NUS.items()}
    assert run.files("validation") == []
    for split, given in (("train", "Train"), ("test", "Test")):
        there = [image for image, (one, _) in told.items() if one == given and "gone" not in image]
        assert run.files(split) == there
    for file, answers in run.answers("test").items():
        assert answers == {name: int(name in told[file][1]) for name in CONCEPTS}
    for file, answers in run.answers("train").items():
        known = {name: code for name, code in answers.items() if code != UNKNOWN}
        assert set(known.values()) <= {1}
        assert set(known) <= told[file][1]
        assert len(known) == (0 if told[file][1] == {""} else 1)
    assert run.told["images"] == 6
    assert sum(row["positive"] for row in run.told["labels"].values()) == 5
    assert (run.tested("sky"), run.tested("zebra"), run.tested("whales")) == ((2, 1), (1, 2), (0, 3))


@pytest.mark.parametrize("name", PUBLIC)
def test_a_recipe_says_that_it_was_not_run_and_stands_in_the_read_me(name):
    recipe = parse_recipe(name)
    assert recipe.model.weights == "hub"
    text = READ_ME.read_text()
    assert text.count(f"| `{name}` |") == 3  # in the table of recipes, and in both of public sets
    assert f"halflabel train {name}" in text.partition("## Public data sets")[2]
