"""Fine-tune any timm backbone to many yes/no labels at once when most of the labels are unknown.

Importing this package registers its classes with transformers' AutoConfig, AutoModelForImageClassification and
AutoImageProcessor, and its pipeline task `multi-label-image-classification`, and does nothing else. There is a function
for each command; they and what else is not needed to load a model are imported when they are asked for.
"""

from importlib import import_module
from importlib.metadata import version
from typing import Any

from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification
from transformers.pipelines import PIPELINE_REGISTRY

from .model.configuration_timm_multilabel import TimmMultiLabelConfig
from .model.decisions import DecisionRule
from .model.errors import HalflabelError
from .model.image_processing_timm_multilabel import TimmMultiLabelImageProcessor
from .model.labels import IGNORE_INDEX, UNCERTAIN, LabelSpace, count_labels
from .model.modeling_timm_multilabel import TimmMultiLabelForImageClassification
from .model.objective import masked_loss
from .model.pipeline import TASK, MultiLabelImageClassificationPipeline

__version__ = version("halflabel")
_PLACES = {
    "data.loading": ("load_images",),
    "data.splitting": ("hide_labels",),
    "decide.decision_fitting": ("fit_decisions",),
    "metrics.ranking": ("average_precision", "roc_auc"),
    "metrics.report": ("evaluate_scores",),
    "metrics.trainer": ("trainer_metrics",),
    "share.card": ("card",),
    "share.demo": ("demo",),
    "share.export": ("export",),
    "share.push": ("push",),
    "share.trained": ("Run", "calibrate", "load", "train"),
    "studies.advice": ("advise",),
    "studies.compare": ("compare",),
    "training.features": ("keep_freed_memory",),
    "training.trainer": ("MultiLabelTrainer",),
    "use.evaluate": ("evaluate",),
    "use.explain": ("explain",),
    "use.predict": ("predict",),
    "use.review": ("review",),
}
_MODULES = {name: module for module, names in _PLACES.items() for name in names}
__all__ = [  # noqa: PLE0604
    "IGNORE_INDEX",
    "UNCERTAIN",
    "DecisionRule",
    "HalflabelError",
    "LabelSpace",
    "MultiLabelImageClassificationPipeline",
    "TimmMultiLabelConfig",
    "TimmMultiLabelForImageClassification",
    "TimmMultiLabelImageProcessor",
    "count_labels",
    "masked_loss",
    *_MODULES,
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a function or a class
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])


AutoConfig.register("timm_multilabel", TimmMultiLabelConfig)
AutoModelForImageClassification.register(TimmMultiLabelConfig, TimmMultiLabelForImageClassification)
_BACKENDS = ("torchvision", "pil")  # timm's transforms use both; transformers asks for one by name
AutoImageProcessor.register(
    TimmMultiLabelConfig, image_processor_classes=dict.fromkeys(_BACKENDS, TimmMultiLabelImageProcessor)
)
PIPELINE_REGISTRY.register_pipeline(
    TASK, MultiLabelImageClassificationPipeline, pt_model=AutoModelForImageClassification, type="image"
)
