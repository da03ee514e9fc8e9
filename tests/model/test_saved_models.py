"""A model that an earlier halflabel saved: a network of 37,000 weights with an mlp head and a fitted decision rule."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from halflabel import HalflabelError
from halflabel.use.inference import open_model

SAVED = Path(__file__).parents[1] / "fixtures" / "saved_by_0_1"


def test_a_model_of_version_0_1_gives_the_scores_that_it_gave():
    saved = open_model(SAVED)
    model, processor = saved.model, saved.processor
    torch.manual_seed(1)
    with torch.no_grad():
        logits = model(torch.randn(4, 3, 64, 64)).logits.double()
    expected = json.loads((SAVED / "expected_scores.json").read_text())["scores"]
    scores = torch.from_numpy(model.config.decision_rule.scores(logits.numpy()))
    torch.testing.assert_close(scores, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-5)
    assert model.config.label_space.names == ("pedestrian", "car", "stop sign")
    assert (model.config.loss, model.config.normalizer, model.config.head_args["power"]) == ("asl", "tasks", 0.5)
    assert processor.input_size == [3, 160, 160]


def test_a_saved_model_that_names_what_is_gone_says_so_in_one_line(tmp_path):
    shutil.copytree(SAVED, tmp_path / "old")
    config = json.loads((SAVED / "config.json").read_text())
    config["relations"] = {"num_labels": 3, "first": [0], "second": [1], "weights": [1.0]}
    (tmp_path / "old" / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        HalflabelError, match="relations between labels, which halflabel has no more .* set relations to null"
    ) as error:
        open_model(tmp_path / "old")
    assert "\n" not in str(error.value)
