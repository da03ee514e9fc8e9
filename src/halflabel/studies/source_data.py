"""How many images a backbone's weights come from, as far as the tag that timm gives them says."""

from dataclasses import dataclass
from typing import Any

import timm

SOURCE_IMAGES = {
    "in1k": 1_281_167,
    "in12k": 11_821_647,
    "in21k": 14_197_122,
    "in22k": 14_197_122,
    "inw21k": 14_197_122,
    "sa1b": 11_000_000,
    "cc12m": 12_000_000,
    "yfcc15m": 15_000_000,
    "yfcc100m": 100_000_000,
    "m38m": 38_000_000,
    "lvd142m": 142_000_000,
    "lvd1689m": 1_689_000_000,
    "sat493m": 493_000_000,
    "jft": 300_000_000,
    "openai": 400_000_000,
    "laion400m": 400_000_000,
    "400m": 400_000_000,
    "ig1b": 940_000_000,
    "swag": 3_600_000_000,
    "seer": 1_000_000_000,
    "laion2b": 2_300_000_000,
    "laiona": 900_000_000,
    "merged2b": 2_000_000_000,
    "dfn2b": 2_000_000_000,
    "dfndr2b": 2_000_000_000,
    "2pt5b": 2_500_000_000,
    "dfn5b": 5_000_000_000,
    "datacomp1b": 1_400_000_000,
    "datacompxl": 1_400_000_000,
    "webli": 10_000_000_000,
}
"""Images by the words of timm's tags, rounded as the data sets' authors publish them."""

_FAR_MORE = 10


@dataclass(frozen=True)
class SourceData:
    """What pretrained weights come from: timm's tag, and the images of its largest data set; None: not known."""

    tag: str | None
    images: int | None

    def relate(self, target_images: int) -> dict[str, Any]:
        """Compare with the number of target images: a dict for JSON with the verdict and a sentence.

        Transfer is expected to help where the source has far more data than the target; here: ten times as many images.
        """
        ratio = self.images / target_images if self.images is not None and target_images else None
        if ratio is None:
            verdict = "unknown"
            sentence = f"how many images the weights come from is not known ({self.tag or 'no tag'})"
        else:
            more = ratio >= _FAR_MORE
            verdict = "far more source images" if more else "not far more source images"
            sentence = (
                f"the weights come from {self.images:,} images ({self.tag}), "
                f"{ratio:,.{0 if more else 1}f} times the {target_images:,} target images"
            )
        return {
            "tag": self.tag,
            "images": self.images,
            "target_images": target_images,
            "ratio": ratio,
            "verdict": verdict,
            "sentence": sentence,
        }


def find_source_data(backbone: str, weights: str) -> SourceData:
    """Read the tag of a backbone's weights; where it names several data sets, the largest counts.

    Args:
        backbone: A timm name; without a tag it has the one that timm takes.
        weights: `hub` or `installed`; of the weights in a file nothing is known.
    """
    if weights not in ("hub", "installed"):
        return SourceData(None, None)
    config = timm.get_pretrained_cfg(backbone, allow_unregistered=True)
    tag = (config.tag or None) if config is not None else None
    if tag is None:
        return SourceData(None, None)
    found = [SOURCE_IMAGES[word] for word in tag.split("_") if word in SOURCE_IMAGES]
    return SourceData(tag, max(found, default=None))
