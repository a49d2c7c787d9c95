import json
from importlib.resources import files
from typing import get_args

import pytest

from mlx_tabtext import (
    COMPETITIONS,
    TableError,
    TableText,
    TextConfig,
    guess_competition,
    infer_schema,
    load_data_dictionary,
)
from mlx_tabtext.schema import NOT_INPUT, Kind

FOLDER = files("mlx_tabtext") / "competitions"


def unique_keys(pairs: list[tuple]) -> dict:
    found = dict(pairs)
    assert len(found) == len(pairs), pairs
    return found


def test_every_file_is_listed():
    assert {path.name for path in FOLDER.iterdir()} == {f"{name}.json" for name in COMPETITIONS}


@pytest.mark.parametrize("name", COMPETITIONS)
def test_files_have_known_keys_valid_kinds_and_labels(name):
    text = (FOLDER / f"{name}.json").read_text(encoding="utf-8")
    entry = json.loads(text, object_pairs_hook=unique_keys)
    assert {"columns", "template"} <= entry.keys() <= {"columns", "template", "source"}
    for column in entry["columns"].values():
        assert {"label"} <= column.keys() <= {"label", "kind", "values"}
        assert column.get("kind", "numeric") in set(get_args(Kind)) - set(NOT_INPUT)
        labels = [column["label"], *column.get("values", {}).values()]
        assert all(isinstance(label, str) and label == label.strip() != "" for label in labels)


@pytest.mark.parametrize("name", COMPETITIONS)
def test_entries_fit_their_own_columns(name):
    texts = load_data_dictionary(name)
    table = {column: ["a", "b"] for column in texts.labels}
    assert guess_competition([*table, "some id"]) == name
    schema = infer_schema(
        table, labels=texts.labels, value_labels=texts.value_labels, kinds=texts.kinds
    )
    text = TableText(schema, TextConfig(style="template", template=texts.template)).fit(table)
    assert all(line for line in text.transform(table))


def test_house_prices_names_all_79_columns():
    texts = load_data_dictionary("house-prices")
    assert len(texts.labels) == 79
    assert len(set(texts.labels.values())) == 79
    assert set(texts.value_labels) <= set(texts.labels)


def test_unknown_columns_and_names():
    assert guess_competition(["a", "b"]) is None
    with pytest.raises(TableError) as error:
        load_data_dictionary("titanik")
    assert (
        str(error.value) == "no data dictionary for competition 'titanik'; did you mean 'titanic'?"
    )
