import pytest

from halflabel.studies.source_data import find_source_data


@pytest.mark.parametrize(
    ("name", "images"),
    [
        ("tf_efficientnet_lite0", 1_281_167),  # timm's default tag is in1k
        ("resnet50.a1_in1k", 1_281_167),
        ("vit_base_patch16_224.augreg_in21k", 14_197_122),
        ("convnext_base.fb_in22k_ft_in1k", 14_197_122),  # the larger of the two
        ("vit_base_patch16_clip_224.laion2b_ft_in12k_in1k", 2_300_000_000),
        ("vit_small_patch14_dinov2.lvd142m", 142_000_000),
    ],
)
def test_the_number_of_source_images_follows_from_the_tag(name, images):
    assert find_source_data(name, "hub").images == images


def test_what_is_not_known_is_said_to_be_so(tmp_path):
    for source in (find_source_data("sam2_hiera_tiny.fb_r896", "hub"), find_source_data("resnet50", str(tmp_path))):
        found = source.relate(500)
        assert (found["images"], found["ratio"], found["verdict"]) == (None, None, "unknown")
        assert "not known" in found["sentence"]


def test_ten_times_as_many_source_images_are_far_more():
    source = find_source_data("resnet50.a1_in1k", "hub")
    assert source.relate(1000)["ratio"] == pytest.approx(1281.167)
    assert source.relate(128_116)["verdict"] == "far more source images"
    assert source.relate(128_117)["verdict"] == "not far more source images"
    assert "1,281,167 images (a1_in1k), 1,281 times the 1,000 target images" in source.relate(1000)["sentence"]
    assert source.relate(0)["ratio"] is None
