"""Fine-tune any timm backbone to many yes/no labels at once when most of the labels are unknown.

Importing this package registers its classes with transformers' AutoConfig, AutoModelForImageClassification and
AutoImageProcessor, and its pipeline task `multi-label-image-classification`, and does nothing else.
"""

from importlib.metadata import version

from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification
from transformers.pipelines import PIPELINE_REGISTRY

from .data.splitting import hide_labels
from .decide.decision_fitting import fit_decisions
from .metrics.ranking import average_precision, roc_auc
from .metrics.report import evaluate_scores
from .metrics.trainer import trainer_metrics
from .model.configuration_timm_multilabel import TimmMultiLabelConfig
from .model.decisions import DecisionRule
from .model.errors import HalflabelError
from .model.image_processing_timm_multilabel import TimmMultiLabelImageProcessor
from .model.labels import IGNORE_INDEX, UNCERTAIN, LabelSpace, count_labels
from .model.modeling_timm_multilabel import TimmMultiLabelForImageClassification
from .model.objective import masked_loss
from .model.pipeline import TASK, MultiLabelImageClassificationPipeline
from .training.features import keep_freed_memory
from .training.trainer import MultiLabelTrainer

__version__ = version("halflabel")
__all__ = [
    "IGNORE_INDEX",
    "DecisionRule",
    "HalflabelError",
    "UNCERTAIN",
    "LabelSpace",
    "MultiLabelImageClassificationPipeline",
    "MultiLabelTrainer",
    "TimmMultiLabelConfig",
    "TimmMultiLabelForImageClassification",
    "TimmMultiLabelImageProcessor",
    "average_precision",
    "count_labels",
    "evaluate_scores",
    "fit_decisions",
    "hide_labels",
    "keep_freed_memory",
    "masked_loss",
    "roc_auc",
    "trainer_metrics",
]

AutoConfig.register("timm_multilabel", TimmMultiLabelConfig)
AutoModelForImageClassification.register(TimmMultiLabelConfig, TimmMultiLabelForImageClassification)
_BACKENDS = ("torchvision", "pil")  # timm's transforms use both; transformers asks for one by name
AutoImageProcessor.register(
    TimmMultiLabelConfig, image_processor_classes=dict.fromkeys(_BACKENDS, TimmMultiLabelImageProcessor)
)
PIPELINE_REGISTRY.register_pipeline(
    TASK, MultiLabelImageClassificationPipeline, pt_model=AutoModelForImageClassification, type="image"
)
