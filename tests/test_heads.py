import pytest
import torch

from halflabel.errors import HalflabelError
from halflabel.heads import LinearHead, check_head


def test_standardised_features_have_mean_zero_and_sd_one():
    features = torch.randn(500, 3) * torch.tensor([1.0, 20.0, 0.0]) + torch.tensor([5.0, -3.0, 2.0])
    head = LinearHead(3, 2)
    head.standardize_(features)
    with torch.no_grad():
        head.linear.weight.copy_(torch.eye(3)[:2])
        out = head(features)
    torch.testing.assert_close(out.mean(0), torch.zeros(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(out.std(0, correction=0), torch.ones(2), atol=1e-4, rtol=0)
    assert head.feature_scale[2] == 1  # a constant feature is not divided by 0


def test_the_bias_starts_at_the_known_log_odds():
    head = LinearHead(4, 3)
    head.set_prior_(torch.tensor([9, 0, 0]), torch.tensor([18, 8, 0]))
    expected = torch.tensor([10 / 20, 1 / 10, 1 / 2]).logit()
    torch.testing.assert_close(head.linear.bias.detach(), expected)


def test_unknown_head_is_named():
    with pytest.raises(HalflabelError, match="did you mean linear"):
        check_head("linaer")
