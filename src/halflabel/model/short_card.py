"""The card of a model that is pushed without a run's folder: what its configuration tells."""

import json
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from .configuration_timm_multilabel import TimmMultiLabelConfig

TAGS = ["halflabel", "timm", "multi-label"]
_STOCK = "This model card has been automatically generated."
_TEXT = """
# {name}

A multi-label image classifier: each of its {count} yes/no questions is answered by its own sigmoid, on the timm
backbone `{backbone}`. Yes is a score of at least

````json
{thresholds}
````

## Use

```python
from transformers import pipeline

classify = pipeline("image-classification", {repository}, trust_remote_code=True, top_k=None)
print(classify("photo.jpg"))
```

`trust_remote_code` is not needed after `import halflabel`. How the model was trained and measured is not told here;
`halflabel train` writes a card that does.
"""


def short_card(config: TimmMultiLabelConfig, repository: str) -> ModelCard:
    """Return the card of a model.

    Args:
        config: The model's.
        repository: Where it is pushed to, for the example.
    """
    metadata = ModelCardData(library_name="transformers", pipeline_tag="image-classification", tags=TAGS)
    thresholds = dict(zip(config.label_space.names, config.decision_rule.thresholds, strict=True))
    text = _TEXT.format(
        name=repository.rsplit("/", 1)[-1],
        count=len(thresholds),
        backbone=config.backbone,
        thresholds=json.dumps(thresholds, indent=1, ensure_ascii=False),
        repository=json.dumps(repository),
    )
    return ModelCard(f"---\n{metadata.to_yaml()}\n---\n{text}")


def replace_stock_card(folder: Path, repository: str, config: TimmMultiLabelConfig) -> None:
    """Write ours in the place of the card that transformers puts into a folder it pushes; another one stays."""
    path = folder / "README.md"
    if path.is_file() and _STOCK in path.read_text(encoding="utf-8"):
        path.write_text(str(short_card(config, repository)), encoding="utf-8")
