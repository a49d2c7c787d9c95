import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_trainer import (
    ConfigError,
    config_problems,
    config_sources,
    dump_config,
    load_config,
    setting,
)


@dataclass(frozen=True)
class Text:
    style: Literal["sentence", "list", "json"] = "list"
    max_length: int | None = 128
    columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class Training:
    epochs: int = 3
    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    compile: bool = True
    max_norm: float = setting(1.0, infinite=True)
    limit: float | None = None
    notes: str | None = None

    def __post_init__(self):
        if self.epochs < 1:
            raise ValueError(f"epochs must be at least 1, got {self.epochs}")


@dataclass(frozen=True)
class Config:
    name: str
    data: Path = Path("train.csv")
    text: Text = field(default_factory=Text)
    training: Training = field(default_factory=Training)
    weights: dict[str, float] = field(default_factory=dict)
    folds: list[int] = field(default_factory=list)


def write(folder, text):
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_later_sources_win_key_by_key(tmp_path):
    path = write(tmp_path, "name: file\ntraining:\n  epochs: 5\n  notes: hi\n")
    base = {"name": "base", "training": {"epochs": 4, "compile": False}, "weights": {"a": 1}}
    config = load_config(Config, base, path, ["training.notes=over there", "weights.b=2"])
    assert config == Config(
        name="file",
        training=Training(epochs=5, compile=False, notes="over there"),
        weights={"a": 1.0, "b": 2.0},
    )
    assert base == {
        "name": "base",
        "training": {"epochs": 4, "compile": False},
        "weights": {"a": 1},
    }


def test_values_take_the_type_of_their_field(tmp_path):
    path = write(
        tmp_path,
        "name: a\n"
        "data: b.csv\n"
        "text: {max_length: null, columns: [x, y]}\n"
        "training: {learning_rate: 1e-4, betas: [0, 1]}\n",
    )
    config = load_config(Config, file=path)
    assert config.training.learning_rate == 1e-4  # text in YAML 1.1
    assert config.training.betas == (0.0, 1.0)
    assert config.text == Text(max_length=None, columns=("x", "y"))
    assert config.data == Path("b.csv")


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("name=123", lambda config: config.name == "123"),
        ("training.notes=null", lambda config: config.training.notes is None),
        ("training.notes=1", lambda config: config.training.notes == "1"),
        ("training.compile=false", lambda config: config.training.compile is False),
        ("training.learning_rate=2e-5", lambda config: config.training.learning_rate == 2e-5),
        ("text.columns=[a, b]", lambda config: config.text.columns == ("a", "b")),
        ("text.max_length=64", lambda config: config.text.max_length == 64),
        ("text.style=json", lambda config: config.text.style == "json"),
        ("weights={a: 1}", lambda config: config.weights == {"a": 1.0}),
        ("folds=[0, 2]", lambda config: config.folds == [0, 2]),
    ],
)
def test_overrides_are_read_for_their_field(override, read):
    assert read(load_config(Config, {"name": "x"}, overrides=[override]))


@given(
    name=st.text(),
    epochs=st.integers(1),
    learning_rate=st.floats(allow_nan=False, allow_infinity=False),
    notes=st.none() | st.text(),
    columns=st.lists(st.text()).map(tuple),
    weights=st.dictionaries(st.text(), st.floats(allow_nan=False, allow_infinity=False)),
)
def test_dumped_configurations_load_as_equal_ones(
    tmp_path_factory, name, epochs, learning_rate, notes, columns, weights
):
    config = Config(
        name,
        text=Text(columns=columns),
        training=Training(epochs, learning_rate, notes=notes),
        weights=weights,
    )
    path = write(tmp_path_factory.getbasetemp(), dump_config(config))
    assert load_config(Config, file=path) == config


def test_infinity_survives_the_file_where_a_field_allows_it(tmp_path):
    config = Config("x", training=Training(max_norm=math.inf))
    assert load_config(Config, file=write(tmp_path, dump_config(config))) == config


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("training.learning_rate", ".nan", "must be a finite number, got nan"),
        ("training.learning_rate", "nan", "must be a finite number, got nan"),
        ("training.learning_rate", "-.inf", "must be a finite number, got -inf"),
        ("training.learning_rate", "1e999", "must be a finite number, got inf"),
        ("training.learning_rate", "1" + 400 * "0", f"must be a number, got 1{400 * '0'}"),
        ("training.max_norm", ".nan", "must be a number, got nan"),
        ("training.limit", ".inf", "must be null or a finite number, got '.inf'"),
        ("weights.a", ".inf", "must be a finite number, got inf"),
    ],
)
def test_what_is_no_finite_number_is_refused(key, value, problem):
    with pytest.raises(ConfigError) as error:
        load_config(Config, {"name": "x"}, overrides=[f"{key}={value}"])
    assert str(error.value) == f"override '{key}={value}': {key}: {problem}"


def test_a_check_of_the_dataclass_names_the_source_of_that_field():
    overrides = ["training.epochs=0", "training.learning_rate=1"]
    with pytest.raises(ConfigError) as error:
        load_config(Config, {"name": "x"}, overrides=overrides)
    assert str(error.value) == (
        "override 'training.epochs=0': training.epochs: must be at least 1, got 0"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "name: a\ntraining:\n  epoch: 5\n",
            "{path}:3: training.epoch: unknown key; did you mean 'epochs'?",
        ),
        (
            "name: a\ntext: {style: sentances}\n",
            "{path}:2: text.style: unknown value 'sentances'; did you mean 'sentence'?"
            "; valid: sentence, list, json",
        ),
        (
            "name: a\ntext: {style: 7}\n",
            "{path}:2: text.style: unknown value 7; valid: sentence, list, json",
        ),
        (
            "name: a\ntraining: {epochs: 2.5}\n",
            "{path}:2: training.epochs: must be a whole number, got 2.5",
        ),
        (
            "name: a\ntraining: {epochs: true}\n",
            "{path}:2: training.epochs: must be a whole number, got True",
        ),
        (
            "name: a\ntraining:\n  compile: 'no'\n",
            "{path}:3: training.compile: must be true or false, got 'no'",
        ),
        (
            "name: a\ntraining: {learning_rate: fast}\n",
            "{path}:2: training.learning_rate: must be a number, got 'fast'",
        ),
        (
            "name: a\ntext: {max_length: long}\n",
            "{path}:2: text.max_length: must be null or a whole number, got 'long'",
        ),
        (
            "name: a\ntraining: {betas: [0.9]}\n",
            "{path}:2: training.betas: must be a list of 2, got [0.9]",
        ),
        (
            "name: a\ntraining: {betas: [0.9, x]}\n",
            "{path}:2: training.betas[1]: must be a number, got 'x'",
        ),
        ("name: 3\n", "{path}:1: name: must be text, got 3; quote it"),
        ("training: 3\nname: a", "{path}:1: training: must be keys and values, got 3"),
        (
            "name: a\ntraining: {epochs: 0}\n",
            "{path}:2: training.epochs: must be at least 1, got 0",
        ),
        ("text: {}\n", "name: required, but not given"),
        ("name: a\nname: b\n", "{path}:2: name: given twice, first on line 1"),
        ("- 1\n", "{path}: must contain keys and values, got list"),
    ],
)
def test_mistakes_in_a_file_name_key_line_and_remedy(tmp_path, text, message):
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as error:
        load_config(Config, file=path)
    assert str(error.value) == message.format(path=path)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "training.epoch=3",
            "override 'training.epoch=3': training.epoch: unknown key; did you mean 'epochs'?",
        ),
        ("training.epochs", "override 'training.epochs': must be dotted.key=value"),
        (
            "training.epochs=many",
            "override 'training.epochs=many': training.epochs: must be a whole number, got 'many'",
        ),
        (
            "name.first=a",
            "override 'name.first=a': name: must be text, got {'first': 'a'}; quote it",
        ),
        ("folds=[1", "override 'folds=[1': folds: not YAML: '[1'"),
    ],
)
def test_mistakes_in_an_override_quote_it(override, message):
    with pytest.raises(ConfigError) as error:
        load_config(Config, {"name": "a"}, overrides=[override])
    assert str(error.value) == message


def test_a_mistake_in_the_base_and_a_missing_file_are_named(tmp_path):
    with pytest.raises(ConfigError) as error:
        load_config(Config, {"nam": "a"})
    assert str(error.value) == "base: nam: unknown key; did you mean 'name'?"
    with pytest.raises(ConfigError) as error:
        load_config(Config, file=tmp_path / "no.yaml")
    assert str(error.value) == f"{tmp_path / 'no.yaml'}: cannot be read: No such file or directory"
    with pytest.raises(ConfigError, match="not YAML"):
        load_config(Config, file=write(tmp_path, "a: [1"))


def test_an_empty_file_changes_nothing(tmp_path):
    assert load_config(Config, {"name": "a"}, write(tmp_path, "# nothing\n")) == Config("a")


def test_all_problems_are_named_and_cross_checks_wait_for_valid_fields(tmp_path):
    @dataclass(frozen=True)
    class Inner:
        low: int = setting(1, at_least=0)
        high: int = 2

        def __post_init__(self):
            if self.low > self.high:
                raise ValueError(f"low is above {self.high}")

    def even(value: int) -> None:
        if value % 2:
            raise ValueError(f"count must be even, got {value}")

    @dataclass(frozen=True)
    class Outer:
        count: int = setting(2, check=even)
        inner: Inner = field(default_factory=Inner)

    file = tmp_path / "a.yaml"
    file.write_text("inner:\n  low: -1\n  hihg: 3\ncount: 3\n")
    assert config_problems(Outer, {}, file) == [
        f"{file}:2: inner.low: must be at least 0, got -1",
        f"{file}:3: inner.hihg: unknown key; did you mean 'high'?",
        f"{file}:4: count: must be even, got 3",
    ]
    file.write_text("inner: {low: 5}\ncount: 4\n")
    assert config_problems(Outer, {}, file) == [f"{file}:1: inner.low: is above 2"]
    with pytest.raises(ConfigError, match="override 'count=5': count: must be even, got 5"):
        load_config(Outer, overrides=["count=5"])
    assert config_sources({"count": 2}, file, ["count=6"], {"inner.high": 7}) == {
        "count": "override 'count=6'",
        "inner": "command line",
        "inner.low": f"{file}:1",
        "inner.high": "command line",
    }
