import torch

from halflabel import TimmMultiLabelImageProcessor
from halflabel.data import PixelDataset
from halflabel.decoding import decode_image
from halflabel.features import extract_features


def test_features_are_the_backbones_in_the_order_of_the_images(tiny_model, colour_images):
    processor = TimmMultiLabelImageProcessor.from_backbone(tiny_model.backbone)
    dataset = PixelDataset(colour_images, processor.eval_transform())
    features = extract_features(tiny_model.train(), dataset, batch_size=7)
    assert features.shape == (48, tiny_model.head.in_features)
    picture = decode_image(colour_images.dataset[17]["image"])
    with torch.no_grad():
        alone = tiny_model.eval().extract_features(processor(picture)["pixel_values"])[0]
    torch.testing.assert_close(features[17], alone, rtol=1e-4, atol=1e-5)
