"""`validate-data` finds what is wrong with tables, and nothing in a clean one."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_kaggle.checks import Finding
from mlx_kaggle.checks.validate import validate_data
from mlx_kaggle.settings.sections import DataSettings

ROWS = 200


def clean(seed: int = 0, rows: int = ROWS, first_id: int = 1) -> dict[str, list]:
    """Rows drawn at random: numbers, categories and texts, and a target that follows in part."""
    rng = np.random.default_rng(seed)
    size, weight = rng.normal(10, 3, rows), rng.gamma(4, 10, rows)
    words = np.array(["red", "small", "old", "broken", "new", "blue", "large", "fine"])
    return {
        "id": list(range(first_id, first_id + rows)),
        "size": np.round(size, 4).tolist(),
        "weight": np.round(weight, 4).tolist(),
        "shape": rng.choice(["round", "square", "flat"], rows).tolist(),
        "note": [" ".join(rng.choice(words, 6)) for _ in range(rows)],
        "y": np.round(size + rng.normal(0, 3, rows), 4).tolist(),
    }


def without(table: dict[str, list], *names: str) -> dict[str, list]:
    return {name: cells for name, cells in table.items() if name not in names}


def with_classes(table: dict[str, list], labels=("no rain", "rain")) -> dict[str, list]:
    return {**table, "y": [labels[int(y > 10)] for y in table["y"]]}


@pytest.fixture
def check(write_csv, tmp_path):
    """Write tables, and return the findings that are not fine, by the name of their check."""

    def find(train: dict, test: dict | None = None, **options) -> dict[str, Finding]:
        data = DataSettings(
            train=write_csv("train.csv", train),
            test=write_csv("test.csv", test) if test else None,
            **{"target": "y", **options},
        )
        found = validate_data(data, 0, 10_000).findings
        return {each.check: each for each in reversed(found) if each.severity != "fine"}

    return find


def test_a_clean_table_has_no_finding(check):
    assert check(clean(), without(clean(1, first_id=ROWS + 1), "y")) == {}


@settings(max_examples=5, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(seed=st.integers(0, 10_000))
def test_no_table_drawn_at_random_must_be_looked_at(check, seed):
    found = check(clean(seed), without(clean(seed + 1, first_id=ROWS + 1), "y"))
    assert not [each for each in found.values() if each.severity == "must look"]


def test_repeated_rows_with_unique_numbers_must_be_looked_at(check):
    table = clean()
    table = {name: [*cells, *cells[:20]] for name, cells in table.items()}
    table["id"] = list(range(ROWS + 20))
    found = check(table)["duplicates"]
    assert found.severity == "must look"
    assert found.title == "20 rows repeat an earlier row (9.1%)"
    assert "rows 202, 203, 204, ... 17 more" in found.evidence[0]


def test_equal_rows_with_different_targets_are_named(check):
    table = clean()
    for name in ("size", "weight", "shape", "note"):
        table[name][7] = table[name][3]
    found = check(table)["contradictions"]
    assert (found.severity, found.title.partition(" rows")[0]) == ("worth knowing", "2")
    assert found.evidence[0].startswith("rows 5, 9;")


def test_test_rows_of_the_training_table_are_a_leak(check):
    test = without(clean(1, first_id=ROWS + 1), "y")
    for name in ("size", "weight", "shape", "note"):
        test[name][:30] = clean()[name][:30]
    found = check(clean(), test)["shared rows"]
    assert found.severity == "must look"
    assert "30 of 200 rows" in found.evidence[0]


def test_an_id_that_repeats_must_be_looked_at(check):
    table = clean()
    table["id"][50] = table["id"][10]
    found = check(table)["ids"]
    assert found.severity == "must look"
    assert found.evidence == ("row 52, first '11'",)


def test_ids_in_both_tables_must_be_looked_at_unless_both_count_from_one(check):
    counted = check(clean(), without(clean(1), "y"))["ids"]
    assert counted.severity == "worth knowing"
    shared = check(clean(first_id=500), without(clean(1, first_id=600), "y"))["ids"]
    assert shared.severity == "must look"
    assert shared.evidence[0].startswith("100 of 200 rows; rows 2, 3, 4")


def test_two_columns_whose_sum_is_the_target_are_found(check):
    table = clean()
    table["first"] = np.arange(ROWS).tolist()
    table["second"] = [y - a for y, a in zip(table["y"], table["first"], strict=True)]
    found = check(table)["target in columns"]
    assert found.severity == "must look"
    assert "the sum of 'first' and 'second' is the target 'y'" in found.title


def test_a_column_that_is_nearly_the_target_is_found_in_another_unit(check):
    table = clean()
    rng = np.random.default_rng(3)
    table["cost"] = [float(np.exp(y / 5) + rng.normal(0, 1e-3)) for y in table["y"]]
    found = check(table)["target in columns"]
    assert (found.severity, found.columns) == ("must look", ("cost",))


def test_a_copy_of_the_target_must_be_looked_at(check):
    table = with_classes(clean())
    table["code"] = [{"no rain": "b", "rain": "a"}[y] for y in table["y"]]
    found = check(table)["constant and copied columns"]
    assert (found.severity, found.columns) == ("must look", ("code",))


def test_a_text_that_contains_the_target_is_found(check):
    table = with_classes(clean(), ("sunny", "stormy"))
    rng = np.random.default_rng(0)
    table["note"] = [
        f"{note} {rng.integers(1e6)} it was {y.upper()}, truly"
        for note, y in zip(table["note"], table["y"], strict=True)
    ]
    lines = check(table)["target in columns"]
    assert lines.severity == "must look"
    assert lines.columns == ("note",)


def test_rows_sorted_by_the_target_are_worth_knowing(check):
    table = clean()
    table["y"] = sorted(table["y"])
    found = check(table)["target in order"]
    assert (found.severity, found.title) == (
        "worth knowing", "the row number predicts the target")  # fmt: skip


def test_an_id_that_tells_the_target_leaks_if_test_ids_lie_between(check):
    table, test = clean(), without(clean(1), "y")
    table["id"] = [round(1000 * y) + at for at, y in enumerate(table["y"])]
    test["id"] = [round(1000 * y) + at for at, y in enumerate(clean(1)["y"])]
    found = check(table, test, id_column="id")["target in order"]
    assert (found.severity, found.columns) == ("must look", ("id",))


def test_adversarial_validation_names_the_column_that_gives_test_away(check):
    test = without(clean(1, first_id=ROWS + 1), "y")
    test["weight"] = [cell + 60 for cell in test["weight"]]
    found = check(clean(), test)
    adversarial, shift = found["adversarial validation"], found["shift"]
    assert adversarial.severity == shift.severity == "must look"
    assert adversarial.columns[0] == "weight"
    without_it = adversarial.evidence[-1]
    assert without_it.startswith("without weight: 0.")
    assert float(without_it.rpartition(" ")[2]) < 0.6
    assert shift.columns == ("weight",)


def test_categories_that_train_does_not_have_are_counted(check):
    test = without(clean(1, first_id=ROWS + 1), "y")
    test["shape"] = ["oval"] * 50 + test["shape"][50:]
    assert check(clean(), test)["shift"].evidence == (
        "shape: 25.0% of the rows have a category not in train",)  # fmt: skip


def test_columns_of_one_table_alone_are_named(check):
    test = {**without(clean(1, first_id=ROWS + 1), "y", "note"), "extra": [1, 2] * 100}
    found = check(clean(), test)["columns of both tables"]
    assert found.severity == "worth knowing"


def test_cells_that_are_not_read_are_counted_with_rows(check):
    test = without(clean(1, first_id=ROWS + 1), "y")
    test["weight"] = ["about 3"] * 30 + test["weight"][30:]
    found = check(clean(), test)["unreadable cells"]
    assert found.severity == "must look"
    assert found.title.startswith("30 cells of 'weight'")
    assert "rows 2, 3, 4, ... 27 more: 'about 3'; 15.0%" in found.evidence[0]


def test_constant_columns_are_worth_knowing(check):
    found = check({**clean(), "same": [1] * ROWS})["constant and copied columns"]
    assert (found.severity, found.title) == ("worth knowing", "1 column is constant or empty")


def test_classes_that_differ_in_case_or_space_must_be_looked_at(check):
    table = with_classes(clean(), ("rain", "sun"))
    table["y"][:20] = [f" {y.title()}" for y in table["y"][:20]]
    assert check(table, task="multiclass")["spellings"].severity == "must look"


def test_a_rare_class_is_worth_knowing(check):
    table = with_classes(clean())
    table["y"] = ["rain" if at % 50 == 0 else "no rain" for at in range(ROWS)]
    found = check(table)
    assert found["balance"].title == "the rarer class has 2.00% of the rows"
    assert "rare classes" in found


def test_missing_targets_are_counted(check):
    table = clean()
    table["y"][:60] = [""] * 60
    found = check(table)["missing targets"]
    assert (found.severity, found.evidence) == ("must look", ("rows 2, 3, 4, ... 57 more",))


def test_an_outlier_of_the_target_is_named_with_its_row(check):
    table = clean()
    table["y"][9] = 99999.0
    found = check(table)["outliers"]
    assert found.severity == "must look"
    assert "99999 in row 11" in found.evidence[0]


def test_a_skewed_target_proposes_the_logarithm(check):
    table = clean()
    table["y"] = [round(float(np.exp(y / 3)), 4) for y in table["y"]]
    assert "--metric rmsle" in check(table)["skew"].advice
    assert "skew" not in check(table, metric="rmsle")


def test_a_value_that_repeats_among_others_that_do_not_is_found(check):
    table = clean()
    table["y"][:20] = [15.0] * 20
    assert check(table)["repeated value"].title.startswith("'y' is 15 in 20 rows")


def test_a_sample_submission_with_other_ids_is_a_finding_and_the_rest_is_checked(check, write_csv):
    sample = write_csv("sample.csv", {"id": [1, 2, 3], "y": [0.0, 0.0, 0.0]})
    table = {**clean(), "same": [1] * ROWS}
    found = check(table, without(clean(1, first_id=ROWS + 1), "y"), sample_submission=sample)
    assert found["sample submission"].severity == "must look"
    assert "constant and copied columns" in found


def test_the_command_exits_with_one_only_if_something_must_be_looked_at(run_cli, write_csv):
    write_csv("fine.csv", clean())
    done = run_cli("validate-data", "--train", "fine.csv", "--target", "y", "--output", "p.html")
    assert "0 must look, 0 worth knowing" in done.stdout
    page = Path("p.html").read_text("utf-8")
    assert "<script" not in page
    assert "http" not in page.replace("http://www.w3.org", "").replace("https://matplotlib", "")
    table = clean()
    table["y"][9] = 1e9
    write_csv("bad.csv", table)
    done = run_cli("validate-data", "--train", "bad.csv", "--target", "y", "--json", code=1)
    found = json.loads(done.stdout)
    assert found["must_look"] is True
    assert found["findings"][0]["check"] == "outliers"


def test_usage_errors_exit_with_two_and_bad_tables_with_one(run_cli, write_csv):
    write_csv("train.csv", clean())
    assert "Missing option '--train'" in run_cli("validate-data", code=2).stderr
    assert "Missing option '--target'" in run_cli(
        "validate-data", "--train", "train.csv", code=2).stderr  # fmt: skip
    missing = run_cli("validate-data", "--train", "train.csv", "--target", "z", code=1)
    assert "Error: train.csv: no column 'z'" in missing.stderr
    kept = Path("train.csv").read_bytes()
    run_cli("validate-data", "--train", "train.csv", "--target", "y", "--output", "train.csv",
            code=2)  # fmt: skip
    assert Path("train.csv").read_bytes() == kept


def test_names_that_look_like_html_are_escaped(run_cli, write_csv):
    table = {**clean(), "<script>alert(1)</script>": [1] * ROWS}
    write_csv("train.csv", table)
    run_cli("validate-data", "--train", "train.csv", "--target", "y", "--output", "p.html")
    assert "<script>" not in Path("p.html").read_text("utf-8")
