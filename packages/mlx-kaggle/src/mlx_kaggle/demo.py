"""The demo: a real table as Kaggle would hand it out, then what a user would do with it."""

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np

from mlx_kaggle._atomic import write_atomic
from mlx_kaggle.errors import DataError

FOLDS = 3


def write_demo_data(folder: Path) -> dict[str, Path]:
    """Write scikit-learn's wine table as train.csv, test.csv, sample_submission.csv, answers.csv.

    178 Italian wines, 13 measurements, three cultivars (Forina et al., UCI); every fourth wine of
    a seeded shuffle is test.
    """
    from sklearn.datasets import load_wine

    wine: Any = load_wine()
    names = [name.replace("od280/od315_of_diluted_wines", "protein_od280_od315").replace("/", "_")
             for name in wine.feature_names]  # fmt: skip
    labels = [f"cultivar_{'ABC'[number]}" for number in wine.target]
    order = np.random.default_rng(0).permutation(len(labels))
    test = set(order[::4].tolist())
    rows: dict[str, list[dict[str, Any]]] = {"train": [], "test": [], "answers": []}
    for row, values in enumerate(wine.data[order]):
        position, label = int(order[row]), labels[order[row]]
        cells = {"Id": row + 1, **{n: f"{v:g}" for n, v in zip(names, values, strict=True)}}
        if position in test:
            rows["test"].append(cells)
            rows["answers"].append({**cells, "cultivar": label})
        else:
            rows["train"].append({**cells, "cultivar": label})
    rows["sample_submission"] = [{"Id": r["Id"], "cultivar": "cultivar_A"} for r in rows["test"]]
    texts = {folder / f"{name}.csv": _csv(found) for name, found in rows.items()}
    for path, text in texts.items():
        if path.exists() and path.read_text("utf-8") != text:
            raise DataError(f"{path}: is not the demo's, so it is kept; choose another --output")
    for path in (folder / "run", folder / "submission.csv"):
        if path.exists() and not (folder / "train.csv").exists():
            raise DataError(f"{path}: is not the demo's, so it is kept; choose another --output")
    folder.mkdir(parents=True, exist_ok=True)
    for path, text in texts.items():
        write_atomic(path, lambda temporary, text=text: temporary.write_text(text, "utf-8"))
    return {path.stem: path for path in texts}


def run_demo(output: Path, run_command: Callable[[list[str]], object]) -> None:
    """Write the data, then run `train`, `predict` and `evaluate` as a user would.

    `run_command` takes the arguments of one `mlx-kaggle` command.
    """
    files = write_demo_data(output)
    run, submission = output / "run", output / "submission.csv"
    click.echo(f"wrote {output}/train.csv, test.csv, sample_submission.csv: 178 real wines, 13")
    click.echo("measurements, which of three cultivars? (scikit-learn's bundled table)")
    steps = [
        ["train", "--train", files["train"], "--target", "cultivar", "--folds", FOLDS,
         "--output", run, "--overwrite"],
        ["predict", "--run", run, "--test", files["test"], "--output", submission],
        ["evaluate", "--run", run, "--data", files["answers"]],
    ]  # fmt: skip
    for step in steps:
        arguments = [str(each) for each in step]
        click.secho(f"\n$ mlx-kaggle {' '.join(arguments)}", bold=True)
        run_command(arguments)
    click.echo(
        f"\nscored above: the {len(_lines(files['test']))} wines of test.csv, not seen in training"
    )
    click.echo(f"submission: {submission}\nreport:     {run / 'report.html'}")


def _lines(path: Path) -> list[str]:
    return path.read_text("utf-8").splitlines()[1:]


def _csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
