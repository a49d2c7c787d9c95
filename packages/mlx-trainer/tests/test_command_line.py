import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Literal

import click
import pytest
from click.testing import CliRunner

from mlx_trainer import setting
from mlx_trainer.command_line import SettingsCommand, settings_options


def parse_numbers(text):
    if not text.isdigit():
        raise ValueError(f"{text!r} is not like 12")
    return [int(text)]


@dataclass(frozen=True)
class Data:
    train: str = setting(help="Shards of text.", flag="--data")
    numbers: list[int] | None = setting(None, "Of shards.", flag="--numbers", parse=parse_numbers)
    kinds: dict[str, str] = setting({}, "Kind.", flag="--kind", metavar="COLUMN=KIND")
    valid: list[str] = setting([], "Held text.", flag="--valid")
    cache: str | None = setting(None, "Not a flag.")
    tokenizer: str | None = setting(None, "Its folder.", flag="--tokenizer", path="folder")
    chats: list[str] = setting([], "Conversations.", flag="--chat", path="file")


@dataclass(frozen=True)
class Training:
    steps: int | None = setting(
        None, "Updates.", flag="--steps", at_least=1, default_text="by depth"
    )
    learning_rate: float = setting(0.02, "Of matrices.", flag="--rate", above=0)
    dtype: Literal["auto", "float32"] = setting("auto", "Type.", flag="--dtype")
    dropout: float = setting(0.1, "Share.", flag="--dropout", at_least=0, below=1)
    words: bool = setting(True, "Words too.", flag="--words")
    recompute: bool = setting(False, "Less memory.", flag="--recompute")
    keep: bool = setting(True, "Momentum.", flag="--keep/--fresh", default_text="kept")


@dataclass(frozen=True)
class Config:
    data: Data
    training: Training = field(default_factory=Training)
    seed: int = setting(0, "Of weights.", flag="--seed", at_least=0)


@click.command(cls=SettingsCommand)
@click.option("--output", help="Folder.")
@settings_options(Config)
def train(flags, output):
    """Train."""
    click.echo(repr((output, flags)))


def call(*arguments):
    return CliRunner().invoke(train, arguments)


def given(*arguments):
    result = call(*arguments)
    assert result.exit_code == 0, result.output
    return eval(result.output)


def test_only_what_is_given_comes_with_its_dotted_key():
    assert given() == (None, {})
    assert given("--output", "run", "--data", "x", "--steps", "3") == (
        "run",
        {"data.train": "x", "training.steps": 3},
    )


def test_each_kind_of_field_is_read_as_its_type(tmp_path):
    arguments = ["--numbers", "12", "--kind", "a=b=text", "--kind", "c=date", "--valid", "p",
                 "--valid", "q", "--rate", "1e-3", "--dtype", "float32", "--words", "off",
                 "--recompute", "--fresh", "--seed", "0", "--tokenizer", str(tmp_path)]  # fmt: skip
    assert given(*arguments)[1] == {
        "data.numbers": [12],
        "data.kinds": {"a=b": "text", "c": "date"},
        "data.valid": ("p", "q"),
        "data.tokenizer": str(tmp_path),
        "training.learning_rate": 1e-3,
        "training.dtype": "float32",
        "training.words": False,
        "training.recompute": True,
        "training.keep": False,
        "seed": 0,
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "0"], "Invalid value for '--steps': 0 is not in the range x>=1."),
        (["--rate", "0"], "Invalid value for '--rate': 0.0 is not in the range x>0"),
        (["--dropout", "1"], "Invalid value for '--dropout': 1.0 is not in the range 0<=x<1."),
        (["--rate", "nan"], "Invalid value for '--rate': nan is not a finite number."),
        (["--dtype", "int8"], "'int8' is not one of 'auto', 'float32'."),
        (["--words", "maybe"], "'maybe' is not one of 'on', 'off'."),
        (["--numbers", "a"], "Invalid value for '--numbers': 'a' is not like 12"),
        (["--kind", "text"], "Invalid value for '--kind': 'text' is not COLUMN=KIND"),
        (["--tokenizer", "nowhere"], "Directory 'nowhere' does not exist."),
        (["--cache", "x"], "No such option"),
        (["--chat", "nothing.jsonl"], "File 'nothing.jsonl' does not exist."),
    ],
)
def test_a_wrong_value_is_wrong_usage(arguments, message):
    result = call(*arguments)
    assert result.exit_code == 2
    assert message in result.output


def test_a_range_may_allow_zero_beside_it():
    @dataclass(frozen=True)
    class Folds:
        folds: int = setting(5, "Of rows.", flag="--folds", at_least=2, or_zero=True)

    @click.command()
    @settings_options(Folds)
    def split(flags):
        click.echo(repr(flags))

    assert CliRunner().invoke(split, ["--folds", "0"]).output == "{'folds': 0}\n"
    assert CliRunner().invoke(split, ["--folds", "3"]).output == "{'folds': 3}\n"
    wrong = CliRunner().invoke(split, ["--folds", "1"])
    assert wrong.exit_code == 2
    assert "1 is not in the range x>=2" in wrong.output


def test_help_has_a_group_for_each_section_and_the_defaults():
    text = call("--help").output
    headings = [line for line in text.splitlines() if line.endswith(":") and line[0] != " "]
    assert headings == ["Options:", "Data:", "Training:"]
    lines = {words[0]: line for line in text.splitlines() if (words := line.split())}
    assert lines["--steps"].endswith("Updates.  [default: by depth; x>=1]")
    assert lines["--rate"].endswith("Of matrices.  [default: 0.02; x>0]")
    assert lines["--words"].endswith("Words too.  [default: on]")
    assert lines["--keep"].endswith("Momentum.  [default: kept]")
    assert lines["--recompute"].endswith("Less memory.")
    assert lines["--data"].endswith("Shards of text.")
    assert lines["--seed"].endswith("Of weights.  [default: 0; x>=0]")


def test_arguments_are_not_listed_among_the_options():
    @click.command(cls=SettingsCommand)
    @click.argument("files", nargs=-1)
    @settings_options(Config)
    def read(flags, files):
        """Read."""

    text = CliRunner().invoke(read, ["--help"]).output
    assert text.startswith("Usage: read [OPTIONS] [FILES]...")
    assert text.count("[FILES]...") == 1


PROGRAM = """
import os, signal, sys
import click
from mlx_trainer import ConfigError
from mlx_trainer.command_line import run

class Odd(Exception): pass
ERRORS = {"value": ValueError("two\\n words"), "key": KeyError("k"), "sentence": KeyError("no k"),
          "config": ConfigError("epochs: wrong"), "odd": Odd("own"), "defect": RuntimeError("bug"),
          "file": FileNotFoundError(2, "No such file", "x.csv"),
          "disk": RuntimeError("[write] Unable to write 1 bytes"),
          "backend": ImportError("libmlx.so: cannot open")}

@click.group()
def cli(): pass

@cli.command()
@click.argument("what")
def fail(what):
    if what.isdigit(): os.kill(os.getpid(), int(what))
    if what in ERRORS: raise ERRORS[what]

run(cli, sys.argv[1:], {"fail": "--resume continues"},
    lambda error: "an odd thing" if isinstance(error, Odd) else None)
"""


def outcome(*arguments):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True
    )
    return done.returncode, done.stderr.strip()


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("nothing", (0, "")),
        ("value", (1, "Error: two words")),
        ("config", (2, "Error: epochs: wrong")),
        ("sentence", (1, "Error: no k")),
        ("key", (1, "Error: KeyError: 'k' (this looks like a defect; --debug shows where)")),
        ("defect", (1, "Error: RuntimeError: bug (this looks like a defect; --debug shows where)")),
        ("odd", (1, "Error: an odd thing")),
        ("file", (1, "Error: x.csv: No such file")),
        ("disk", (1, "Error: a file could not be written: is the disk full? "
                     "([write] Unable to write 1 bytes)")),
        (str(int(signal.SIGTERM)), (143, "Interrupted; --resume continues. (SIGTERM)")),
        (str(int(signal.SIGINT)), (130, "Interrupted; --resume continues. (SIGINT)")),
    ],
)  # fmt: skip
def test_an_error_is_one_line_and_an_exit_code(what, expected):
    assert outcome("fail", what) == expected


def test_wrong_usage_ends_with_2_and_a_missing_backend_says_what_to_install():
    assert outcome("fial")[0] == 2
    code, text = outcome("fail", "backend")
    assert code == 1
    assert "pip install 'mlx[cpu]'" in text


def test_debug_shows_the_traceback():
    code, text = outcome("fail", "value", "--debug")
    assert code == 1
    assert text.startswith("Traceback")


def test_a_closed_standard_error_changes_no_exit_code():
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-c", PROGRAM, "fail", "value"], stderr=write)
    os.close(write)
    assert done.returncode == 1
