"""Data dictionaries of well-known competitions: column labels, value labels, kinds, a template.

Each is a file `competitions/NAME.json`, read when it is first needed.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from mlx_tabtext._suggest import did_you_mean
from mlx_tabtext.schema import Kind
from mlx_tabtext.table import TableError

COMPETITIONS = ("titanic", "house-prices", "nlp-disaster", "spaceship-titanic")


@dataclass(frozen=True)
class DataDictionary:
    """`labels`, `value_labels` and `kinds` are arguments of `infer_schema`, `template` is one of
    `TextConfig`. `labels` has every input column of the competition.
    """

    labels: Mapping[str, str]
    value_labels: Mapping[str, Mapping[str, str]]
    kinds: Mapping[str, Kind]
    template: str


@cache
def load_data_dictionary(competition: str) -> DataDictionary:
    """Return the data dictionary of one of `COMPETITIONS`; `TableError` for another name."""
    if competition not in COMPETITIONS:
        hint = did_you_mean(competition, COMPETITIONS)
        raise TableError(f"no data dictionary for competition {competition!r}{hint}")
    path = files("mlx_tabtext") / "competitions" / f"{competition}.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    columns = values["columns"].items()
    return DataDictionary(
        labels={name: column["label"] for name, column in columns},
        value_labels={name: column["values"] for name, column in columns if "values" in column},
        kinds={name: column["kind"] for name, column in columns if "kind" in column},
        template=values["template"],
    )


def guess_competition(columns: Iterable[str]) -> str | None:
    """Return the competition whose input columns are all among `columns`, or `None`.

    Of several, the one with the most columns.
    """
    present = set(columns)
    sizes = {name: load_data_dictionary(name).labels.keys() for name in COMPETITIONS}
    matches = [name for name, labels in sizes.items() if present >= labels]
    return max(matches, key=lambda name: len(sizes[name]), default=None)
