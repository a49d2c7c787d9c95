"""Tables of every kind and of every width, read by the same rules for training and test."""

import gzip
import json
import re
from pathlib import Path

import numpy as np
import pytest

from mlx_kaggle import DataError
from mlx_kaggle.members.batches import fit_text
from mlx_kaggle.report import count_kinds, shorten
from mlx_kaggle.settings.config import resolve_config
from mlx_kaggle.settings.sections import DataSettings
from mlx_kaggle.tables.columns import check_columns
from mlx_kaggle.tables.files import find_companion_files, read_tables
from mlx_kaggle.tables.infer import infer_competition
from mlx_kaggle.tables.splits import row_hashes
from mlx_kaggle.tables.targets import Target
from mlx_tabtext import Column, RowFeatures, as_table, infer_schema


def understood(path, target: str):
    data = DataSettings(train=str(path), target=target)
    tables = read_tables(data)
    return infer_competition(data, tables), tables


def write_parquet(path: Path, columns: dict[str, list]) -> str:
    import pyarrow
    from pyarrow.parquet import write_table

    write_table(pyarrow.table(columns), path)
    return str(path)


def write_lines(path: Path, columns: dict[str, list]) -> str:
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def typed(columns: dict[str, list]) -> dict[str, list]:
    return {name: [None if c == "" else c for c in cells] for name, cells in columns.items()}


def test_a_table_means_the_same_in_any_file(passengers, write_csv, tmp_path):
    table = passengers(60)
    found, tables = understood(write_csv("train.csv", table), "Survived")
    for path in (
        write_parquet(tmp_path / "typed.parquet", typed(table)),
        write_lines(tmp_path / "lines.jsonl", typed(table)),
    ):
        other, read = understood(path, "Survived")
        assert other == found
        names = [column.name for column in found.schema.features]
        assert (row_hashes(read.train, names) == row_hashes(tables.train, names)).all()
        encoded = Target(other).encode(read.train)
        np.testing.assert_array_equal(encoded, table["Survived"])


def test_files_beside_train_are_found_with_any_ending(passengers, write_csv, tmp_path):
    train = write_parquet(tmp_path / "train.parquet", typed(passengers(40)))
    test = write_csv("test.csv", passengers(9, seed=1))
    sample = tmp_path / "sampleSubmission.csv.gz"
    sample.write_bytes(gzip.compress(b"PassengerId,Survived\n1,0\n"))
    data = DataSettings(train=train, target="Survived")
    assert find_companion_files(data) == {"test": test, "sample_submission": str(sample)}
    assert read_tables(data).sample_submission == {"PassengerId": ["1"], "Survived": ["0"]}
    alike = write_parquet(tmp_path / "test.parquet", typed(passengers(8, seed=2)))
    assert find_companion_files(data)["test"] == alike
    assert len(read_tables(data).test["Sex"]) == 8


def test_a_target_of_written_numbers_is_a_regression(write_csv):
    cells = [f"${1000 + 7 * row:,}.50" for row in range(80)]
    found, tables = understood(
        write_csv("train.csv", {"x": list(range(80, 0, -1)), "y": cells}), "y"
    )
    assert (found.task, found.schema["y"].number_format) == ("regression", "$1,234.5")
    values = Target(found, "train.csv").encode(tables.train)
    np.testing.assert_array_equal(values, [1000.5 + 7 * row for row in range(80)])
    with pytest.raises(DataError) as caught:
        Target(found, "val.csv").encode({"y": ["$1,000.50", "12,5"]})
    assert str(caught.value) == (
        "val.csv, row 3: y is '12,5', not a number written as $1,234.5, as in the training data"
    )


def test_an_infinite_target_is_refused_with_its_row(write_csv):
    cells = [*(f"{row}.5" for row in range(80)), "inf"]
    found, tables = understood(
        write_csv("train.csv", {"x": list(range(81, 0, -1)), "y": cells}), "y"
    )
    assert found.task == "regression"
    with pytest.raises(DataError) as caught:
        Target(found, "train.csv").encode(tables.train)
    assert str(caught.value) == "train.csv, row 82: y is 'inf', not a number"


def test_the_training_rule_reads_the_test_table_and_the_rest_is_counted(write_csv):
    train = {
        "price": [f"{row},5" for row in range(40)],
        "when": [f"{1 + row % 28}.3.2012" for row in range(40)],
        "y": [0, 1] * 20,
    }
    found, tables = understood(write_csv("train.csv", train, separator=";"), "y")
    assert found.schema["price"].reason == "40 distinct values, '0,5' is read as 0.5"
    test = {"price": ["7,5", "$4", "inf", "12.5"], "when": ["1.3.2012", "", "2012-03-01", ""]}
    assert check_columns(found, test, "test.csv") == [
        "test.csv: column 'price': 3 cells are not a finite number written as 1.234,5 (first: row "
        "3, '$4') and missing as a number",
        "test.csv: column 'when': 1 cell is not a date written as %d.%m.%Y (first: row 4, "
        "'2012-03-01') and missing as a number",
    ]
    features = RowFeatures.fit(found.schema, tables.train)
    (price,) = [scale for scale in features.scales if scale.number.name == "price"]
    assert price.mean == np.mean([row + 0.5 for row in range(40)])
    again = RowFeatures.from_dict(json.loads(json.dumps(features.to_dict())))
    matrix = again.transform(test)
    assert np.isfinite(matrix).all()
    assert matrix[0, 0] == pytest.approx((7.5 - price.mean) / price.deviation)
    assert matrix[1:, 0].tolist() == [0, 0, 0]


def test_a_tokenizer_learns_only_what_the_model_can_read(write_csv, tiny):
    prose = ["seen words first " * 30 + "hidden " * 200 for _ in range(30)]
    long_word = {**dict(enumerate(prose)), 7: "seen " + "ab" * 100_000}
    table = as_table({"note": list(long_word.values()), "y": [0, 1] * 15})
    schema = infer_schema(table, target="y", kinds={"note": "text"})
    config = resolve_config("quick", flags={"data.target": "y"}, overrides=tiny)
    data = DataSettings(train=write_csv("train.csv", table), target="y", kinds={"note": "text"})
    competition = infer_competition(data, read_tables(data))
    assert competition.schema == schema
    tokenizer, text = fit_text(config, competition, table, np.array(table["y"]))
    vocabulary = tokenizer.backend.get_vocab()
    assert "seen" in vocabulary
    assert not any("hidden".startswith(token) and len(token) > 1 for token in vocabulary)
    # All but the long word, which WordPiece reads as one unknown token.
    assert str(text.report).startswith("29 of 30 rows shortened to the token budget")


def test_a_wide_table_is_shown_on_a_screen_and_said_in_full(
    run_cli, write_csv, tmp_path, tiny_flags
):
    rng = np.random.default_rng(0)
    table = {f"number {n}": np.round(rng.normal(size=40), 3).tolist() for n in range(150)}
    table |= {f"colour {n}": rng.choice(["red", "blue"], 40).tolist() for n in range(20)}
    table["a name of " + "very " * 20 + "many words"] = list(range(40, 0, -1))
    table["y"] = [0, 1] * 20
    done = run_cli(
        *("train", "--target", "y", "--train", write_csv("train.csv", table), "--output", "run"),
        *("--folds", 0, "--set", "training.epochs=1", *tiny_flags),
    )
    more = "142 more columns: 121 numeric, 20 categorical, 1 target"
    assert f"... and {more}; all in competition.json of the run folder" in done.stdout
    assert len(done.stdout.splitlines()) < 70
    assert (
        len(json.loads((tmp_path / "run/competition.json").read_text())["schema"]["columns"]) == 172
    )
    report = (tmp_path / "run" / "report.html").read_text()
    assert len(re.findall("<td[^>]*>numeric</td>", report)) == 151
    assert max(map(len, report.splitlines())) < 60_000


def test_long_lists_and_names_are_cut_with_a_count():
    columns = [Column(f"c{n}", "numeric", "c") for n in range(1900)]
    columns += [Column(f"d{n}", "categorical", "d") for n in range(62)]
    assert count_kinds(columns) == "1,962 more columns: 1,900 numeric, 62 categorical"
    assert count_kinds(columns[:1]) == "1 more column: 1 numeric"
    assert shorten("short", 5) == "short"
    assert shorten("x" * 1010, 10) == "xxxxxxxxxx... (1,000 more characters)"
