import numpy as np
import pytest
import torch

from halflabel.model.errors import HalflabelError
from halflabel.model.feature_head import CHUNK, FeatureHead
from halflabel.model.heads import HEADS


@pytest.fixture
def pooled() -> FeatureHead:
    return HEADS["linear"](3, 2)


@pytest.fixture
def positions() -> FeatureHead:
    return HEADS["csra"](3, 2)


def test_standardised_features_have_mean_zero_and_sd_one(pooled):
    features = torch.randn(500, 3) * torch.tensor([1.0, 20.0, 0.0]) + torch.tensor([5.0, -3.0, 2.0])
    pooled.standardize_(features)
    standardised = (features - pooled.feature_mean) / pooled.feature_scale
    torch.testing.assert_close(standardised.mean(0), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(standardised.std(0, correction=0)[:2], torch.ones(2), atol=1e-4, rtol=0)
    assert pooled.feature_scale[2] == 1  # a constant feature is not divided by 0


def test_positions_count_like_images(positions):
    features = torch.randn(20, 7, 3) * torch.tensor([1.0, 20.0, 3.0]) + 4
    positions.standardize_(features)
    rows = features.double().reshape(-1, 3).numpy()
    np.testing.assert_allclose(positions.feature_mean, rows.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(positions.feature_scale, rows.std(axis=0), rtol=1e-6)


def test_many_chunks_give_the_numbers_of_one(pooled):
    """A large mean beside a small spread: sums of squares in float32 would lose it."""
    rows = CHUNK // 3 * 2 + 1001
    features = torch.randn(rows, 3, generator=torch.Generator().manual_seed(1)) * 0.1 + 1000
    features[: rows // 3] += 0.5
    pooled.standardize_(features)
    exact = features.double()
    torch.testing.assert_close(pooled.feature_mean.double(), exact.mean(0), rtol=1e-7, atol=0)
    torch.testing.assert_close(pooled.feature_scale.double(), exact.std(0, correction=0), rtol=1e-6, atol=0)


def test_memory_mapped_half_precision_features(positions, tmp_path):
    values = np.random.default_rng(0).normal(3, 2, (50, 4, 3)).astype(np.float16)
    np.save(tmp_path / "features.npy", values)
    mapped = torch.from_numpy(np.load(tmp_path / "features.npy", mmap_mode="r+"))
    positions.standardize_(mapped)
    rows = values.astype(np.float64).reshape(-1, 3)
    np.testing.assert_allclose(positions.feature_mean, rows.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(positions.feature_scale, rows.std(axis=0), rtol=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_features_that_are_no_numbers_are_refused(pooled, bad):
    features = torch.randn(5, 3)
    features[2, 1] = bad
    with pytest.raises(HalflabelError, match="not finite"):
        pooled.standardize_(features)
    assert (pooled.feature_mean == 0).all()


def test_no_features_at_all_are_refused(pooled):
    with pytest.raises(HalflabelError, match="no features"):
        pooled.standardize_(torch.empty(0, 3))


def test_features_of_another_width_are_refused(pooled, positions):
    with pytest.raises(HalflabelError, match=r"LinearHead takes features of shape \(images, 3\), got \(5, 4\)"):
        pooled.standardize_(torch.randn(5, 4))
    with pytest.raises(
        HalflabelError, match=r"CsraHead takes features of shape \(images, positions, 3\), got \(5, 3\)"
    ):
        positions.standardize_(torch.randn(5, 3))
