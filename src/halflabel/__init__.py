"""Fine-tune any timm backbone to many yes/no labels at once when most of the labels are unknown.

Importing this package registers its classes with transformers' AutoConfig, AutoModelForImageClassification and
AutoImageProcessor, and its pipeline task `multi-label-image-classification`, and does nothing else. There is a function
for each command; they and what else is not needed to load a model are imported when they are asked for.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from .data.loading import load_images as load_images
    from .data.splitting import hide_labels as hide_labels
    from .decide.decision_fitting import fit_decisions as fit_decisions
    from .metrics.ranking import average_precision as average_precision
    from .metrics.ranking import roc_auc as roc_auc
    from .metrics.report import evaluate_scores as evaluate_scores
    from .metrics.trainer import trainer_metrics as trainer_metrics
    from .share.card import calibrate as calibrate
    from .share.card import card as card
    from .share.demo import demo as demo
    from .share.export import export as export
    from .share.push import push as push
    from .share.trained import Run as Run
    from .share.trained import load as load
    from .share.trained import train as train
    from .studies.advice import advise as advise
    from .studies.compare import compare as compare
    from .training.features import keep_freed_memory as keep_freed_memory
    from .training.trainer import MultiLabelTrainer as MultiLabelTrainer
    from .use.evaluate import evaluate as evaluate
    from .use.explain import explain as explain
    from .use.predict import predict as predict
    from .use.review import review as review

__version__ = version("halflabel")
_PLACES = {
    "data.loading": ("load_images",),
    "data.splitting": ("hide_labels",),
    "decide.decision_fitting": ("fit_decisions",),
    "metrics.ranking": ("average_precision", "roc_auc"),
    "metrics.report": ("evaluate_scores",),
    "metrics.trainer": ("trainer_metrics",),
    "share.card": ("calibrate", "card"),
    "share.demo": ("demo",),
    "share.export": ("export",),
    "share.push": ("push",),
    "share.trained": ("Run", "load", "train"),
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
