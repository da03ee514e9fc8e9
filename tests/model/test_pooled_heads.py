import pytest
import torch
from torch.nn import functional as F

from halflabel.model.pooled_heads import LinearHead, MlpHead


def test_linear_is_a_matrix_on_standardised_features():
    head = LinearHead(4, 3)
    features = torch.randn(8, 4) * 5 + 2
    head.standardize_(features)
    x = (features - features.mean(0)) / features.std(0, correction=0)
    torch.testing.assert_close(head(features), x @ head.linear.weight.T + head.linear.bias)


@pytest.mark.parametrize("kind", [LinearHead, MlpHead])
def test_a_power_is_taken_before_features_are_standardised(kind):
    head = kind(4, 3, power=0.5).eval()
    features = torch.randn(8, 4) * 5
    features[0, 0] = 0.0
    roots = torch.where(features < 0, -(-features).clamp(min=0).sqrt(), features.clamp(min=0).sqrt())
    plain = kind(4, 3).eval()
    head.standardize_(features)
    plain.standardize_(roots)
    plain.load_state_dict({**head.state_dict(), **{k: v for k, v in plain.state_dict().items() if "feature" in k}})
    torch.testing.assert_close(head(features), plain(roots))


def test_a_head_of_another_power_takes_over_nothing():
    old, new = LinearHead(4, 3), LinearHead(4, 3, power=0.5)
    old.standardize_(torch.randn(8, 4) * 5 + 2)
    before = {key: value.clone() for key, value in new.state_dict().items()}
    assert not new.take_labels_(old, [0, 1, 2])
    assert all(torch.equal(value, before[key]) for key, value in new.state_dict().items())


def test_the_bias_starts_at_the_known_log_odds():
    head = LinearHead(4, 3)
    head.set_prior_(torch.tensor([9, 0, 0]), torch.tensor([18, 8, 0]))
    expected = torch.tensor([10 / 20, 1 / 10, 1 / 2]).logit()
    torch.testing.assert_close(head.linear.bias.detach(), expected)


def test_mlp_is_layers_of_linear_norm_activation():
    head = MlpHead(4, 3, layers=2, width=6, dropout=0.5, norm="layer", activation="relu").eval()
    x = torch.randn(8, 4)
    state = [head.get_parameter(name) for name, _ in head.named_parameters()]
    assert len(state) == 2 * 4 + 2  # weight and bias of each layer and of its norm; the last layer
    w1, b1, g1, s1, w2, b2, g2, s2, w3, b3 = state
    h = F.relu(F.layer_norm(x @ w1.T + b1, (6,), g1, s1))
    h = F.relu(F.layer_norm(h @ w2.T + b2, (6,), g2, s2))
    torch.testing.assert_close(head(x), h @ w3.T + b3)


def test_dropout_acts_in_training_only():
    head = MlpHead(4, 3, dropout=0.5)
    x = torch.randn(8, 4)
    assert not torch.equal(head(x), head(x))
    head.eval()
    assert torch.equal(head(x), head(x))


def test_batch_norm_of_one_image_uses_the_running_statistics():
    """The last batch of an epoch may hold one image, which has no spread of its own."""
    head = MlpHead(4, 3, width=8, dropout=0.0, norm="batch")
    for _ in range(50):
        head(torch.randn(16, 4) * 3 + 1)
    before = {key: value.clone() for key, value in head.state_dict().items()}
    one = torch.randn(1, 4)
    assert torch.equal(head(one), head.eval()(one))
    assert all(torch.equal(value, before[key]) for key, value in head.state_dict().items())
