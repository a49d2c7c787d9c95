"""What a run shows on a terminal."""

import os
import sys

from mlx_gpt.training.display import TrainingDisplay, duration, printable

SHOW = """
from mlx_gpt.training.display import TrainingDisplay
with TrainingDisplay(None) as display:
    display({"event": "start", "updates": 0, "steps": 3})
    display({"event": "evaluate", "updates": 0, "loss": 1.5, "evaluation_seconds": 0.1})
"""


def shown_on_a_terminal(start, script):
    """Return what a script writes to a terminal."""
    ours, its = os.openpty()
    process = start([sys.executable, "-c", script], stdout=its, stderr=its, stdin=its)
    os.close(its)
    pieces = []
    try:
        while piece := os.read(ours, 4096):
            pieces.append(piece)
    except OSError:  # how Linux says that the other side is closed
        pass
    os.close(ours)
    assert process.wait() == 0, pieces
    return b"".join(pieces).decode()


def test_a_line_takes_the_place_of_the_bar_which_is_drawn_again_below(start):
    text = shown_on_a_terminal(start, SHOW)
    bar, line = text.split("step 0: loss 1.5000 (0.1 s)", 1)
    assert bar.endswith("\x1b[2K")  # the bar's line was erased
    assert line.startswith("\r\n")
    assert "0/3" in bar
    assert "0/3" in line


def test_a_sample_cannot_control_the_terminal(capsys):
    with TrainingDisplay(None) as display:
        display({"event": "sample", "updates": 1, "samples": [["Say", "\x1b]0;owned\x07 naïve"]]})
    assert capsys.readouterr().err == "  Say | \ufffd]0;owned\ufffd naïve\n"
    assert printable("a\tb\n東\x9b1m\r") == "a\tb\n東\ufffd1m\ufffd"


def test_durations_have_the_unit_that_suits_them():
    assert [duration(each) for each in (1, 89, 90, 7200)] == [
        "1.0 s",
        "89.0 s",
        "1.5 min",
        "2.00 h",
    ]
