"""Imports go down the house, never up: a module imports only from levels below its own."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"
LEVELS = [
    {"errors", "allocator", "processes"},
    {"stored_values"},
    {
        "strict_yaml",
        "checkpoint_checks",
        "labels",
        "feature_shards",
        "decisions",
        "source_data",
        "command_line",
        "draws",
        "hub_errors",
        "resuming",
    },
    {
        "feature_cache",
        "hiding",
        "policies",
        "known_losses",
        "feature_head",
        "feature_maps",
        "known_scores",
        "relations",
        "pseudo_options",
        "soft_logistic",
        "propagation",
        "evidence",
        "grouped_folds",
    },
    {
        "unknown_losses",
        "fused_losses",
        "pooled_heads",
        "position_heads",
        "ranking_metrics",
        "ranking_influence",
        "contingency",
        "transferability",
        "affinity",
        "label_groups",
        "calibration_metrics",
        "threshold_metrics",
        "bootstrap",
        "calibration",
    },
    {"loss_arguments", "heads", "metric_report", "thresholds", "feature_probe", "joint_adapter"},
    {"losses", "mixing", "pseudo_labels", "paired_comparison", "streaming_metrics", "decision_fitting"},
    {"decoding", "metrics", "relation_fitting"},
    {
        "weights",
        "configuration_timm_multilabel",
        "image_processing_timm_multilabel",
        "decision_report",
        "evaluate_modules",
        "card_record",
    },
    {"short_card"},
    {"modeling_timm_multilabel", "card_metadata"},
    {"epoch_lines", "folding", "trainer", "transfer", "lora", "pipeline", "figures", "export_timm", "export_onnx"},
    {"network_threads", "unfreezing", "averaging", "metric_plots", "explain", "advice_plots", "advice_summary"},
    {"sources", "summary_plots", "disagreements"},
    {"teacher", "data", "given_labels", "splitting", "streaming", "contact_sheet", "advice_data"},
    {"data_report", "data_plots", "data_writing", "plots", "network_comparison", "advice_report"},
    {"feature_keys", "learning_curve"},
    {"feature_views"},
    {"extraction"},
    {"features"},
    {"settings", "inference", "backbone_features"},
    {
        "arguments",
        "objective",
        "evaluation",
        "model_calibration",
        "metric_table",
        "export",
        "demo",
        "demo_space",
        "prediction",
    },
    {"preparation", "card_text", "compare_settings", "score_files"},
    {"building", "model_card", "compare_choice"},
    {"self_training", "card_files"},
    {"probing", "cross_fitting"},
    {"relation_training", "sharing", "compare_runs"},
    {"training", "fine_tuning_advice", "compare"},
    {"transfer_advice", "multitask_training", "compare_report"},
    {"multitask_advice"},
    {"advice"},
    {"sharing_commands", "study_commands"},
    {"cli"},
]
LEVEL = {name: i for i, names in enumerate(LEVELS) for name in names}
TRAVELLING = {"errors", "labels", "decisions", "known_losses", "unknown_losses", "fused_losses", "loss_arguments",
              "losses", "heads",
              "feature_head", "feature_maps", "pooled_heads", "position_heads",
              "decoding", "weights", "configuration_timm_multilabel", "image_processing_timm_multilabel",
              "short_card", "stored_values", "modeling_timm_multilabel", "pipeline", "relations"}  # fmt: skip
MODULES = sorted(path for path in (SOURCE / "halflabel").rglob("*.py") if path.name != "__init__.py")


def imported(path):
    """Names of the package's own modules that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            parts = (node.module or "").split(".")
            if node.level or parts[0] == "halflabel":
                inside = parts if node.level else parts[1:]
                depth = len(path.relative_to(SOURCE / "halflabel").parts)
                if node.level == 1 and depth == 2:  # a sibling in the same folder
                    inside = [path.parent.name]
                names |= {inside[0]} if inside and inside[0] else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("halflabel.")}
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_imports_go_down(path):
    module = path.relative_to(SOURCE / "halflabel").parts[0].removesuffix(".py")
    for name in imported(path) - {module}:
        assert LEVEL[name] < LEVEL[module], f"{module} (level {LEVEL[module]}) imports {name} (level {LEVEL[name]})"


def test_the_files_that_travel_to_the_hub_reach_only_one_another():
    for name in TRAVELLING:
        assert imported(SOURCE / "halflabel" / f"{name}.py") <= TRAVELLING


def test_files_and_functions_stay_short():
    for path in [*MODULES, SOURCE / "halflabel_cli.py"]:
        text = path.read_text()
        assert len(text.splitlines()) <= 300, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 60, f"{path}: {node.name}"
