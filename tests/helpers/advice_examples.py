"""Annotations and features that are made up, so that what advice should say is known."""

import numpy as np

from halflabel.data.images import build_images
from halflabel.studies.advice_data import advise_data
from halflabel.studies.multitask_advice import advise_multi_task
from halflabel.studies.networks import BackboneFeatures, SourceData
from halflabel.studies.transfer_advice import advise_transfer


def annotate(labels, names):
    files = [f"{i}.png" for i in range(len(labels))]
    return build_images(files, files, np.asarray(labels, dtype=np.int8), names)


def make_features(count, seed=0):
    """Three directions of large variance, three of small, and noise; these directions, and the features."""
    rng = np.random.default_rng(seed)
    loud, soft = rng.normal(size=(count, 3)), rng.normal(size=(count, 3))
    mixed = np.concatenate([6 * np.repeat(loud, 20, axis=1), 2 * np.repeat(soft, 8, axis=1)], axis=1)
    mixed = (mixed + rng.normal(size=mixed.shape)).astype(np.float32)
    random = rng.normal(size=mixed.shape).astype(np.float32)
    return loud, soft, BackboneFeatures("good", "installed", mixed, random, SourceData("in1k", 1_281_167), 1000)


def answer(rng, logit, unknown=0.2):
    """Draw answers with the log-odds of yes, some of them unknown."""
    drawn = (rng.random(len(logit)) < 1 / (1 + np.exp(-logit))).astype(np.int8)
    drawn[rng.random(len(logit)) < unknown] = -100
    return drawn


def advise_made_up(images, features, backbone_failures=()):
    """Put together what `advice.advise` does, from features that no network made."""
    data = advise_data(images)
    loaded = {} if features is None else {features.name: features}
    return {
        "images": len(images), "test_images_left_out": 0, "unreadable": [], "backbones": ["good"],
        "weights": "installed", "budget": "quick", "seed": 0, "data": data,
        "transfer": advise_transfer(images, loaded, backbone_failures),
        "multi_task": advise_multi_task(images, features, data["balance"]),
    }  # fmt: skip


def advise_on_shared_need(names, backbone_failures=()):
    """Advice on 800 images: two labels that need the same features, and one with three yes."""
    rng = np.random.default_rng(0)
    loud, soft, features = make_features(800)
    needed = 2 * loud[:, 0] + 2 * soft[:, 0]
    columns = [answer(rng, needed), answer(rng, needed), np.arange(800) < 3]
    return advise_made_up(annotate(np.stack(columns, axis=1), names), features, backbone_failures)
