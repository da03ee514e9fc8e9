import pytest
import timm
import torch
from safetensors.torch import save_file

from halflabel.model.errors import HalflabelError
from halflabel.model.weights import INSTALLED, create_backbone, to_timm_names


@pytest.mark.parametrize("name", sorted(INSTALLED))
def test_installed_weights_fit_exactly(name):
    module = pytest.importorskip(INSTALLED[name][0], reason=f"needs {INSTALLED[name][2]}")
    path = next(v for k, v in vars(module).items() if k.endswith("ModelFile")).get_model_file_path()
    state = torch.load(path, weights_only=True)
    renamed = to_timm_names(state, timm.create_model(name))
    assert {k: v.shape for k, v in renamed.items()} == {
        k: v.shape for k, v in timm.create_model(name).state_dict().items()
    }
    backbone = create_backbone(name, "installed")
    last = max(int(k.split(".")[1]) for k in state if k.startswith("_blocks."))
    loaded = backbone.blocks[-1][-1].conv_pwl.weight
    torch.testing.assert_close(loaded.detach(), state[f"_blocks.{last}._project_conv.weight"], rtol=0, atol=0)


def test_installed_weights_recognise_a_photograph_structure():
    """A pretrained network's features tell a smooth gradient from noise far better than its own random start does."""
    pytest.importorskip(INSTALLED["tf_efficientnet_lite0"][0], reason="needs the weight package")
    smooth = torch.linspace(-1, 1, 224).expand(8, 3, 224, 224) + 0.01 * torch.randn(8, 3, 224, 224)
    noise = torch.randn(8, 3, 224, 224).clamp(-1, 1)

    def separation(weights):
        backbone = create_backbone("tf_efficientnet_lite0", weights).eval()
        with torch.no_grad():
            a, b = backbone(smooth), backbone(noise)
        return ((a.mean(0) - b.mean(0)).norm() / (a.std(0).norm() + b.std(0).norm() + 1e-9)).item()

    assert separation("installed") > 2


def test_a_path_of_safetensors_or_of_a_timm_file(tmp_path):
    source = timm.create_model("test_resnet", num_classes=10)
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    torch.save(source.state_dict(), tmp_path / "w.pth")
    for name in ("w.safetensors", "w.pth"):
        backbone = create_backbone("test_resnet", tmp_path / name)
        for key, value in backbone.state_dict().items():
            torch.testing.assert_close(value, source.state_dict()[key], rtol=0, atol=0)


class Evil:
    def __reduce__(self):
        return (open, ("evil.txt", "w"))


def test_a_pickle_is_not_unpickled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Evil()}, tmp_path / "w.pth")
    with pytest.raises(HalflabelError, match=r"w\.pth"):
        create_backbone("test_resnet", tmp_path / "w.pth")
    assert not (tmp_path / "evil.txt").exists()


def test_each_failure_names_the_other_ways(tmp_path):
    with pytest.raises(HalflabelError, match="Hub.*'installed'.*path") as hub:
        create_backbone("resnet18.a1_in1k", "hub")
    assert "\n" not in str(hub.value)
    with pytest.raises(HalflabelError, match="no installed weights for 'resnet18'.*hub.*path"):
        create_backbone("resnet18", "installed")
    with pytest.raises(HalflabelError, match="no such file"):
        create_backbone("test_resnet", tmp_path / "no.safetensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(HalflabelError, match="no weights that fit 'test_resnet'"):
        create_backbone("test_resnet", tmp_path / "other.safetensors")


def test_no_weights_means_random_ones():
    torch.manual_seed(1)
    first = create_backbone("test_resnet", None).state_dict()
    torch.manual_seed(2)
    second = create_backbone("test_resnet", None).state_dict()
    assert any(not torch.equal(first[key], second[key]) for key in first)
