"""The pipeline task `multi-label-image-classification`: a calibrated score and a decision for every label."""

from collections.abc import Mapping
from typing import Any

from transformers import Pipeline

from .configuration_timm_multilabel import TimmMultiLabelConfig
from .decisions import check_logits
from .errors import FLAG, HalflabelError, check_arguments, number
from .image_processing_timm_multilabel import ENCODED, read_image

TASK = "multi-label-image-classification"
_BEFORE = {"fast_decode": FLAG, "timeout": number(0, above=True).or_none()}
_AFTER = {"top_k": number(1, whole=True).or_none(), "yes_only": FLAG}


class MultiLabelImageClassificationPipeline(Pipeline):
    """Answers every yes/no question of a halflabel model about an image.

    `pipeline("multi-label-image-classification", model)` makes one. Called with an image (path, URL, base64 text, PIL
    picture, uint8 array or tensor, encoded bytes, or a row of a data set with them), it returns a list with `label`,
    `score` (0..1) and `decision` (True is yes) for each label, the highest score first; called with a list, a generator
    or a data set of images, such a list for each.

    Score and decision are those of the model's stored decision rule, without one the plain sigmoid and a score of at
    least 0.5. Files are decoded and transformed as `halflabel predict` does.

    Args of the call:
        top_k: The largest number of labels to return; None: all.
        yes_only: Leave out the labels whose decision is no.
        fast_decode: Decode a JPEG no larger than the transform needs.
        timeout: Seconds to wait for a URL; None: as long as it takes.

    Raises:
        HalflabelError: If the model is not one of halflabel, an image cannot be read, or a logit is not finite.
    """

    _load_processor: Any = False
    _load_image_processor: Any = True
    _load_feature_extractor: Any = False
    _load_tokenizer: Any = False
    # Looked for, a video processor makes transformers ask whether to trust the code that lies beside the model.
    _load_video_processor: Any = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - transformers' own contract
        """Take the model's decision rule; the model is set to evaluation mode."""
        super().__init__(*args, **kwargs)
        config = self.model.config
        if config.model_type != TimmMultiLabelConfig.model_type:
            raise HalflabelError(f"the task {TASK} needs a model of halflabel, not a {config.model_type!r} model")
        self.model.eval()
        self._names, self._rule = config.label_space.names, config.decision_rule

    def _sanitize_parameters(self, **given: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:  # noqa: ANN401
        check_arguments(f"the task {TASK}", given, {**_BEFORE, **_AFTER})
        before, after = ({key: given[key] for key in keys if key in given} for keys in (_BEFORE, _AFTER))
        return before, {}, after

    def preprocess(self, input_: Any, **options: Any) -> Any:  # noqa: ANN401 - any kind of image
        """Turn one image into `pixel_values` of shape (1, channels, height, width)."""
        processor: Any = self.image_processor
        side = processor.needed_side() if options.get("fast_decode", True) else None
        if isinstance(input_, ENCODED):
            input_ = read_image(input_, side, options.get("timeout"))
        prepared = processor(input_)
        if len(prepared["pixel_values"]) > 1:  # only the first would be answered
            raise HalflabelError("an array of several pictures is given as one: give a list of pictures")
        return prepared

    def _forward(self, input_tensors: Mapping[str, Any], **_: Any) -> Any:  # noqa: ANN401
        return self.model(**input_tensors)

    def postprocess(self, model_outputs: Mapping[str, Any], **options: Any) -> list[dict[str, Any]]:  # noqa: ANN401
        """Score, decide and sort."""
        logits = model_outputs["logits"].double().numpy()
        check_logits(logits, self._names, ["the picture"])
        scores = self._rule.scores(logits)[0]
        decisions = self._rule.decide(scores)
        answers = [
            {"label": self._names[i], "score": float(scores[i]), "decision": bool(decisions[i])}
            for i in (-scores).argsort(kind="stable")
            if decisions[i] or not options.get("yes_only")
        ]
        return answers[: options.get("top_k")]
