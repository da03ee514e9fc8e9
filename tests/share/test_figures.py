import sys
import warnings

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from halflabel import HalflabelError
from halflabel.share.figures import finish, letters, load_font, new_figure, plain, save


def test_a_long_name_keeps_its_beginning_and_its_end():
    name = "traffic sign, rectangular, blue, seen from behind, number 17" + " and more" * 3
    short = plain(name)
    assert letters(short) <= 26
    start, end = short.split("…")
    assert name.startswith(start)
    assert name.endswith(end)
    assert len(start) > len(end) > 3


def test_a_name_becomes_one_printable_line_and_is_else_left_alone():
    assert plain(" a\n b\t\x07c ") == "a b c"
    assert plain(r"$x_1$ \alpha {светофор}") == r"$x_1$ \alpha {светофор}"
    assert plain("") == ""


def test_asian_letters_count_twice():
    assert plain("交通信号" * 3) == "交通信号" * 3
    short = plain("交通信号" * 10)
    assert letters(short) == 2 * len(short) - 1 <= 26


def test_a_name_for_pillow_is_measured_in_pixels():
    font = load_font(12)
    short = plain("W" * 500, 100, font.getlength)
    assert 80 < font.getlength(short) <= 100


def test_dollars_start_no_formula(tmp_path):
    """matplotlib would refuse this name as a wrong formula when the picture is drawn."""
    figure = new_figure(3, 2, r"price in $ and \$")
    axes = figure.subplots()
    axes.set_title(r"$\nonsense{x$")
    axes.set_yticks([0, 1], [r"$_$", "b"])
    with Image.open(save(finish(figure), tmp_path / "new" / "a.png")) as picture:
        assert np.asarray(picture.convert("L")).min() < 100


def test_letters_without_a_font_are_drawn_without_a_flood_of_warnings(tmp_path):
    figure = new_figure(3, 2, "\U0001e900\U0001e901")  # Adlam
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save(finish(figure), tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 500


def test_without_matplotlib_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(HalflabelError, match=r"^pictures need matplotlib: pip install 'halflabel\[plots\]'$"):
        new_figure(1, 1, "")


def test_the_font_has_accents():
    def drawn(text, font):
        picture = Image.new("L", (40, 40))
        ImageDraw.Draw(picture).text((5, 5), text, fill=255, font=font)
        return np.asarray(picture)

    font = load_font(16)
    assert not np.array_equal(drawn("é", font), drawn("ñ", font))
    pillows_own = ImageFont.load_default(16)
    assert np.array_equal(drawn("é", pillows_own), drawn("ñ", pillows_own))  # why another one is looked for
