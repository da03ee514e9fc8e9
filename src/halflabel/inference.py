"""Logits of an annotated data set; scores and decisions for pictures that lie on disk."""

import glob
import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from tqdm.auto import tqdm
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification, Trainer, TrainingArguments

from .data import PixelDataset, collate
from .decoding import decode_image
from .errors import HalflabelError, did_you_mean, shortlist
from .given_labels import read_given
from .hub_errors import hub_reason
from .image_processing_timm_multilabel import TimmMultiLabelImageProcessor
from .labels import LabelSpace
from .metrics import Floats
from .modeling_timm_multilabel import TimmMultiLabelForImageClassification
from .relations import answer
from .sources import AnnotatedImages

OUTPUT_ENDINGS = (".csv", ".jsonl", ".parquet")
log = logging.getLogger(__name__)

ALL = "all"
"""What stands for the split where all images are measured."""
YES = "answered_yes"
"""The column of a score table with the labels whose decision is yes."""
GIVEN = "given"
"""The column with the labels whose answer was given, so that their scores are no predictions."""


def load_model(name: str) -> tuple[TimmMultiLabelForImageClassification, TimmMultiLabelImageProcessor]:
    """Load a halflabel model and its image processor from a folder or from the Hub.

    From safetensors only, and no code that lies beside them is run.

    Raises:
        HalflabelError: If there is no such model, it is not one of halflabel, or its weights are not whole, do not fit
            its configuration or are not finite.
    """
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        if config.model_type != TimmMultiLabelForImageClassification.config_class.model_type:
            raise HalflabelError(f"model {name!r} is a {config.model_type!r} model, not one of halflabel")
        model, found = AutoModelForImageClassification.from_pretrained(
            name, trust_remote_code=False, output_loading_info=True, ignore_mismatched_sizes=True
        )
        processor = AutoImageProcessor.from_pretrained(name, trust_remote_code=False)
    except HalflabelError:
        raise
    except Exception as error:  # of a damaged file transformers, safetensors and torch raise many kinds
        where = "" if Path(name).is_dir() else "there is no such folder, and from the Hub: "
        raise HalflabelError(f"model {name!r} cannot be loaded: {where}{hub_reason(error)}") from error
    _check_weights(name, model, [*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])])
    return model.eval(), processor


def _check_weights(name: str, model: torch.nn.Module, absent: Sequence[str]) -> None:
    """Refuse a model that transformers would complete with random weights, or whose scores could be NaN."""
    if absent:
        shown = shortlist(sorted(absent), 3)
        raise HalflabelError(f"model {name!r}: its weights do not fit its config.json, which asks for {shown}")
    broken = [key for key, tensor in model.state_dict().items() if not tensor.isfinite().all()]
    if broken:
        raise HalflabelError(f"model {name!r}: {shortlist(broken, 3)} hold numbers that are not finite")


def predict_logits(model: TimmMultiLabelForImageClassification, dataset: Any, batch_size: int = 32) -> Floats:  # noqa: ANN401
    """Return the logits of a data set, shape (n, num_labels), computed by the Trainer's own prediction loop."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_eval_batch_size=batch_size,
            report_to="none",
            remove_unused_columns=False,
            dataloader_pin_memory=torch.cuda.is_available(),
        )
        trainer = Trainer(model=model, args=arguments, data_collator=collate)
        return np.asarray(trainer.predict(dataset).predictions, dtype=np.float64)


def choose_split(
    name: str, model: TimmMultiLabelForImageClassification, images: AnnotatedImages, split: str | None
) -> tuple[AnnotatedImages, str]:
    """Return the images of a split with the model's labels, in its order, and which they are: the split, or `ALL`.

    All are taken for None, and, with a warning, where the data name no splits.

    Raises:
        HalflabelError: If there is none, or a label is missing.
    """
    names = model.config.label_space.names
    missing = [label for label in names if label not in images.label_space.names]
    if missing:
        nearest = did_you_mean(missing[0], images.label_space.names)
        raise HalflabelError(f"the data have no label {missing[0]!r}, which {name} answers{nearest}")
    chosen = images.with_only(names)
    if split and not (chosen.column("split") != "").any():
        log.warning(
            "the data name no splits: all %d images are taken, also any that the model was trained on", len(chosen)
        )
        split = None
    chosen = chosen.of_split(split) if split else chosen
    if not len(chosen):
        raise HalflabelError(f"the data have no image{f' in split {split!r}' if split else ''}")
    return chosen, split or ALL


def split_logits(
    model: TimmMultiLabelForImageClassification,
    processor: TimmMultiLabelImageProcessor,
    images: AnnotatedImages,
    batch_size: int,
    fast_decode: bool,
) -> Floats:
    """Return the logits of images as the model's processor prepares them; see `evaluation.evaluate_model`."""
    side = processor.needed_side() if fast_decode else None
    return predict_logits(model, PixelDataset(images, processor.eval_transform(), shortest_side=side), batch_size)


def find_images(paths: Sequence[str]) -> list[Path]:
    """List picture files: a folder's (by ending, with those of its subfolders), a glob's, or the files themselves.

    Raises:
        HalflabelError: If a path leads to nothing.
    """
    endings = Image.registered_extensions()
    found: list[Path] = []
    for path in paths:
        if Path(path).is_dir():
            here = sorted(file for file in Path(path).rglob("*") if file.suffix.lower() in endings and file.is_file())
        elif Path(path).is_file():
            here = [Path(path)]
        else:
            here = [Path(file) for file in sorted(glob.glob(path, recursive=True)) if Path(file).is_file()]
        if not here:
            raise HalflabelError(f"no pictures at {path!r}: give a folder, a glob or files")
        found += here
    return list(dict.fromkeys(found))


def predict_files(
    name: str,
    files: Sequence[Path],
    labels: Sequence[str] | None = None,
    batch_size: int = 32,
    fast_decode: bool = True,
    given: str | Path | None = None,
) -> tuple[pd.DataFrame, list[str]]:
    """Score picture files, and decide.

    Without stored decisions scores are the plain sigmoid, and yes is a score of at least 0.5.

    Args:
        name: A model's folder or Hub name.
        files: Pictures; one that cannot be read is skipped and reported.
        labels: The labels to score, in this order; None: all.
        batch_size: Pictures at once.
        fast_decode: Decode a JPEG no larger than the transform needs.
        given: A wide table of what is known of some of the pictures, see `given_labels.read_given`. It is evidence for
            their other labels by the model's relations; also that on labels that are not scored.

    Returns:
        A table in the order of the files: `file_name`, `answered_yes` (the list of those labels whose decision is yes)
        and a column of calibrated scores (0..1) per label; and one line for each file that was skipped. Where answers
        are given, `given` lists the labels they are on; these have the score 1 or 0, and the decision that was given.

    Raises:
        HalflabelError: If a label is not the model's, given twice, or called like another column; with `given` also as
            `read_given`, or if the model has no relations.
    """
    model, processor = load_model(name)
    config, space = model.config, model.config.label_space
    columns = [space.index(label) for label in LabelSpace(labels).names] if labels else list(range(len(space)))
    clash = {space.names[column] for column in columns} & {"file_name", YES, GIVEN}
    if clash:
        raise HalflabelError(f"label {min(clash)!r} is another column of score tables; score the others by --labels")
    known = None if given is None else read_given(given, files, space)
    if known is not None and config.label_relations is None:
        raise HalflabelError(f"model {name!r} has no relations between labels: train it with relations: true")
    names, logits, skipped = _file_logits(model, processor, files, batch_size, fast_decode)
    places = {str(file): place for place, file in enumerate(files)}
    kept = None if known is None else known[[places[file] for file in names]]
    scores, decisions = answer(config.decision_rule, logits, config.label_relations, kept)
    everything, chosen = np.array(space.names), np.array(space.names)[columns]
    frame = pd.DataFrame(scores[:, columns], columns=chosen)
    frame.insert(0, "file_name", names)
    frame.insert(1, YES, [chosen[row].tolist() for row in decisions[:, columns]])
    if kept is not None:
        frame.insert(2, GIVEN, [everything[row].tolist() for row in kept >= 0])
    return frame, skipped


def _file_logits(
    model: TimmMultiLabelForImageClassification,
    processor: TimmMultiLabelImageProcessor,
    files: Sequence[Path],
    batch_size: int,
    fast_decode: bool,
) -> tuple[list[str], Floats, list[str]]:
    """Return the files that can be read, their logits, and a line for each other file."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.nn.Module.to(model, device)
    torch.nn.Module.to(model, memory_format=torch.channels_last)
    skipped: list[str] = []
    names, logits = [], [np.empty((0, len(model.config.label_space)))]
    with torch.inference_mode(), tqdm(total=len(files), desc="predict", unit="image") as progress:
        for batch_names, pixels in _batches(files, processor, batch_size, fast_decode, skipped, progress):
            pixels = pixels.to(model.device, memory_format=torch.channels_last)
            logits.append(model(pixel_values=pixels).logits.double().cpu().numpy())
            names += batch_names
    return names, np.concatenate(logits), skipped


def _batches(
    files: Sequence[Path],
    processor: TimmMultiLabelImageProcessor,
    batch_size: int,
    fast_decode: bool,
    skipped: list[str],
    progress: Any,  # noqa: ANN401 - a progress bar
) -> Iterator[tuple[list[str], torch.Tensor]]:
    transform = processor.eval_transform()
    side = processor.needed_side() if fast_decode else None
    names: list[str] = []
    pixels: list[torch.Tensor] = []
    for file in files:
        try:
            pixels.append(transform(decode_image({"path": str(file)}, shortest_side=side)))
            names.append(str(file))
        except HalflabelError as error:
            skipped.append(str(error))
        progress.update()
        if len(pixels) == batch_size:
            yield names, torch.stack(pixels)
            names, pixels = [], []
    if pixels:
        yield names, torch.stack(pixels)


def write_scores(frame: pd.DataFrame, path: Path) -> None:
    r"""Write a table of scores as its ending says.

    Labels answered with yes, and given ones, are a list in jsonl and parquet; in csv they are joined by |, which
    `frame["answered_yes"].str.get_dummies()` of pandas takes apart; a | within a name is written \|. File names and
    labels are written as they are, also such as begin with = and would be formulas in a spreadsheet: programs read them
    back, so in a spreadsheet import the columns as text.

    Raises:
        HalflabelError: On another ending than csv, jsonl or parquet.
    """
    check_output(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        joined = {name: frame[name].map(_joined) for name in (YES, GIVEN) if name in frame}
        frame.assign(**joined).to_csv(path, index=False)
    elif path.suffix == ".jsonl":
        frame.to_json(path, orient="records", lines=True, double_precision=15)
    else:
        frame.to_parquet(path, index=False)


def _joined(names: Sequence[str]) -> str:
    return "|".join(name.replace("|", "\\|") for name in names)


def check_output(path: Path) -> None:
    """Refuse an output file whose ending is none of `OUTPUT_ENDINGS`, before any work is done."""
    if path.suffix not in OUTPUT_ENDINGS:
        raise HalflabelError(f"output {str(path)!r} ends in none of {', '.join(OUTPUT_ENDINGS)}")
