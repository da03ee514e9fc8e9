import pytest
import torch
from safetensors.torch import save_file
from transformers import TrainerState

from halflabel.model.errors import HalflabelError
from halflabel.model.modeling_timm_multilabel import TimmMultiLabelForImageClassification
from halflabel.training.checkpoint_checks import check_checkpoint


@pytest.fixture
def checkpoint(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    TrainerState().save_to_json(str(tmp_path / "trainer_state.json"))
    torch.save(torch.optim.AdamW(tiny_model.parameters()).state_dict(), tmp_path / "optimizer.pt")
    return tmp_path


def test_a_checkpoint_of_this_model_passes(tiny_model, checkpoint):
    check_checkpoint(checkpoint, tiny_model)


def test_one_of_other_labels_is_refused_though_all_names_are_the_same(checkpoint):
    other = TimmMultiLabelForImageClassification.from_backbone("test_resnet", ["a", "b", "c"], weights=None)
    with pytest.raises(HalflabelError, match=r"other labels: head\.linear\.bias, head\.linear\.weight differ"):
        check_checkpoint(checkpoint, other)


def test_weights_that_are_missing_or_too_many_are_told(tiny_model, checkpoint):
    state = tiny_model.state_dict()
    for changed in ({**state, "more": torch.ones(1)}, dict(list(state.items())[:-1])):
        save_file(changed, checkpoint / "model.safetensors")
        with pytest.raises(HalflabelError, match="of another network"):
            check_checkpoint(checkpoint, tiny_model)
