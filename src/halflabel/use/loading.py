"""The door of the room: a model is loaded once, and asked for predictions and measures."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor, nn

from ..model.heads import Head
from ..model.losses import Loss
from .evaluate import calibrate, evaluate
from .explain import Explanation, explain
from .inference import Name, SavedModel, open_model
from .predict import predict
from .review import Review, review


class Loaded(SavedModel):
    """A model with its image processor, and what it is good for; `load` makes one."""

    def predict(
        self,
        images: Name | Sequence[Name] | pd.DataFrame,
        output: Name | None = None,
        **options: Any,  # noqa: ANN401
    ) -> pd.DataFrame | Path:
        """Score pictures and decide, see `predict.predict`."""
        return predict(self, images, output, **options)

    def evaluate(self, data: Any, **options: Any) -> dict[str, Any]:  # noqa: ANN401
        """Measure on annotated pictures, see `evaluate.evaluate`."""
        return evaluate(self, data, **options)

    def calibrate(self, data: Any, **options: Any) -> dict[str, Any]:  # noqa: ANN401
        """Fit the decision rule and store it, see `evaluate.calibrate`."""
        return calibrate(self, data, **options)

    def review(self, data: Any, **options: Any) -> Review:  # noqa: ANN401
        """Find likely annotation mistakes, see `review.review`."""
        return review(self, data, **options)

    def explain(self, image: Any, labels: Sequence[str] | None = None) -> Explanation:  # noqa: ANN401
        """Find where a picture speaks for labels, see `explain.explain`."""
        return explain(self, image, labels)


def load(
    model: Name | SavedModel,
    *,
    revision: str | None = None,
    backbone: nn.Module | None = None,
    head: type[Head] | None = None,
    loss: Callable[..., Tensor] | Loss | None = None,
) -> Loaded:
    """Load a model from a folder or from the Hub; arguments and errors are those of `inference.open_model`.

    Example:
        ```python
        model = halflabel.load("me/signs")
        table = model.predict("photos/")
        ```
    """
    if isinstance(model, Loaded):
        return model
    saved = open_model(model, revision, backbone, head, loss)
    return Loaded(saved.model, saved.processor, saved.name)
