"""Pictures in several views: as in evaluation, and drawn at random the same way in every run."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..data.draws import draw_seed, drawing
from ..data.pixels import PixelDataset
from ..model.errors import HalflabelError
from ..model.image_processing_timm_multilabel import decode_image
from .feature_keys import row_keys


class Views:
    """Pictures in one or several views: view 0 by the evaluation transform, the others by the training transform.

    What a view draws at random follows from a seed, the view's number and the picture's name, so that it is the same
    in every run, whatever the order and the number of workers. View 0 is part of every number of views, so that
    features of fewer views are of use to a run with more.
    """

    def __init__(
        self, pixels: PixelDataset, augmented: PixelDataset | None = None, views: int = 1, seed: int = 0
    ) -> None:
        """Decode nothing yet.

        Args:
            pixels: The pictures with the evaluation transform.
            augmented: The same pictures with the training transform; needed for more than one view.
            views: How many, at least 1.
            seed: Of the random draws.

        Raises:
            HalflabelError: If `views` is below 1, or above 1 without `augmented`.
        """
        if views < 1:
            raise HalflabelError(f"views is {views}, expected at least 1")
        if views > 1 and augmented is None:
            raise HalflabelError(f"views is {views}, but there is no training transform to make them")
        self.sources = (pixels, augmented or pixels)
        self.views = views
        self.seed = seed

    def __len__(self) -> int:
        """Return the number of images times views."""
        return len(self.sources[0]) * self.views

    def keys(self) -> list[bytes]:
        """Return the key of each row, see `feature_keys.row_keys`: all views of the first image, then of the next."""
        plain = row_keys(self.sources[0])
        if self.views == 1:
            return [key for keys in plain for key in keys]
        others = row_keys(self.sources[1], range(1, self.views), self.seed)
        return [key for both in zip(plain, others, strict=True) for keys in both for key in keys]

    def load(self, rows: Sequence[int]) -> Tensor:
        """Return the pixels of some rows, float32 of shape (rows, channels, height, width)."""
        made, decoded, picture = [], None, None
        for row in rows:
            image, view = divmod(row, self.views)
            source = self.sources[view > 0]
            if decoded != (image, view > 0):  # all drawn views of a picture need it decoded once
                record = source.dataset[image]
                picture = decode_image(record["image"], record["file_name"], source.shortest_side)
                decoded = (image, view > 0)
            assert picture is not None
            if view:
                with drawing(draw_seed(self.seed, view, record["file_name"])):
                    made.append(source.transform(picture))
            else:
                made.append(source.transform(picture))
        return torch.stack(made)
