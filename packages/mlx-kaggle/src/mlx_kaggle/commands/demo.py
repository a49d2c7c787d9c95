"""`mlx-kaggle demo`: a real table in the form of a Kaggle competition, and the commands on it."""

import csv
import io
from pathlib import Path
from typing import Any

import click

from mlx_kaggle import DataError
from mlx_trainer import write_atomic

FOLDS = 3


@click.command()
@click.option("--output", type=click.Path(file_okay=False, path_type=Path), show_default=True,
              default=Path("mlx-kaggle-demo"), help="Folder to write.")  # fmt: skip
@click.pass_context
def demo(context: click.Context, output: Path) -> None:
    """Train, predict and evaluate on real data from scikit-learn: offline, two minutes."""
    files = write_demo_data(output)
    run, submission = output / "run", output / "submission.csv"
    click.echo(f"wrote {output}/train.csv, test.csv, sample_submission.csv: 178 real wines, 13")
    click.echo("measurements, which of three cultivars? (a table of scikit-learn)")
    steps = [
        ["train", "--train", files["train"], "--target", "cultivar", "--folds", FOLDS,
         "--output", run, "--overwrite"],
        ["predict", "--run", run, "--test", files["test"], "--output", submission],
        ["evaluate", "--run", run, "--data", files["answers"]],
    ]  # fmt: skip
    for step in steps:
        arguments = [str(each) for each in step]
        click.secho(f"\n$ mlx-kaggle {' '.join(arguments)}", bold=True)
        context.find_root().command.main(arguments, standalone_mode=False)
    rows = files["test"].read_text("utf-8").splitlines()[1:]
    click.echo(f"\nscored above: the {len(rows)} wines of test.csv, not seen in training")
    click.echo(f"submission: {submission}\nreport:     {run / 'report.html'}")


def write_demo_data(folder: Path) -> dict[str, Path]:
    """Write scikit-learn's wine table as train.csv, test.csv, sample_submission.csv, answers.csv.

    178 Italian wines, 13 measurements, three cultivars (Forina et al., UCI). The test table is
    every fourth wine of a seeded shuffle. Raises `DataError` rather than overwrite other files.
    """
    import numpy as np
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
    taken = [path for path, text in texts.items()
             if path.exists() and path.read_text("utf-8") != text]  # fmt: skip
    if not (folder / "train.csv").exists():
        taken += [path for name in ("run", "submission.csv") if (path := folder / name).exists()]
    if taken:
        raise DataError(f"{taken[0]}: not a file of the demo; choose another --output")
    folder.mkdir(parents=True, exist_ok=True)
    for path, text in texts.items():
        write_atomic(path, lambda temporary, text=text: temporary.write_text(text, "utf-8"))
    return {path.stem: path for path in texts}


def _csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
