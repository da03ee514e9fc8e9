import yaml
from huggingface_hub import ModelCard

from halflabel import count_labels
from halflabel.metrics import evaluate_scores
from halflabel.model_card import number, render_card

LABELS = [[1, -100], [0, -100], [1, 1]]
RECIPE = {"backbone": "test_resnet", "unknown": "ignore", "output_dir": "outputs/x", "seed": 0}


def card(names=("car", "dog"), **more):
    metrics = {"split": "test", **evaluate_scores([[0.9, 0.5], [0.1, 0.5], [0.8, 0.5]], LABELS, list(names)), **more}
    return render_card("probe", RECIPE, metrics, count_labels(LABELS), names)


def test_the_card_tells_what_was_known_and_found():
    text = card(unknown_as_negative={"mAP": 0.25})
    assert "| car | 3 | 2 | 1.000 | 1.000 |" in text
    assert "| dog | 1 | 1 | undefined | undefined |" in text
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
    text = render_card("probe", RECIPE, {"split": None}, count_labels(LABELS), ["car", "dog"])
    assert "no test split" in text
    assert "| car | 3 | 2 | not measured | not measured |" in text
    assert number(None) == "undefined"
