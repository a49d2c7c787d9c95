"""The space of a study: the settings that its trials draw, by dotted key of the configuration."""

# Optuna is an extra.
# pyright: reportMissingImports=false

import dataclasses
import math
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mlx_kaggle.members.catalog import CONSTANT, PLAIN, TEXT, options_of
from mlx_kaggle.settings.config import RunConfig
from mlx_kaggle.training.job import Job
from mlx_trainer import ConfigError, did_you_mean, dump_config, load_config

# They choose the rows or the score that trials are compared by.
FIXED = ("preset", "folds", "members", "val_fraction", "seed", "data", "forecast", "decision")
OF_TEXT = ("text", "encoder", "lora", "head", "training")
Scalar = int | float | str | bool


@dataclass(frozen=True)
class Dimension:
    """A setting: a number from `low` to `high`, or one of `choices`."""

    key: str
    low: float = 0
    high: float = 0
    log: bool = False
    step: float | None = None
    choices: tuple[Scalar, ...] = ()

    @property
    def ends(self) -> tuple[Scalar, ...]:
        """The values that must be valid for all of the dimension to be valid."""
        return self.choices or (self.low, self.high)

    def distribution(self) -> Any:
        """Return the form of Optuna."""
        from optuna.distributions import (
            CategoricalDistribution,
            FloatDistribution,
            IntDistribution,
        )

        if self.choices:
            return CategoricalDistribution(self.choices)
        if isinstance(self.low, int) and isinstance(self.high, int):
            return IntDistribution(self.low, self.high, self.log, int(self.step or 1))
        return FloatDistribution(self.low, self.high, self.log, self.step)

    def suggest(self, trial: Any) -> Scalar:
        """Return the value of a trial."""
        if self.choices:
            return trial.suggest_categorical(self.key, self.choices)
        if isinstance(self.low, int) and isinstance(self.high, int):
            step = int(self.step or 1)
            return trial.suggest_int(self.key, self.low, self.high, step=step, log=self.log)
        return trial.suggest_float(self.key, self.low, self.high, step=self.step, log=self.log)

    def to_dict(self) -> Any:
        """Return the form of a space file."""
        if self.choices:
            return list(self.choices)
        values = {"low": self.low, "high": self.high, "log": self.log, "step": self.step}
        return {name: value for name, value in values.items() if value not in (None, False)}


def with_params(config: RunConfig, params: Mapping[str, Scalar]) -> RunConfig:
    """Return a configuration with some settings replaced, by dotted key; raise `ConfigError`."""
    flags: Mapping[str, object] = params
    try:
        return load_config(RunConfig, yaml.safe_load(dump_config(config)), flags=flags)
    except ConfigError as error:
        raise ConfigError(str(error).removeprefix("command line: ")) from None


def default_space(job: Job) -> list[Dimension]:
    """Return the dimensions of each member, without what the user has set."""
    config = job.config
    found = [
        Dimension(f"options.{name}.{key}", each.low, each.high, each.log, choices=each.choices)
        for name in job.members
        for key, each in options_of(name).items()
        if key not in config.options.get(name, {})
    ]
    if TEXT in job.members:
        usual = _of_preset(config.preset)
        found += [each for each in _text(job) if _get(config, each.key) == _get(usual, each.key)]
    if not found:
        raise ConfigError("nothing to tune: all options of these members are set; give --space")
    return found


def read_space(file: Path, job: Job) -> list[Dimension]:
    """Read a space file: each key maps to a list of choices, or to low and high (log, step).

    Raises `ConfigError` for an unknown key, a value outside the range of its setting, and a setting
    that no member reads.
    """
    try:
        values = yaml.safe_load(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{file}: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict) or not values:
        example = "training.learning_rate: {low: 1e-4, high: 3e-3, log: true}"
        raise ConfigError(f"{file}: must contain keys with lists or ranges, such as {example}")
    try:
        return parse_space(values, job)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None


def parse_space(values: Mapping[str, Any], job: Job) -> list[Dimension]:
    """Return the dimensions of a mapping in the form of a space file; raise `ConfigError`."""
    found = []
    for key, value in values.items():
        kind = _kind(str(key), job)
        each = _dimension(str(key), value, kind)
        for end in each.ends:
            _check_loaded(job.config, each.key, end)
        found.append(each)
    return found


def _check_loaded(config: RunConfig, key: str, value: Scalar) -> None:
    loaded = _get(with_params(config, {key: value}), key)
    if loaded != value:
        raise ConfigError(f"{key}: {value!r} is read as {loaded!r}")


def _dimension(key: str, value: Any, kind: type) -> Dimension:
    if isinstance(value, list):
        choices = tuple(_choice(key, each, kind) for each in _filled(key, value))
        return Dimension(key, choices=choices)
    if not isinstance(value, dict) or kind not in (int, float):
        form = "a list" if kind not in (int, float) else "a list, or low and high"
        raise ConfigError(f"{key}: must be {form}, got {value!r}")
    valid = ("low", "high", "log", "step")
    for name in value:
        if name not in valid:
            raise ConfigError(f"{key}: unknown {name!r}{did_you_mean(str(name), valid)}")
    low, high = (_number(f"{key}: {name}", value.get(name), kind) for name in ("low", "high"))
    log, step = value.get("log", False), value.get("step")
    step = None if step is None else _number(f"{key}: step", step, kind)
    if not low < high:
        raise ConfigError(f"{key}: low must be below high, got {low} and {high}")
    if not isinstance(log, bool):
        raise ConfigError(f"{key}: log must be true or false, got {log!r}")
    if log and step is not None:
        raise ConfigError(f"{key}: log and step exclude each other")
    if log and low <= 0:
        raise ConfigError(f"{key}: log needs low above 0, got {low}")
    if step is not None and not 0 < step <= high - low:
        raise ConfigError(f"{key}: step must be above 0 and at most high - low, got {step}")
    return Dimension(key, low, high, log, step)


def _filled(key: str, value: list) -> list:
    if len(value) < 2 or len({repr(each) for each in value}) < len(value):
        raise ConfigError(f"{key}: must list two or more different values, got {value!r}")
    return value


def _choice(key: str, value: Any, kind: type) -> Scalar:
    if kind in (int, float):
        return _number(key, value, kind)
    if not isinstance(value, kind):
        raise ConfigError(f"{key}: {value!r} is not {'true or false' if kind is bool else 'text'}")
    return value


def _number(where: str, value: Any, kind: type) -> Any:
    """Return a number; YAML 1.1 reads 1e-4, without a dot, as text."""
    try:
        number = float(value) if not isinstance(value, bool) else math.nan
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number) or (kind is int and number != int(number)):
        what = "a whole number" if kind is int else "a number"
        raise ConfigError(f"{where} must be {what}, got {value!r}")
    return int(number) if kind is int else number


def _kind(key: str, job: Job) -> type:
    """Return int, float, bool or str; raise `ConfigError` for a key that cannot be tuned."""
    section, _, rest = key.partition(".")
    if section in FIXED:
        raise ConfigError(f"{key}: cannot be tuned: all trials must share rows, folds and score")
    if section == "options":
        return _kind_of_option(key, rest, job)
    readers = {TEXT, "embeddings"} if section in ("text", "encoder") else {TEXT}
    if section in OF_TEXT and not readers & set(job.members):
        raise ConfigError(f"{key}: only the member {' or '.join(sorted(readers))} reads it, which "
                          f"this study does not train")  # fmt: skip
    kinds = dict(_kinds(RunConfig, ""))
    if key not in kinds:
        raise ConfigError(f"{key}: unknown key{did_you_mean(key, kinds)}")
    if kinds[key] is None:
        raise ConfigError(f"{key}: cannot be tuned: it is not a number, a word or a switch")
    return kinds[key]


def _kind_of_option(key: str, rest: str, job: Job) -> type:
    name, _, option = rest.partition(".")
    members = [each for each in job.members if each not in (CONSTANT, PLAIN, TEXT)]
    if name not in members:
        raise ConfigError(f"{key}: {name!r} is no member of this study; these are: "
                          f"{', '.join(members) or 'none with options'}")  # fmt: skip
    table = options_of(name)
    if option not in table:
        raise ConfigError(f"{key}: {name} has no such option{did_you_mean(option, table)}")
    return str if table[option].choices else int if table[option].whole else float


def _kinds(cls: type, prefix: str) -> Iterator[tuple[str, Any]]:
    """Yield the dotted key of each setting, and int, float, bool, str, or None for other types."""
    for name, hint in typing.get_type_hints(cls).items():
        key = f"{prefix}{name}"
        if dataclasses.is_dataclass(hint):
            yield from _kinds(hint, f"{key}.")  # pyright: ignore[reportArgumentType]
            continue
        if typing.get_origin(hint) in (typing.Union, types.UnionType):
            hint = next(each for each in typing.get_args(hint) if each is not type(None))
        if typing.get_origin(hint) is typing.Literal:
            hint = str
        yield key, hint if hint in (int, float, bool, str) else None


def _get(config: RunConfig, key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = value[part] if isinstance(value, dict) else getattr(value, part)
    return value


def _of_preset(preset: str) -> RunConfig:
    from mlx_kaggle.settings.config import resolve_config

    return resolve_config(preset)


def _text(job: Job) -> Sequence[Dimension]:
    """Return the space of the text network; the learning rate around that of the preset."""
    config, rate = job.config, job.config.training.learning_rate
    found = [
        Dimension("training.learning_rate", rate / 5, rate * 5, log=True),
        Dimension("training.layer_decay", 0.7, 1.0),
        Dimension("training.epochs", *_around(config.training.epochs), log=True),
        Dimension("training.optimizer", choices=("adamw", "muon")),
        Dimension("training.weight_decay", 1e-4, 0.3, log=True),
        Dimension("head.pooling", choices=("mean", "cls", "max", "attention", "cls+mean")),
        Dimension("head.dropout", 0.0, 0.4),
        Dimension("encoder.dropout", 0.0, 0.3),
        Dimension("text.style", choices=("list", "sentence", "great", "json", "markdown")),
        Dimension("text.numbers", choices=("value", "value+word", "word", "value+bin")),
        Dimension("text.max_tokens", choices=(64, 128, 256)),
    ]
    if config.lora.preset != "none":
        found += [Dimension("lora.r", choices=(4, 8, 16, 32))]
    elif not config.encoder.path:
        found += [
            Dimension("encoder.num_hidden_layers", 1, 4),
            Dimension("encoder.hidden_size", choices=(64, 128, 192, 256)),
            Dimension("encoder.num_attention_heads", choices=(2, 4, 8)),
            Dimension("encoder.intermediate_size", choices=(192, 384, 768)),
        ]
    if job.competition.task in ("binary", "multiclass") and not config.loss.name:
        found += [Dimension("loss.label_smoothing", 0.0, 0.2)]
    return found


def _around(epochs: int) -> tuple[int, int]:
    return max(epochs // 2, 1), max(epochs * 2, 2)
