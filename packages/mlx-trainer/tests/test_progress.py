import io
import re

import pytest

from mlx_trainer import Display, Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def without_speed(text):
    return re.sub(r"  [\d.e+]+/s(  \d+ s left)?", "", text)


def test_plain_output_is_a_line_for_each_tenth_of_the_work():
    stream = io.StringIO()
    with Progress(200, "train", stream) as progress:
        for number in range(200):
            progress.advance(loss=1 / (number + 1))
    lines = without_speed(stream.getvalue()).splitlines()
    assert len(lines) == 10
    assert lines[0] == "train 20/200  loss 0.05"
    assert lines[-1] == "train 200/200  loss 0.005"


def test_large_values_are_shown_whole():
    stream = io.StringIO()
    with Progress(1, "train", stream) as progress:
        progress.advance(tokens=13690.4, loss=12.3456)
    assert without_speed(stream.getvalue()) == "train 1/1  tokens 13,690  loss 12.35\n"


def test_plain_output_ends_with_how_far_an_interrupted_run_came():
    stream = io.StringIO()
    progress = Progress(100, "train", stream, completed=50)
    with pytest.raises(KeyboardInterrupt), progress:
        interrupt_after(3, progress)
    assert without_speed(stream.getvalue()) == "train 53/100\n"


def interrupt_after(units, progress):
    progress.advance(units)
    raise KeyboardInterrupt


def test_nothing_goes_to_stdout(capsys):
    with Progress(2, "train") as progress:
        progress.advance(2)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert without_speed(captured.err) == "train 2/2\n"


def test_a_terminal_gets_a_bar_with_the_newest_values():
    pytest.importorskip("rich", reason="the extra `progress` is not installed")
    stream = Terminal()
    with Progress(4, "train", stream) as progress:
        progress.advance(4, loss=0.25)
    assert "train" in stream.getvalue()
    assert "4/4" in stream.getvalue()
    assert "loss 0.25" in stream.getvalue()


def test_no_work_is_refused(exactly):
    with pytest.raises(ValueError, match=exactly("Progress: total must be at least 1, got 0")):
        Progress(0)


def test_a_display_replaces_its_bar_and_prints_lines_on_standard_error(capsys):
    with Display() as display:
        display.advance(loss=1.0)  # nothing to move yet
        assert display.completed == 0
        display.start(4, "train", completed=1)
        display.advance(2, loss=0.5)
        assert display.completed == 3
        display.say("step 3: loss 0.5")
        display.start(100, "evaluate")
        display.advance()  # too little for a line before the bar ends
        display.start(1, "predict")
        assert display.completed == 0
        display.advance()
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert "step 3: loss 0.5" in lines
    assert any(line.startswith("train 3/4") for line in lines)
    assert any(line.startswith("evaluate 1/100") for line in lines)
    assert any(line.startswith("predict 1/1") for line in lines)
