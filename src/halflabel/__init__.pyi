"""What type checkers and editors see of the package, whose functions are imported when they are asked for."""

from .data.loading import load_images as load_images
from .data.splitting import hide_labels as hide_labels
from .decide.decision_fitting import fit_decisions as fit_decisions
from .metrics.ranking import average_precision as average_precision
from .metrics.ranking import roc_auc as roc_auc
from .metrics.report import evaluate_scores as evaluate_scores
from .metrics.trainer import trainer_metrics as trainer_metrics
from .model.configuration_timm_multilabel import TimmMultiLabelConfig as TimmMultiLabelConfig
from .model.decisions import DecisionRule as DecisionRule
from .model.errors import HalflabelError as HalflabelError
from .model.image_processing_timm_multilabel import TimmMultiLabelImageProcessor as TimmMultiLabelImageProcessor
from .model.labels import IGNORE_INDEX as IGNORE_INDEX
from .model.labels import UNCERTAIN as UNCERTAIN
from .model.labels import LabelSpace as LabelSpace
from .model.labels import count_labels as count_labels
from .model.modeling_timm_multilabel import TimmMultiLabelForImageClassification as TimmMultiLabelForImageClassification
from .model.objective import masked_loss as masked_loss
from .model.pipeline import MultiLabelImageClassificationPipeline as MultiLabelImageClassificationPipeline
from .share.card import card as card
from .share.demo import demo as demo
from .share.export import export as export
from .share.push import push as push
from .share.trained import Run as Run
from .share.trained import calibrate as calibrate
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

__version__: str
