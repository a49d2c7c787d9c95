"""The members by name: what each is, and which of them a run trains."""

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from mlx_kaggle.members.columns import Columns
from mlx_kaggle.members.options import Option
from mlx_kaggle.members.variants import base_of, variants_of
from mlx_kaggle.settings.config import MEMBERS, RunConfig
from mlx_kaggle.tables.competition import VALUE_TASKS, Competition
from mlx_trainer import ConfigError, did_you_mean

TEXT = "text"
# Always trained, whatever `--members` names: what the others have to beat. The constant predicts
# the same for every row, PLAIN is scikit-learn's HistGradientBoosting without any setting.
CONSTANT, PLAIN = "constant", "histgb"


@dataclass(frozen=True)
class Kind:
    """A kind of member: its module in this package, and the library it needs."""

    module: str
    needs: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of its `fit`."""
    most_rows: int | None = None
    """Training rows above which it takes too long."""
    most_labels: int | None = None
    """Labels above which it takes too long: one model for each."""
    seconds: tuple[float, float] = (0.0, 0.0)
    """Usual seconds of a fold on two cores, and more for each thousand training rows."""


def _boosted(library: str, seconds: tuple[float, float]) -> Kind:
    return Kind("boosted", library, {"library": library}, most_labels=8, seconds=seconds)


KINDS = {
    CONSTANT: Kind("constant"),
    PLAIN: Kind("gradient_trees", options={"plain": True}, seconds=(1.0, 0.1)),
    "linear": Kind("linear_words", seconds=(0.5, 0.3)),
    "trees": Kind("gradient_trees", seconds=(2.0, 0.1)),
    "lightgbm": _boosted("lightgbm", (1.0, 0.2)),
    "xgboost": _boosted("xgboost", (2.0, 0.3)),
    "catboost": _boosted("catboost", (4.0, 1.5)),
    "forest": Kind("forest", seconds=(0.5, 0.6)),
    "neighbours": Kind("neighbours", seconds=(0.0, 0.2)),
    "kernel": Kind("kernel", most_rows=10_000, seconds=(1.0, 1.2)),
    "embeddings": Kind("embeddings", seconds=(5.0, 1.0)),
    "tabular": Kind("tabular", most_labels=8, seconds=(4.0, 9.0)),
    TEXT: Kind("text"),
}


def module_of(name: str) -> ModuleType:
    """Return the module of a member other than the text: `fit`, `predict`, `save`, `load`."""
    return import_module(f"mlx_kaggle.members.{KINDS[base_of(name)].module}")


def options_of(name: str) -> Mapping[str, Option]:
    """Return the options that a member takes; those of the text are other settings."""
    if name in (TEXT, CONSTANT, PLAIN):
        return {}
    table: Mapping[str, Any] = module_of(name).OPTIONS
    library = KINDS[name].options.get("library")
    return table[library] if library else table


def fit_arguments(config: RunConfig, name: str) -> dict[str, Any]:
    """Return what the `fit` of a member takes besides the data."""
    name = base_of(name)
    given, table = config.options.get(name), options_of(name)
    read = {key: table[key].read(value) for key, value in (given or {}).items()}
    return {**KINDS[name].options, **({"options": read} if read else {})}


def check_options(options: Mapping[str, Mapping[str, object]]) -> None:
    """Refuse an unknown member or option, or a value out of its range, with `ValueError`."""
    valid = [name for name in KINDS if name not in (TEXT, CONSTANT, PLAIN)]
    for name, given in options.items():
        if name not in valid:
            raise ValueError(f"options unknown member {name!r}{did_you_mean(name, valid)}")
        table = options_of(name)
        for option, value in given.items():
            if option not in table:
                raise ValueError(
                    f"options {name} has no option {option!r}{did_you_mean(option, table)}"
                )
            if problem := table[option].problem(value):
                raise ValueError(f"options {name}.{option} {problem}")


def label_of(competition: Competition, name: str) -> str:
    """Return the name of a member in tables and blends: "majority" of a constant of classes."""
    if name == CONSTANT:
        if competition.forecast:
            return "seasonal naive"
        return "training mean" if competition.task in VALUE_TASKS else "majority"
    return "HistGradientBoosting" if name == PLAIN else name


def is_text(name: str) -> bool:
    """Whether a member is the text, or a variant of it: trained as networks."""
    return base_of(name) == TEXT


def member_names() -> list[str]:
    """Return the names of all members and of their variants, in the order of the members."""
    return [each for name in KINDS for each in (name, *variants_of(name))]


def members_of(competition: Competition, labels: Container[str]) -> list[str]:
    """Return the names of members, variants too, by their labels."""
    return [name for name in member_names() if label_of(competition, name) in labels]


def choose_members(
    config: RunConfig,
    competition: Competition,
    levels: tuple[float, float] | None,
    rows: int,
) -> tuple[list[str], list[str]]:
    """Return the members of a run of `rows` training rows in order, and notes on those left out.

    The members of a preset that do not fit the task, or whose library is not installed, are left
    out with a note. A member that `config.members` names raises `ConfigError` instead.
    """
    named = config.members or MEMBERS
    chosen, notes = [CONSTANT], []
    for name in KINDS:
        if name not in (*named, PLAIN) or name == CONSTANT:
            continue
        problem = _problem(name, config, competition, levels, rows)
        if problem is None:
            chosen.append(name)
        elif name in config.members:
            raise ConfigError(f"members: {name} {problem}")
        elif name != PLAIN:
            notes.append(f"without the member {name}: it {problem}")
    if chosen[1:] in ([], [PLAIN]) and not config.members:
        raise ConfigError(f"no member of the preset {config.preset} fits this table; {notes[-1]}")
    return chosen, notes


def without_columns(names: list[str], columns: Columns, plain: Columns) -> list[str]:
    """Return the members that cannot learn, because the table gives them no column.

    `plain` are the columns without the generated ones, which `PLAIN` reads.
    """

    def any_of(*arrays: Any) -> bool:
        return any((each.shape or (0, 0))[1] for each in arrays)

    dense, dense_plain = (
        any_of(each.numbers, each.categories, each.components) for each in (columns, plain)
    )
    sparse = any_of(columns.scaled, columns.words, columns.characters)
    reads = {CONSTANT: True, TEXT: True, "linear": sparse, "embeddings": True, PLAIN: dense_plain}
    return [name for name in names if not reads.get(name, dense)]


def check_member_names(names: tuple[str, ...]) -> None:
    """Refuse an unknown name of a member with `ValueError`."""
    valid = [name for name in KINDS if name not in (CONSTANT, PLAIN)]
    for name in names:
        if name not in valid:
            raise ValueError(f"members unknown name {name!r}{did_you_mean(name, valid)}")


def _problem(
    name: str,
    config: RunConfig,
    competition: Competition,
    levels: tuple[float, float] | None,
    rows: int,
) -> str | None:
    kind = KINDS[name]
    if kind.needs and find_spec(kind.needs) is None:
        return f"needs {kind.needs}, which is not installed: pip install 'mlx-kaggle[{kind.needs}]'"
    if name == "embeddings" and not config.encoder.path:
        return "needs a pretrained encoder: --encoder DIR"
    if kind.most_rows and rows > kind.most_rows and name not in config.members:
        return f"takes too long for more than {kind.most_rows:,} rows; --members {name} trains it"
    labels = len(competition.targets) if competition.task == "multilabel" else 1
    if kind.most_labels and labels > kind.most_labels and name not in config.members:
        return f"takes too long for more than {kind.most_labels} labels; --members {name} trains it"
    if name != TEXT and not module_of(name).supports(competition, levels):
        what = "predict intervals" if levels else f"learn the task {competition.task}"
        return f"cannot {what}"
    return None
