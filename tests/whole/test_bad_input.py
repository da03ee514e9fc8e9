"""Bad input of every kind through the command line: one line that says what is wrong, and the exit code."""

import json
import shlex
import shutil
import sys
from types import SimpleNamespace

import bad_files
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import write_pictures
from PIL import Image

from halflabel.model.image_processing_timm_multilabel import decode_image
from halflabel_cli import main

NO_LABEL = "is not 1, 0 or unknown (empty, NaN, -1)"
PICTURES = [
    ("empty.jpg", "it is empty"),
    ("svg.png", "it is not a picture of a known format"),
    ("html.jpg", "it is not a picture of a known format"),
    ("postscript.png", "it is PostScript, a program, which is not run"),
    ("bomb.png", "2500000000 pixels"),
    ("claims_wide.png", "truncated"),
    ("no_pixels.png", "not a picture"),
    ("cut.jpg", "Truncated"),
    ("cut.png", "truncated"),
    ("zeros.jpg", "it has no end marker"),
    ("head.jpg", "not a picture"),
    ("checksum.png", "cannot be read"),
    ("text_bomb.png", "Decompressed data too large"),
    ("nan.tif", "values that are not finite"),
    ("loop.tif", "cannot be read"),
    ("no_frames.gif", "cannot be read"),
    ("folder.jpg", "no picture at"),
    ("loop.jpg", "no picture at"),
    ("dangling.jpg", "no picture at"),
    ("gone.jpg", "no picture at"),
]
TABLES = [
    ("formula.csv", f"row 2, column 'car': label value \"=cmd|' /C calc'!A0\" {NO_LABEL}"),
    ("formula_name.csv", "no image '=HYPERLINK(0).png'"),
    ("nul.csv", rf"label value '1\x00' {NO_LABEL}"),
    ("nul_name.csv", r"no image 'a\x00.png'"),
    ("nul_header.csv", r"row 1: the column name 'c\x00ar' holds a control character"),
    ("newline_header.csv", r"row 1: the column name 'c\nar' holds a control character"),
    ("long_cell.csv", "row 2: a cell of more than 131072 characters"),
    ("long_name.csv", "row 2: a cell of more than 131072 characters"),
    ("long_header.csv", "row 1: a cell of more than 131072 characters"),
    ("long_line.jsonl", NO_LABEL),
    ("utf16.csv", "row 1: the column names are not UTF-8"),
    ("latin1.csv", r"row 3, column 'file_name': b'\xfc.png' is not UTF-8"),
    ("latin1_header.csv", "row 1: the column names are not UTF-8"),
    ("mixed.csv", r"row 2, column 'Straße': b'gr\xf6\xdfer' is not UTF-8"),
    ("twice.csv", "column 'car' is given twice"),
    ("twice_blank.csv", "column 'car' is given twice"),
    ("repeated.csv", "row 4, column 'file_name': 'a.png' is already in row 2"),
    ("repeated_dot.csv", "'./a.png' is already in row 2"),
    ("ragged.csv", "row 4: 1 cells, expected 2; row 5: 3 cells, expected 2"),
    ("quote.csv", "row 2: a quote is opened and never closed"),
    ("separator.csv", "no column 'file_name'; its columns are file_name;car"),
    ("empty.csv", "the table is empty"),
    ("blank.csv", "the table has no rows"),
    ("mark.csv", "the table is empty"),
    ("header.csv", "the table has no rows"),
    ("no_labels.csv", "no label columns beside file_name, split"),
    ("no_file.csv", "no column 'file_name'"),
    ("two.csv", f"label value '2' {NO_LABEL}"),
    ("maybe.csv", f"label value 'maybe' {NO_LABEL}"),
    ("inf.csv", f"label value 'inf' {NO_LABEL}"),
    ("half.csv", f"label value '0.5' {NO_LABEL}"),
    ("split.csv", "split 'tset' is none of train, validation, test; did you mean test?"),
    ("climbs.csv", "'../secret.png' leaves the image folder"),
    ("absolute.csv", "'/etc/hostname' leaves the image folder"),
    ("windows.csv", r"'C:\\Windows\\a.png' leaves the image folder"),
    ("backslash.csv", r"'..\\secret.png' leaves the image folder"),
    ("gone.csv", "no image 'gone.png'"),
    ("folder.csv", "no image 'folder.jpg'"),
    ("loop.csv", "no image 'loop.jpg'"),
    ("long_path.csv", "no image 'd/d/"),
    ("twice.jsonl", "row 1: the key 'car' is given twice"),
    ("list.jsonl", "row 1: ['a.png', 1] is no object"),
    ("deep.jsonl", "row 1: nested too deeply"),
    ("digits.jsonl", "row 1: a number of too many digits"),
    ("surrogate.jsonl", r"row 1: a \u escape is half a pair"),
    ("infinity.jsonl", f"label value 'Infinity' {NO_LABEL}"),
    ("text.parquet", "cannot be read as parquet"),
    ("cut.parquet", "cannot be read as parquet"),
    ("cut.csv.gz", "cannot be read as csv.gz"),
    ("plain.csv.gz", "cannot be read as csv.gz"),
    ("twice.json", "image 2 (id 1): the id is already that of image 1"),
    ("list.json", "not of COCO or LVIS"),
    ("number.json", "image 1: it is 1, expected an object"),
    ("table.xlsx", "no known format"),
    ("directory.csv", "no known format"),
]
RECIPES = [
    ("tag.yaml", "cannot be read as YAML (could not determine a constructor for the tag"),
    ("tag_new.yaml", "cannot be read as YAML (could not determine a constructor for the tag"),
    ("bomb.yaml", "it has an alias (*a0); write out what it stands for"),
    ("bomb_value.yaml", "it has an alias (*a0); write out what it stands for"),
    ("itself.yaml", "it has an alias (*a)"),
    ("no_anchor.yaml", "it has an alias (*nothing)"),
    ("unknown.yaml", "unknown key 'lerning_rate'; did you mean learning_rate"),
    ("number_key.yaml", "unknown key 7"),
    ("list_key.yaml", "found unhashable key"),
    ("type.yaml", "num_train_epochs: invalid float value: 'many'"),
    ("type_list.yaml", "backbone is a list, expected one value"),
    ("type_map.yaml", "x.csv: no such file"),
    ("head_args.yaml", "head_args is [1], expected a mapping"),
    ("date.yaml", "data '2020-01-01' is neither a file, a folder nor"),
    ("list.yaml", "a recipe is a flat mapping of keys to values"),
    ("text.yaml", "a recipe is a flat mapping of keys to values"),
    ("empty.yaml", "a recipe is a flat mapping of keys to values"),
    ("twice.yaml", "the key 'backbone' is given twice"),
    ("two.yaml", "expected a single document"),
    ("tabs.yaml", "cannot be read as YAML"),
    ("nul.yaml", "special characters are not allowed"),
    ("utf16.yaml", "can't decode byte 0xff"),
    ("deep.yaml", "cannot be read as YAML (maximum recursion depth"),
]
MODELS = [
    ("pickle_only", "only pytorch_model.bin: a pickle can run any code when it is read, so none is"),
    ("cut_weights", "cannot be loaded: Error while deserializing header"),
    ("empty_weights", "cannot be loaded: Error while deserializing header"),
    ("text_weights", "cannot be loaded: Error while deserializing header"),
    ("huge_header", "cannot be loaded: Error while deserializing header"),
    ("no_head", "its weights do not fit its config.json, which asks for head."),
    ("wrong_shape", "its weights do not fit its config.json, which asks for head.linear.weight"),
    ("nan_weights", "hold numbers that are not finite"),
    ("no_config", "cannot be loaded: the folder holds no config.json: give the output folder of a finished run"),
    ("broken_config", "is not a valid JSON file"),
    ("list_config", "cannot be loaded: Unrecognized model"),
    ("newer", "the model was saved by halflabel 9.0.0"),
    ("no_version", "halflabel_version is 'new', expected a version like"),
    ("other_type", "is a 'bert' model, not one of halflabel"),
    ("no_type", "contains custom code which must be executed"),
    ("other_labels", "asks for head.linear.bias"),
    ("repeated_labels", "label names given more than once: a"),
    ("numbered_labels", "id2label is numbered 1, 2, expected 0, 1, 2"),
    ("word_numbers", "id2label is {'zero': 'a', 'one': 'b'}, expected numbers"),
    ("list_labels", "id2label is ['a', 'b'], expected numbers"),
    ("number_labels", "label name 1 is not a non-empty string"),
    ("newline_label", r"label name 'a\nb' holds a line break or another control character"),
    ("unknown_key", "unknown configuration key 'bakcbone'; did you mean backbone"),
    ("unknown_backbone", "timm knows no backbone 'test_resnt'; did you mean test_resnet"),
    ("number_backbone", "backbone is 7, expected a timm name"),
    ("hub_backbone", "timm knows no backbone 'hf-hub:somebody/model'"),
    ("backbone_file", "backbone_args: 'checkpoint_path' would fetch other weights"),
    ("backbone_url", "backbone_args: 'pretrained' would fetch other weights"),
    ("backbone_args", "unexpected keyword argument 'colour'"),
    ("backbone_list", "backbone_args is [1], expected a mapping"),
    ("huge_depth", "backbone_args: depth is 1000000, more than any network has"),
    ("huge_width", "that the checkpoint does not hold"),
    ("huge_network_input", "backbone_args: img_size is [100000, 100000], more than any network has"),
    ("huge_labels", "num_labels is 1000000000, expected a whole number of at least 1 and at most 100000"),
    ("huge_head", "head 'mlp': width is 1000000000, expected a whole number of at least 1 and at most 65536"),
    ("wide_head", "that the checkpoint does not hold"),
    ("foreign_kernel", "attn_implementation is 'somebody/kernel', expected eager or sdpa"),
    ("contradicting_labels", ", and label2id "),
    ("head", "unknown head '__import__'"),
    ("loss", "unknown loss 'os.system'"),
    ("decisions", "decisions: shift is missing"),
    ("relations", "relations between labels, which halflabel has no more since version 0.2: set relations to null"),
    ("no_processor", "Can't load image processor"),
    ("broken_processor", "is not a valid JSON file"),
    ("evil_processor", "Unrecognized image processor"),
    ("huge_input", "input_size is [3, 1000000, 1000000], expected"),
    ("no_input", "input_size is [3, 0, 'x'], expected"),
    ("evil_code", "contains custom code which must be executed"),
]
CARDS = [
    ("broken_card", "card.json: cannot be read as JSON"),
    ("no_counts", "is not as `halflabel train` wrote it"),
    ("broken_metrics", "is not as `halflabel train` wrote it"),
    ("list_metrics", "metrics.json is not a mapping"),
    ("tagged_recipe", "recipe.yaml: cannot be read as YAML"),
    ("broken_config", "is not a valid JSON file"),
]
CHECKPOINTS = [
    ("empty_folder", "empty_folder"),
    ("half_model", "model.safetensors"),
    ("no_model", "no_model"),
    ("no_state", "trainer_state.json"),
    ("half_state", "trainer_state.json"),
    ("half_optimizer", "optimizer.pt"),
    ("evil_optimizer", "optimizer.pt is damaged, or would run code"),
    ("evil_scheduler", "scheduler.pt is damaged, or would run code"),
    ("evil_random", "rng_state.pth is damaged, or would run code"),
    ("other_labels", "is of another network or of other labels: head.linear.weight differ"),
    ("other_network", "is of another network or of other labels: backbone.bn1.bias"),
]
TRAIN = "train {ok} --output_dir new"
COMMANDS = [
    (f"{TRAIN} --num_train_epochs -1", "num_train_epochs is -1.0, expected a number of at least 0"),
    (f"{TRAIN} --max_steps -7", "max_steps is -7, expected a number of at least -1"),
    (f"{TRAIN} --learning_rate nan", "learning_rate is nan, expected a number of at least 0"),
    (f"{TRAIN} --learning_rate inf", "learning_rate is inf, expected a number of at least 0"),
    (
        f"{TRAIN} --per_device_train_batch_size 0",
        "per_device_train_batch_size is 0, expected a whole number of at least 1",
    ),
    (
        f"{TRAIN} --gradient_accumulation_steps 0",
        "gradient_accumulation_steps is 0, expected a whole number of at least 1",
    ),
    (f"{TRAIN} --dataloader_num_workers -1", "dataloader_num_workers is -1, expected a number of at least 0"),
    (f"{TRAIN} --seed -1", "seed is -1, expected a number of at least 0"),
    (f"{TRAIN} --early_stopping_patience -1", "early_stopping_patience is -1, expected a number of at least 1"),
    (f"{TRAIN} --head_ridge -1", "head_ridge is -1.0, expected a number of at least 0"),
    (f"{TRAIN} --validation_share 1.5", "validation_share is 1.5, expected at least 0 and below 1"),
    (f"{TRAIN} --keep_labels nan", "'keep' is nan, expected a probability"),
    (f"{TRAIN} --hide_protocol by_group --hide_groups '{{{{\"a\": 3}}}}'", "'a' has 3, expected a list of labels"),
    (f'{TRAIN} --hide_protocol by_group --hide_groups \'{{{{"a": "red"}}}}\'', "'a' has 'red', expected a list"),
    (f"{TRAIN} --views 0", "views is 0, expected a number of at least 1"),
    (f"{TRAIN} --max_train_images -1", "max_train_images is -1, expected a number of at least 1"),
    (f"{TRAIN} --max_test_images -5", "max_test_images is -5, expected a number of at least 1"),
    (f"{TRAIN} --labels nope", "unknown label 'nope'"),
    (f"{TRAIN} --pos_weight '{{{{\"red\": -1}}}}'", "pos_weight holds -1.0, expected a number above 0"),
    (f"{TRAIN} --unknown 2", "unknown: '2' is none of ignore, negative, positive"),
    (f"{TRAIN} --head_args '{{{{\"width\": 1'", "is not a mapping in JSON"),
    (f'{TRAIN} --backbone_args \'{{{{"checkpoint_path": "x"}}}}\'', "'checkpoint_path' would fetch other weights"),
    (f"{TRAIN} --weights evil.pth", "evil.pth holds no weights that fit 'test_resnet'"),
    (f"{TRAIN} --weights folder", "weights 'folder': no such file"),
    (f"{TRAIN} --data cut.csv", "image cut.jpg cannot be read"),
    (f"{TRAIN} --data {{tables}}/two.csv", f"label value '2' {NO_LABEL}"),
    (f"{TRAIN} --feature_cache file", "features cannot be kept in file"),
    ("train {ok} --output_dir file", "File exists: 'file'"),
    ("train {ok} --output_dir /dev/null/out", "Not a directory: '/dev/null/out'"),
    (f"{TRAIN} --resume_from_checkpoint nowhere", "resume_from_checkpoint 'nowhere': no such folder"),
    (f"{TRAIN} --resume_from_checkpoint file", "resume_from_checkpoint 'file': no such folder"),
    ("predict {model} {picture} --output folder", "ends in none of .csv, .jsonl, .parquet"),
    ("predict {model} {picture} --output /dev/null/x.csv", "/dev/null is a file; a folder is needed there"),
    ("predict {model} {picture} --output x.csv --labels rad", "unknown label 'rad'; did you mean red?"),
    ("predict {model} {picture} --output x.csv --labels red red", "label names given more than once: red"),
    ("predict {model} [ --output x.csv", "no pictures at '['"),
    ("predict {model} a\0b --output x.csv", r"no pictures at 'a\x00b'"),
    ("predict {model} {pictures}/folder.jpg --output x.csv", "no pictures at"),
    ("predict a/b/c/d {picture} --output x.csv", "model 'a/b/c/d' cannot be loaded"),
    ("evaluate {model} --data {data} --split tset", "split 'tset' is none of"),
    ("evaluate {model} --data {tables}/two.csv", f"label value '2' {NO_LABEL}"),
    ("evaluate {model} --data {data} --image_folder nowhere", "image_folder 'nowhere': no such folder"),
    (
        "calibrate {model} --data {data} --split test --objective precision>=nan",
        "objective 'precision>=nan' is none of",
    ),
    ("review {model} --data {data} --output file", "file is a file; a folder is needed there"),
    ("data {data} --output x.txt", "end it in .parquet for a table"),
    ("data {data} --report folder", "folder is a folder; give the name of a file"),
    ('data \'{{"path": "x.csv"\'', "is not JSON"),
    ('data \'{{"path": "x.csv", "frobnicate": 1}}\'', "unknown key 'frobnicate' of a source"),
    ('data \'{{"path": "{data}", "label_map": {{"red": "a\\u0000b"}}}}\'', "holds a line break or another"),
    (
        'data \'{{"path": "{data}", "label_map": {{"red": "split"}}}}\' --output y.parquet',
        "label 'split' is a column of such tables; rename it by label_map",
    ),
    ("data ''", "data '' is neither a file, a folder nor"),
    ("compare {data} --recipes linear_prob", "did you mean linear_probe"),
    ("compare {data} --recipes '\"'", "No closing quotation"),
    ("export {model} --format timm --output file", "file is a file; a folder is needed there"),
    ("push nowhere me/x", "no folder 'nowhere'"),
]
ARGUMENTS = [
    ("--report_to wandb", "report_to: wandb is not installed"),
    ("--report_to tensorbord", "'tensorbord' is none of azure_ml, comet_ml"),
    ("--optim adamw_bnb_8bit", "optim adamw_bnb_8bit: You need to install `bitsandbytes`"),
    (
        "--optim galore_adamw --optim_target_modules all-linear",
        "optim galore_adamw: You need to install `galore_torch`",
    ),
    ("--optim sgd --optim_args momentum=x", "optim sgd with optim_args 'momentum=x'"),
    ("--early_stopping_patience 2 --eval_strategy no", "early_stopping_patience counts evaluations"),
    ("--early_stopping_patience 2 --validation_share 0", "early_stopping_patience needs a validation split"),
    ("--save_strategy best --validation_share 0", "save_strategy best needs a validation split"),
    ("--save_strategy best --eval_strategy no", "save_strategy best needs evaluations"),
    ("--lr_scheduler_type reduce_lr_on_plateau --validation_share 0", "reduce_lr_on_plateau needs a validation split"),
    ("--lr_scheduler_type sinus", "invalid choice: 'sinus'"),
    ("--lr_scheduler_type cosine_with_min_lr", "lr_scheduler_type cosine_with_min_lr: One of min_lr or min_lr_rate"),
    ("--lr_scheduler_kwargs '{{\"power\": 1}}'", "unexpected keyword argument 'power'"),
    ("--metric_for_best_model f1", "metric_for_best_model is 'f1', expected mAP, mAUROC, known_loss"),
    (
        "--eval_strategy steps --eval_steps 2 --save_strategy steps --save_steps 3",
        "save_steps 3 is no multiple of eval_steps 2",
    ),
    ("--save_strategy steps --load_best_model_at_end true", "requires the save and eval strategy to match"),
    ("--save_strategy steps --save_steps 0", "save_steps is 0.0, expected a number above 0"),
    ("--eval_strategy steps --eval_steps -1", "eval_steps is -1.0, expected a number above 0"),
    ("--eval_accumulation_steps 0", "eval_accumulation_steps is 0, expected a whole number of at least 1"),
    ("--eval_do_concat_batches false", "eval_do_concat_batches is False, and a run works with True alone"),
    ("--prediction_loss_only true", "prediction_loss_only is True, and a run works with False alone"),
    ("--include_for_metrics inputs", "include_for_metrics is ['inputs'], and a run works with [] alone"),
    ("--label_names red", "label_names is ['red'], and a run works with ['labels'] alone"),
    ("--label_smoothing_factor 0.1", "label_smoothing_factor is 0.1, and a run works with 0 alone"),
    ("--neftune_noise_alpha 5", "neftune_noise_alpha is 5.0, and a run works with None alone"),
    ("--deepspeed ds.json", "deepspeed"),
    ("--fsdp full_shard", "Using fsdp only works in distributed training"),
    ("--fp16 true", "fp16 needs a GPU, and this run is on the CPU"),
    ("--fp16_full_eval true --bf16_full_eval true", "but not both"),
    ("--tf32 true", "--tf32 requires Ampere"),
    ("--torch_compile_backend swift", "torch_compile_backend swift: 'SWIFT' is not a valid DynamoBackend"),
    ("--use_liger_kernel true", "liger-kernel >= 0.3.0 is not available"),
    ("--adam_beta1 2", "adam_beta1 is 2.0, expected a number of at least 0 and below 1"),
    ("--max_grad_norm nan", "max_grad_norm is nan, expected a number of at least 0"),
    ("--warmup_steps nan", "warmup_steps is nan, expected a number of at least 0"),
    ("--dataloader_prefetch_factor 2", "--dataloader_prefetch_factor can only be set when"),
    ("--dataloader_num_workers 1 --dataloader_prefetch_factor 0", "dataloader_prefetch_factor is 0, expected"),
    ("--dataloader_persistent_workers true", "dataloader_persistent_workers True: persistent_workers option needs"),
    ("--train_sampling_strategy group_by_length", "train_sampling_strategy group_by_length: "),
    ("--debug tpu_metrics_debug", "debug is ['tpu_metrics_debug']"),
    ("--accelerator_config nowhere.json", "accelerator_config nowhere.json: [Errno 2] No such file"),
]
CASES = [
    *((f"explain {{model}} {{pictures}}/{name}", message) for name, message in PICTURES),
    *((f"data {{tables}}/{name}", message) for name, message in TABLES),
    *((f"train {{recipes}}/{name}", message) for name, message in RECIPES),
    *((f"predict {{models}}/{name} {{picture}} --output x.csv", message) for name, message in MODELS),
    *((f"card {{models}}/{name}", message) for name, message in CARDS),
    *((f"{TRAIN} --resume_from_checkpoint {{checkpoints}}/{name}", message) for name, message in CHECKPOINTS),
    *((f"{TRAIN} {flags}", message) for flags, message in ARGUMENTS),
    *COMMANDS,
]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A trained model, its data and recipe, and everything that is bad."""
    root = tmp_path_factory.mktemp("bad")
    answers = write_pictures(root / "good", 24, 40)
    lines = [f"{i:03d}.png,{red},{blue},{'test' if i >= 16 else 'train'}" for i, (red, blue) in enumerate(answers)]
    data = root / "good" / "labels.csv"
    data.write_text("\n".join(["file_name,red,blue,split", *lines]) + "\n")
    recipe = {
        "backbone": "test_resnet", "weights": "none", "freeze_backbone": True, "cache_features": True, "use_cpu": True,
        "num_train_epochs": 1, "disable_tqdm": True, "report_to": "none", "data": str(data),
        "output_dir": str(root / "model"), "feature_cache": "none",
    }  # fmt: skip
    (root / "ok.yaml").write_text(yaml.safe_dump(recipe))
    assert main(["train", str(root / "ok.yaml"), "--save_total_limit", "1"]) == 0
    escape, model = root / "escaped", root / "model"
    (checkpoint,) = model.glob("checkpoint-*")
    for name in bad_files.MODELS:
        bad_files.write_model(model, root / "models" / name, name, escape)
    for name in bad_files.CHECKPOINTS:
        bad_files.write_checkpoint(checkpoint, root / "checkpoints" / name, name, escape)
    return SimpleNamespace(
        root=root, ok=root / "ok.yaml", data=data, picture=root / "good" / "000.png", model=model, escape=escape,
        models=root / "models", checkpoints=root / "checkpoints", pictures=bad_files.write_pictures(root / "pictures"),
        tables=bad_files.write_tables(root / "data" / "tables"), recipes=bad_files.write_recipes(root / "yaml", escape),
    )  # fmt: skip


@pytest.fixture
def here(places, tmp_path, monkeypatch):
    """Where commands run: a folder, a file, tables of answers, a weight file that makes a folder when unpickled."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    torch.save(bad_files.Escapes(places.escape), tmp_path / "evil.pth")
    shutil.copy(places.pictures / "cut.jpg", tmp_path)
    shutil.copy(places.picture, tmp_path)
    for name, text in {
        "cut": "file_name,red,split\n000.png,1,train\ncut.jpg,0,train\n", "empty": "",
        "other": "file_name,red\nnothing.png,1\n", "label": "file_name,rad\n000.png,1\n",
        "value": "file_name,red\n000.png,7\n", "twice": "file_name,red\n000.png,1\n./000.png,0\n",
    }.items():  # fmt: skip
        (tmp_path / f"{name}.csv").write_text(text)
    return tmp_path


@pytest.mark.parametrize(("command", "message"), CASES)
def test_bad_input_is_told_in_one_line_with_exit_code_2(places, here, capsys, command, message):
    arguments = [word.format(**vars(places)) for word in shlex.split(command)]
    before = {path: path.read_bytes() for path in places.model.iterdir() if path.is_file()}
    assert main(arguments) == 2
    error = capsys.readouterr().err
    lines = error.strip().splitlines()
    assert lines[-1].startswith("halflabel: error: ")
    assert sum(line.startswith("halflabel: error: ") for line in lines) == 1
    assert "Traceback" not in error
    assert message in lines[-1]
    assert len(lines[-1]) < 1500
    assert lines[-1].isprintable()
    assert not places.escape.exists()  # nothing of the input was run
    assert not any((here / "new").glob("checkpoint-*"))  # told before the first epoch
    assert {path: path.read_bytes() for path in places.model.iterdir() if path.is_file()} == before


def test_there_are_enough_of_them_and_each_is_one():
    assert len({command for command, _ in CASES}) == len(CASES) >= 60
    named = {name for table in (MODELS, CARDS) for name, _ in table}
    assert named | ACCEPTED_MODELS == set(bad_files.MODELS)
    assert {name for name, _ in TABLES} >= set(bad_files.tables())
    assert {name for name, _ in PICTURES} >= set(bad_files.bad_pictures())
    assert {name for name, _ in CHECKPOINTS} | {"evil_arguments"} == set(bad_files.CHECKPOINTS)


ACCEPTED_MODELS = {"evil_code_of_ours"}


@pytest.mark.parametrize("name", bad_files.odd_pictures())
def test_an_odd_picture_is_decoded_to_what_it_shows_and_scored(places, here, capsys, name):
    content, shown = bad_files.odd_pictures()[name]
    (here / name).write_bytes(content)
    decoded = np.asarray(decode_image({"path": str(here / name)}), dtype=float)
    expected = np.asarray(shown, dtype=float)
    assert np.abs(decoded - (expected if expected.ndim == 3 else expected[..., None])).max() <= 1
    if isinstance(shown, Image.Image):
        shown.save(here / "plain.png")
    else:
        Image.fromarray(expected.astype(np.uint8)).save(here / "plain.png")
    assert main(["predict", str(places.model), name, "plain.png", "--output", "scores.csv"]) == 0
    scores = pd.read_csv(here / "scores.csv")[["red", "blue"]].to_numpy()
    assert scores[0] == pytest.approx(scores[1], abs=0.01)


def test_predict_skips_what_is_bad_with_a_line_each_and_scores_the_rest(places, here, capsys):
    assert main(["predict", str(places.model), str(places.pictures), str(places.picture), "--output", "x.csv"]) == 3
    told = capsys.readouterr()
    skipped = [line for line in told.err.splitlines() if line.startswith("skipped: ")]
    assert len(skipped) == len(bad_files.bad_pictures())
    assert all(any(f"/{name} cannot be read: " in line for line in skipped) for name in bad_files.bad_pictures())
    assert "scored 1 of" in told.out
    assert pd.read_csv("x.csv")["file_name"].tolist() == [str(places.picture)]


def test_code_beside_a_model_is_not_run_where_the_model_type_is_ours(places, here):
    model = places.models / "evil_code_of_ours"
    for name, extra in (("a.csv", []), ("b.csv", [])):
        folder = model if name == "a.csv" else places.model
        assert main(["predict", str(folder), str(places.picture), "--output", name, *extra]) == 0
    assert (here / "a.csv").read_text() == (here / "b.csv").read_text()
    assert main(["evaluate", str(model), "--data", str(places.data)]) == 0
    assert main(["export", str(model), "--format", "timm", "--output", "exported"]) == 0
    assert not places.escape.exists()
    assert "evil" not in sys.modules


def test_a_checkpoints_training_arguments_are_never_unpickled(places, here):
    arguments = ["--output_dir", "new", "--num_train_epochs", "2"]
    checkpoint = str(places.checkpoints / "evil_arguments")
    assert main(["train", str(places.ok), *arguments, "--resume_from_checkpoint", checkpoint]) == 0
    assert not places.escape.exists()


@pytest.mark.parametrize(
    ("text", "row"),
    [
        ("\ufefffile_name,red\r\na.png,1\r\n", 1),
        ("file_name,red\n\n\n./a.png, yes \n", 1),
        ('file_name,red\n"a.png","0"\n', 0),
        ("file_name,red,=cmd|' /C calc'!A0\na.png,1,\n", 1),
        ("file_name,red\na.png,-1\n", -100),
        ("file_name,red\na.png,1e0\n", None),
    ],
)
def test_tables_that_are_only_odd_are_read_right(places, here, capsys, text, row):
    shutil.copy(places.picture, here / "a.png")
    (here / "t.csv").write_text(text, newline="")
    code = main(["data", "t.csv", "--report", "r.json"])
    if row is None:
        assert code == 2
        return
    assert code == 0
    counts = json.loads((here / "r.json").read_text())["labels"]["red"]
    assert (counts["positive"], counts["negative"]) == (int(row == 1), int(row == 0))


def test_a_link_to_something_that_is_no_picture_is_not_copied_out(places, here, capsys):
    (here / "secret.txt").write_text("the key")
    (here / "set").mkdir()
    (here / "set" / "a.png").symlink_to("../secret.txt")
    (here / "set" / "t.csv").write_text("file_name,red\na.png,1\n")
    assert main(["data", "set/t.csv", "--labels_only", "--output", "shards/"]) == 2
    assert "image a.png cannot be read: it is not a picture of a known format" in capsys.readouterr().err
    assert not any(b"the key" in path.read_bytes() for path in (here / "shards").rglob("*") if path.is_file())


def test_review_draws_a_line_of_pixels(places, here):
    for name in ("a", "b"):
        Image.new("RGB", (50_000, 1)).save(here / f"{name}.png")
    (here / "t.csv").write_text("file_name,red,blue\na.png,1,0\nb.png,0,\n")
    assert main(["review", str(places.model), "--data", "t.csv", "--output", "found"]) == 0
    with Image.open(here / "found" / "errors.png") as sheet:
        assert sheet.width > 300
