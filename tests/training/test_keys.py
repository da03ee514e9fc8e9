"""What is read of keys without torch is what the heavy modules hold."""

from dataclasses import fields

import pytest
from transformers import TrainingArguments

from halflabel import HalflabelError
from halflabel.model.heads import HEADS
from halflabel.model.losses import LOSSES
from halflabel.training.keys import OWN_KEYS, choices, read_keys, trainer_keys


def test_the_trainers_keys_are_its_fields():
    assert set(trainer_keys()) == {key.name for key in fields(TrainingArguments) if key.init}
    assert not set(trainer_keys()) & set(OWN_KEYS)


def test_words_of_a_table_are_its_keys():
    assert choices("loss") == tuple(LOSSES)
    assert choices("head") == tuple(HEADS)
    assert choices("backbone") == ()


def test_the_caller_is_stronger_than_the_file_and_each_value_has_its_type(tmp_path):
    (tmp_path / "r.yaml").write_text("data: a.csv\nbackbone: test_resnet\nviews: 2\nlearning_rate: 1e-3\n")
    path, from_file, typed, own = read_keys(str(tmp_path / "r.yaml"), ["--views", "3", "--lr", "1e-2", "--strict"])
    assert path == tmp_path / "r.yaml"
    assert own == {"data": ["a.csv"], "backbone": "test_resnet", "views": 3, "strict": True}
    assert (from_file["learning_rate"], typed["learning_rate"]) == ("1e-3", "1e-2")


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["--lr", "fast"], "argument --learning_rate: invalid float value: 'fast'"),
        (["--loss", "bcee"], "did you mean bce"),
        (["--views", "0"], "views is 0"),
        (["--strict", "maybe"], "strict is 'maybe', expected true or false"),
        (["--mixing", "mixup"], "mixing"),
    ],
)
def test_a_wrong_value_is_told_before_anything_is_loaded(tmp_path, typed, message):
    (tmp_path / "r.yaml").write_text("data: a.csv\nbackbone: test_resnet\n")
    with pytest.raises(HalflabelError, match=message):
        read_keys(str(tmp_path / "r.yaml"), typed)
