import copy

import pytest
import torch
from torch import nn

import halflabel
from halflabel.training.folding import TOLERANCE, fold_batch_norms


def model_of(name, **backbone_args):
    """A model in evaluation mode whose BatchNorms have something to fold."""
    model = halflabel.TimmMultiLabelForImageClassification.from_backbone(
        name, ["red"], weights=None, backbone_args=backbone_args
    ).eval()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.8, 1.2)
            nn.init.uniform_(layer.running_var, 0.8, 1.2)
            nn.init.normal_(layer.bias, std=0.1)
            nn.init.normal_(layer.running_mean, std=0.1)
    return model


def norms(model):
    return [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]


@pytest.mark.parametrize(
    "name", ["test_resnet", "test_efficientnet", "test_byobnet", "tf_mobilenetv3_small_minimal_100", "resnetv2_18"]
)
def test_features_stay_and_batch_norms_go(name):
    model = model_of(name)
    count, pixels = len(norms(model)), torch.randn(2, 3, 64, 64)
    before = copy.deepcopy(model.state_dict())
    folded = fold_batch_norms(model, pixels)
    other = torch.randn(3, 3, 64, 64)
    with torch.inference_mode():
        plain, fast = model.extract_features(other), folded.extract_features(other)
    assert (fast - plain).abs().max() <= 3 * TOLERANCE * plain.abs().max()
    assert len(norms(folded)) < count == len(norms(model))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_a_network_without_batch_norms_is_not_copied():
    model = model_of("test_vit")
    assert fold_batch_norms(model, torch.randn(1, 3, 160, 160)) is model


def test_a_network_whose_features_would_change_is_left_alone(monkeypatch):
    model = model_of("test_resnet")
    monkeypatch.setattr("halflabel.training.folding.TOLERANCE", 0.0)
    assert fold_batch_norms(model, torch.randn(2, 3, 64, 64)) is model


def test_a_convolution_whose_output_is_also_used_otherwise_is_left_alone():
    model = model_of("test_resnet")

    class Leaky(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 8, 3), model_of("test_resnet").backbone.bn1.__class__(8)
            nn.init.normal_(self.bn.bias)
            self.head_hidden_size = self.num_features = 8

        def forward_features(self, x):
            x = self.conv(x)
            return x + self.bn(x)

        def forward_head(self, x, pre_logits=False):
            return x.mean(dim=(2, 3))

    model.backbone = Leaky().eval()
    assert fold_batch_norms(model, torch.randn(2, 3, 16, 16)) is model


def test_not_a_number_is_shown_by_the_plain_network():
    model = model_of("test_resnet")
    nn.init.constant_(model.backbone.bn1.bias, float("nan"))
    assert fold_batch_norms(model, torch.randn(2, 3, 64, 64)) is model


def test_a_layer_that_runs_twice_stays():
    model = model_of("test_resnet")

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
            nn.init.normal_(self.bn.bias)

        def forward_features(self, x):
            return self.bn(self.conv(self.bn(self.conv(x))))

        def forward_head(self, x, pre_logits=False):
            return x.mean(dim=(2, 3))

    model.backbone = Twice().eval()
    assert fold_batch_norms(model, torch.randn(2, 3, 16, 16)) is model
