"""Figures show names as they are spelled, and none of them ends a run."""

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from mlx_kaggle.report import plots

NAMES = [
    "$10_$20",
    "a_b^c",
    "$\\frac{1}{2",
    "5$",
    "two\nlines",
    "",
    " \t ",
    "\x00\x1b[31m",
    "\U0001f600 日本",
    "<b>&amp;",
    "%s {x} \\n",
    "long " * 100,
]


def texts(svg: str) -> list[str]:
    root = ElementTree.fromstring(svg)
    return [element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}text")]


def test_class_names_are_drawn_as_they_are_spelled(recwarn):
    matrix = np.arange(len(NAMES) ** 2).reshape(len(NAMES), -1)
    found = texts(plots.confusion(matrix, NAMES))
    shown = ["$10_$20", "a_b^c", "$\\frac{1}{2", "5$", "two lines", "(blank)", "[31m",
             "\U0001f600 日本",
             "<b>&amp;", "%s {x} \\n", "long long long l… long long long"]  # fmt: skip
    for name in shown:
        assert found.count(name) == (4 if name == "(blank)" else 2), name
    assert not [str(each.message) for each in recwarn if "Glyph" in str(each.message)]


def test_names_of_models_and_metrics_are_drawn_too():
    scores = {"$x$ ^_": 0.5, "mlx-kaggle": 0.7}
    assert "$x$ ^_" in texts(plots.score_points(scores, {"$x$ ^_": [0.4, 0.6]}, "accuracy"))
    histories = {name: [{"epoch": 0, "train_loss": 1.0, "m_$1$": 0.5}] for name in ("$a$", "b_^c")}
    assert {"$a$", "b_^c", "validation m_$1$"} <= set(
        texts(plots.training_curves(histories, "m_$1$"))
    )


def test_powers_of_ten_on_a_log_axis_are_plain_numbers():
    truth = np.geomspace(1e3, 1e6, 40)
    found = texts(plots.residuals(truth, truth * 1.1, log=True))
    assert {"10k", "100k"} <= set(found)
    assert not [text for text in found if "mathdefault" in text or "$" in text]


def test_a_figure_that_fails_becomes_a_line_with_its_name_and_reason(caplog):
    line = "the figure 'calibration' could not be drawn (TypeError: '>' not supported between"
    found = plots.calibration({"a": (np.zeros(2), np.zeros(2), None)})
    assert found.startswith(
        '<p class="quiet">the figure &#x27;calibration&#x27; could not be drawn'
    )
    assert re.sub("<[^>]*>", "", found).count("\n") == 0
    assert caplog.messages[0].startswith(line)


@pytest.mark.parametrize("classes", [1, 2, 300])
def test_any_number_of_classes_is_drawn(classes):
    svg = plots.confusion(np.ones((classes, classes), int), [f"${n}$" for n in range(classes)])
    assert svg.startswith("<svg")
    assert texts(svg).count("$0$") == 2


def test_figures_take_the_colour_of_the_page():
    svg = plots.confusion(np.ones((2, 2), int), ["a", "b"])
    assert "currentColor" in svg
    assert "#24292f" not in svg


def test_names_beside_lines_do_not_overlap():
    history = [{"epoch": at, "train_loss": 1.0, "m": 0.5} for at in range(3)]
    svg = plots.training_curves({f"model {at}": history for at in range(5)}, "m")
    root = ElementTree.fromstring(svg)
    heights = [
        float(re.findall(r"[-0-9.]+", element.get("transform", ""))[-1])
        for element in root.iter("{http://www.w3.org/2000/svg}text")
        if (element.text or "").startswith("model")
    ]
    assert len(heights) == 10
    assert min(np.diff(sorted(heights[:5]))) > 8
