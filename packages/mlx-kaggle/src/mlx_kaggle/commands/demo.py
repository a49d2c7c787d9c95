"""`mlx-kaggle demo`: a real table in the form of a Kaggle competition, and the commands on it."""

import contextlib
import csv
import io
import json
import shlex
from pathlib import Path
from typing import Any

import click

from mlx_kaggle import DataError
from mlx_kaggle.commands.options import AS_JSON, CONFIG, DRY_RUN, SET
from mlx_kaggle.settings.config import MAX_SEED
from mlx_trainer import write_atomic

FOLDS = 3


@click.command()
@click.option("--output", type=click.Path(file_okay=False, path_type=Path), show_default=True,
              default=Path("mlx-kaggle-demo"), help="Folder to write.")  # fmt: skip
@CONFIG
@SET
@click.option("--seed", type=click.IntRange(0, MAX_SEED), default=0, show_default=True,
              help="Seed of the training.")  # fmt: skip
@DRY_RUN
@AS_JSON
@click.pass_context
def demo(
    context: click.Context,
    output: Path,
    config: str | None,
    overrides: tuple[str, ...],
    seed: int,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Train, predict and evaluate on real data from scikit-learn: offline, two minutes."""
    files, run, submission = demo_files(output), output / "run", output / "submission.csv"
    settings = [*(["--config", config] if config else []), "--seed", seed]
    settings += [part for each in overrides for part in ("--set", each)]
    train, test, answers = (output / f"{name}.csv" for name in ("train", "test", "answers"))
    steps = [
        ["train", "--train", train, "--target", "cultivar", "--folds", FOLDS,
         "--output", run, "--overwrite", *settings],
        ["predict", "--run", run, "--test", test, "--output", submission],
        ["evaluate", "--run", run, "--data", answers],
    ]  # fmt: skip
    lines = [shlex.join(["mlx-kaggle", *map(str, step)]) for step in steps]
    if dry_run:
        _plan(files, lines, as_json)
        return
    _write(files)
    click.echo(f"wrote {output}/train.csv, test.csv, sample_submission.csv: 178 real wines, 13\n"
               "measurements, which of three cultivars? (a table of scikit-learn)",
               err=as_json)  # fmt: skip
    found = {}
    for step, line in zip(steps, lines, strict=True):
        click.secho(f"\n$ {line}", bold=True, err=as_json)
        found[str(step[0])] = _run(context, [str(each) for each in step], as_json)
    if as_json:
        click.echo(json.dumps({"folder": str(output), **found}))
        return
    rows = files[test].splitlines()[1:]
    click.echo(f"\nscored above: the {len(rows)} wines of test.csv, not seen in training")
    click.echo(f"submission: {submission}\nreport:     {run / 'report.html'}")


def _run(context: click.Context, arguments: list[str], as_json: bool) -> Any:
    """Run a command; with `as_json` return its document instead of printing it."""
    cli = context.find_root().command
    if not as_json:
        cli.main(arguments, standalone_mode=False)
        return None
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        cli.main([*arguments, "--json"], standalone_mode=False)
    return json.loads(printed.getvalue())


def _plan(files: dict[Path, str], commands: list[str], as_json: bool) -> None:
    from mlx_kaggle.dry_run import plan_file, show_plan

    sizes = {str(path): len(text.encode()) for path, text in files.items()}
    writes = [f"{plan_file(path)}: {sizes[str(path)]:,} bytes" for path in files]
    show_plan([*writes, *(f"run {each}" for each in commands)], as_json, files=sizes)


def write_demo_data(folder: Path) -> list[Path]:
    """Write the files of `demo_files`."""
    files = demo_files(folder)
    _write(files)
    return list(files)


def _write(files: dict[Path, str]) -> None:
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, lambda temporary, text=text: temporary.write_text(text, "utf-8"))


def demo_files(folder: Path) -> dict[Path, str]:
    """Return scikit-learn's wine table as train.csv, test.csv, sample_submission.csv, answers.csv.

    178 Italian wines, 13 measurements, three cultivars (Forina et al., UCI). The test table is
    every fourth wine of a seeded shuffle. Raises `DataError` for other files in the folder.
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
    return texts


def _csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
