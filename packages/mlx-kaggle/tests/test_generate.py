"""Generated columns: the same for any subset of rows, free of a row's own target, exact as JSON."""

import json
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import HistGradientBoostingClassifier

from mlx_kaggle.generate import Generated
from mlx_kaggle.tables.files import take
from mlx_tabtext import Schema, Table, infer_schema

ROWS = 240
ODD = ["1e308", 1e308, -1e308, 10**400, "²", "٣", "9" * 400, ".", ",", "_"]


def test_columns_are_measured_beside_one_that_a_single_row_knows():
    table, y = passengers(120)
    table["Deck"] = ["7" if row == 50 else None for row in range(120)]
    schema = infer_schema(table, target="Survived", kinds={"Deck": "numeric"})
    generated, _ = Generated.fit(schema, table, y, "binary", 0)
    assert {gain.name: gain.gain for gain in generated.gains}["parts of Cabin"] > 0


def passengers(rows: int = ROWS, seed: int = 0) -> tuple[Table, np.ndarray]:
    """Return a table with names, tickets that several rows share, codes, grades and like counts."""
    rng = np.random.default_rng(seed)
    ticket = rng.integers(rows // 3, size=rows)
    prefix = np.array(["PC ", "A/5 ", ""])[ticket % 3]
    side, deck, room = rng.integers(2, size=rows), rng.integers(5, size=rows), ticket % 60
    quality = rng.integers(5, size=rows)
    survived = (rng.random(rows) < np.where(side, 0.9, 0.1)).astype(int)
    families = ["Braund", "Cumings", "Heikkinen", "Futrelle", "Allen", "Moran", "McCarthy"]
    table: Table = {
        "PassengerId": [f"{each:04d}_{row:03d}" for row, each in enumerate(ticket)],
        "Name": [
            f"{families[each % 7]}{'aeiou'[each % 5]}, {title}. John {spelled(row)}"
            for row, (each, title) in enumerate(
                zip(ticket, rng.choice(["Mr", "Mrs", "Dr"], rows), strict=True)
            )
        ],
        "Ticket": [f"{text}{10000 + each}" for text, each in zip(prefix, ticket, strict=True)],
        "Cabin": [f"{'ABCDE'[d]}-{r}-{'PS'[s]}" for d, r, s in zip(deck, room, side, strict=True)],
        "Fare": [str(5 + each % 40) for each in ticket],
        "SibSp": [str(each) for each in rng.choice([0, 0, 0, 1, 2], rows)],
        "Parch": [str(each) for each in rng.choice([0, 0, 0, 1, 3], rows)],
        "Quality": [("Po", "Fa", "TA", "Gd", "Ex")[each] for each in quality],
        "Port": ["" if rng.random() < 0.2 else "XYZ"[each % 3] for each in ticket],
        "Survived": [str(each) for each in survived],
    }
    for name in ("Ticket", "Cabin", "Fare"):
        table[name][7] = None
    return table, survived


def spelled(number: int) -> str:
    return "".join("abcdefghij"[int(digit)] for digit in str(number))


def schema_of(table: Table) -> Schema:
    return infer_schema(table, target="Survived", id_column="PassengerId")


@cache  # no fixture: hypothesis would print it
def fit_passengers() -> tuple[Generated, Table]:
    table, y = passengers()
    return Generated.fit(schema_of(table), table, y, "binary", 0, measure=False)


def test_every_idea_is_found_in_a_table_that_has_it():
    names = {gain.name for gain in fit_passengers()[0].gains}
    assert {
        *("parts of Name", "parts of Ticket", "parts of Cabin", "sum of SibSp and Parch"),
        *("grades of Quality", "group size of Ticket", "Fare per row of Ticket"),
        *("Port filled by Ticket", "target mean of Ticket"),
    } <= names
    assert "parts of PassengerId" not in names  # its numbers count rows and groups


def test_values_are_those_of_a_calculation_by_hand():
    generated, train = fit_passengers()
    new = {name: [cells[0]] for name, cells in passengers()[0].items()}
    new |= {"Cabin": ["B-17-S"], "Ticket": ["PC 17599"], "SibSp": ["2"], "Parch": ["3"]}
    new |= {"Name": ["Cumings, Mrs. John Bradley (Florence)"], "Quality": ["Gd"]}
    row = {name: cells[0] for name, cells in generated.transform(new).items()}
    assert [row[f"Cabin part {n}"] for n in (1, 2, 3)] == ["B", 17.0, "S"]
    assert (row["Ticket letters"], row["Ticket number"]) == ("PC", 17599.0)
    assert row["Name title"] == "Mrs"
    assert row["SibSp + Parch"] == 5.0
    assert row["Quality grade"] == 4.0  # very poor, poor, fair, typical, good
    assert row["others with same Ticket"] == 0.0
    assert row["target mean of Ticket"] is None
    tickets = train["Ticket"]
    assert train["others with same Ticket"][0] == tickets.count(tickets[0]) - 1


def test_generated_columns_are_in_the_schema_with_labels_of_their_own():
    generated, train = fit_passengers()
    added = [column for column in generated.schema.columns if column.reason[:9] == "generated"]
    assert [column.name for column in added] == [each.name for each in generated.features]
    assert set(train) == {column.name for column in generated.schema.columns}
    labels = [column.label for column in generated.schema.columns]
    assert len(set(labels)) == len(labels)
    assert {column.kind for column in added} == {"numeric", "categorical"}


@settings(max_examples=20)
@given(st.lists(st.integers(0, ROWS - 1), max_size=12))
def test_a_subset_of_rows_is_transformed_as_the_rows_of_the_whole(rows):
    table = passengers()[0]
    whole = fit_passengers()[0].transform(table)
    assert fit_passengers()[0].transform(take(table, rows)) == take(whole, rows)


@settings(max_examples=8)
@given(st.integers(0, ROWS - 1), st.sampled_from(["binary", "regression"]))
def test_a_target_mean_of_a_training_row_ignores_its_own_target(row, task):
    table, y = passengers()
    other = y.copy()
    other[row] = 1 - other[row]
    means = []
    for targets in (y, other):
        generated, train = Generated.fit(schema_of(table), table, targets, task, 0, measure=False)
        names = [each.name for each in generated.features if each.name.startswith("target mean")]
        means.append([train[name][row] for name in names])
    assert len(means[0]) > 1
    assert means[0] == means[1]


def test_json_returns_the_same_generator():
    generated = fit_passengers()[0]
    again = Generated.from_dict(json.loads(json.dumps(generated.to_dict())))
    assert again == generated
    table = passengers()[0]
    assert again.transform(table) == generated.transform(table)


@settings(max_examples=20)
@given(
    st.lists(
        st.one_of(
            st.none(),
            st.text(max_size=8),
            st.integers(),
            st.floats(),
            st.booleans(),
            st.sampled_from(ODD),
        ),
        max_size=5,
    )
)
def test_no_cell_of_new_rows_fails(cells):
    table: Table = {name: list(cells) for name in passengers()[0] if name != "Survived"}
    found = fit_passengers()[0].transform(table)
    assert {len(each) for each in found.values()} == {len(cells)}


def test_new_rows_may_lack_the_id_and_the_target():
    table = passengers()[0]
    short = {
        name: cells for name, cells in table.items() if name not in ("PassengerId", "Survived")
    }
    assert len(fit_passengers()[0].transform(short)["Ticket"]) == ROWS


def test_the_side_inside_a_code_is_kept_and_what_hurts_is_not():
    table, y = passengers(300)
    generated, train = Generated.fit(schema_of(table), table, y, "binary", 0)
    gains = {gain.name: gain for gain in generated.gains}
    assert gains["parts of Cabin"].kept
    assert gains["parts of Cabin"].gain > 0.2
    assert all(gain.kept for gain in generated.gains if gain.gain >= 0)
    dropped = [gain for gain in generated.gains if not gain.kept]
    assert dropped
    assert not {name for gain in dropped for name in gain.columns} & set(train)


def test_groups_that_new_rows_do_not_share_are_not_used():
    table, y = passengers()
    new = dict(table, Ticket=[f"QX {row}" for row in range(ROWS)])
    generated, _ = Generated.fit(schema_of(table), table, y, "binary", 0, measure=False, new=new)
    names = {gain.name for gain in generated.gains}
    assert "parts of Ticket" in names
    assert not any(name.endswith(" of Ticket") and "parts" not in name for name in names)
    assert any("Ticket" in note for note in generated.notes)


def test_few_rows_and_windows_generate_nothing_and_say_so():
    table, y = passengers(30)
    for task, measure in (("binary", True), ("forecast", False)):
        generated, train = Generated.fit(schema_of(table), table, y, task, 0, measure=measure)
        assert generated.features == ()
        assert train == table
        assert len(generated.notes) == 1


@pytest.mark.parametrize("task", ["multiclass", "multilabel", "ordinal", "regression"])
def test_every_task_is_measured(task):
    table, y = passengers(120)
    table = {name: table[name] for name in ("PassengerId", "Cabin", "SibSp", "Survived")}
    rng = np.random.default_rng(1)
    targets = {
        "multiclass": y + rng.integers(2, size=len(y)),
        "multilabel": np.stack([y, rng.integers(2, size=len(y))], 1),
        "ordinal": y + rng.integers(2, size=len(y)),
        "regression": np.stack([y - y.mean(), rng.normal(size=len(y))], 1),
    }[task]
    generated, _ = Generated.fit(schema_of(table), table, targets, task, 0)
    gains = {gain.name: gain.gain for gain in generated.gains}
    assert gains["parts of Cabin"] > 0


def test_noise_targets_are_predicted_no_better_than_by_chance():
    table, y = passengers(400)
    y = np.random.default_rng(2).permutation(y)
    train, held = np.arange(300), np.arange(300, 400)
    small = take(table, train)
    generated, extended = Generated.fit(
        schema_of(table), small, y[train], "binary", 0, measure=False
    )
    new = generated.transform(take(table, held))
    names = [each.name for each in generated.features if each.kind == "numeric"]
    x_train, x_held = (
        np.array([each[name] for name in names], np.float64).T for each in (extended, new)
    )
    trees = HistGradientBoostingClassifier(max_iter=20, max_leaf_nodes=8, random_state=0)
    right = trees.fit(x_train, y[train]).predict(x_held) == y[held]
    assert abs(right.mean() - 0.5) < 0.17  # over three standard errors of 100 rows


def test_plain_columns_have_no_ideas():
    rng = np.random.default_rng(0)
    table: Table = {
        "height": [f"{each:.3f}" for each in rng.normal(size=80)],
        "color": rng.choice(["red", "green", "blue"], 80).tolist(),
        "token": ["".join(rng.choice(list("abc123"), 12)) for _ in range(80)],
        "y": rng.integers(2, size=80).tolist(),
    }
    schema = infer_schema(table, target="y")
    generated, train = Generated.fit(
        schema, table, np.array(table["y"]), "binary", 0, measure=False
    )
    assert generated.gains == ()
    assert train == table


def test_a_column_of_the_table_with_the_name_of_a_generated_one_stays():
    table, y = passengers()
    table["Quality grade"] = table["Cabin part 1"] = ["mine", "yours"] * (ROWS // 2)
    schema = schema_of(table)
    generated, train = Generated.fit(schema, table, y, "binary", 0, measure=False)
    assert train["Quality grade"] == train["Cabin part 1"] == table["Quality grade"]
    names = [column.name for column in generated.schema.columns]
    assert len(set(names)) == len(names)
