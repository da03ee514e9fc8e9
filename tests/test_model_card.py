import yaml
from huggingface_hub import ModelCard

from halflabel import count_labels
from halflabel.decisions import NEVER, DecisionRule
from halflabel.metrics import evaluate_scores
from halflabel.model_card import number, render_card

LABELS = [[1, -100], [0, -100], [1, 1]]
RECIPE = {"backbone": "test_resnet", "unknown": "ignore", "output_dir": "outputs/x", "seed": 0}


def card(names=("car", "dog"), rule=None, **more):
    metrics = {"split": "test", **evaluate_scores([[0.9, 0.5], [0.1, 0.5], [0.8, 0.5]], LABELS, list(names)), **more}
    return render_card("probe", RECIPE, metrics, count_labels(LABELS), names, rule or DecisionRule.plain(2))


def test_the_card_tells_what_was_known_and_found():
    text = card(unknown_as_negative={"mAP": 0.25})
    assert "| car | 3 | 2 | 1.000 | 1.000 | 0.5 | 1.000 | 1.000 |" in text
    assert "| dog | 1 | 1 | undefined | undefined | 0.5 | 1.000 | 1.000 |" in text
    assert "No thresholds were fitted" in text
    assert "Undefined, for want of a known yes or a known no: dog." in text
    assert 'unknown taken as "no": mAP 0.250' in text
    assert "67 % were known" in text


def test_its_metadata_load_and_its_recipe_is_yaml():
    loaded = ModelCard(card())
    assert loaded.data.library_name == "transformers"
    assert loaded.data.pipeline_tag == "image-classification"
    recipe = card().split("```yaml\n")[1].split("```")[0]
    assert yaml.safe_load(recipe) == RECIPE


def test_names_cannot_break_the_table_or_start_html():
    text = card(names=("a|b", "<script>x</script>"))
    assert "| a\\|b | 3" in text
    assert "<script>" not in text


def test_no_test_split_shows_no_number():
    text = render_card("probe", RECIPE, {"split": None}, count_labels(LABELS), ["car", "dog"], DecisionRule.plain(2))
    assert "no test split" in text
    assert "| car | 3 | 2 | not measured | not measured | 0.5 | not measured | not measured |" in text
    assert number(None) == "undefined"


def test_the_card_tells_how_it_decides_and_which_labels_share_a_threshold():
    stored = DecisionRule.plain(2).to_dict()
    stored |= {"thresholds": [0.25, NEVER], "objective": "precision>=0.9", "calibration": "platt", "min_known": 10}
    stored |= {"pooled_threshold": [True, False], "unmet": [False, True]}
    text = card(rule=DecisionRule.from_dict(stored, 2))
    assert "| car | 3 | 2 | 1.000 | 1.000 | 0.25 |" in text
    assert "| dog | 1 | 1 | undefined | undefined | never |" in text
    assert "calibrated (platt)" in text
    assert "Labels sharing a threshold, having too few known entries: car." in text
    assert "as no threshold promises precision&gt;=0.9: dog." in text


def test_intervals_stand_beside_average_precision_and_are_explained():
    interval = {"AP_interval": [0.5, 1.0]}
    metrics = evaluate_scores([[0.9, 0.5], [0.1, 0.5], [0.8, 0.5]], LABELS, ["car", "dog"])
    labels = {"car": {**metrics["labels"]["car"], **interval}, "dog": metrics["labels"]["dog"]}
    text = card(labels=labels, bootstrap={"ci": 0.95, "samples": 1000})
    assert "| 1.000 (0.500 to 1.000) |" in text
    assert "95 % intervals of 1000 bootstrap resamples" in text
