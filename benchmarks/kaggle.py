"""Cross-validated scores, time and memory of mlx-kaggle on real tables.

    uv run benchmarks/kaggle.py --data DIR --minilm DIR [--only titanic-quick ...]
    uv run benchmarks/kaggle.py --data DIR --minilm DIR --only ag-news-quick-optimizers

`--data` holds `titanic/train.csv`, `house-prices/train.csv` and so on; `--minilm` a Hugging Face
folder of all-MiniLM-L6-v2. Each case is one `mlx-kaggle train` in a process of its own; a case
`-optimizers` is several, see `kaggle_optimizers.py`. Results are kept in
`docs/benchmarks/kaggle.json`, and `docs/benchmarks/kaggle.md` is written from all of them, so that
cases can be run one at a time.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import threading
import time
from importlib.metadata import version
from pathlib import Path

import kaggle_optimizers

DOCS = Path(__file__).parents[1] / "docs" / "benchmarks"

TABLES = {
    "titanic": ("titanic/train.csv", "Survived", ["--folds", "5"]),
    "house-prices": ("house-prices/train.csv", "SalePrice", ["--folds", "5"]),
    "penguins": ("penguins/penguins.csv", "species", ["--folds", "5"]),
    "nlp-disaster": ("nlp-disaster/train.csv", "target", []),
    # class_index is the answer as a number.
    "ag-news": (
        "ag-news/train.csv",
        "label",
        ["--val", "ag-news/test.csv", "--kind", "class_index=ignored"],
    ),
    "adult": ("adult/train.csv", "income", ["--val", "adult/test.csv"]),
    "diamonds": ("diamonds/diamonds.csv", "price", []),
}


CONSTANTS = ("majority", "training mean", "mean", "seasonal naive")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--minilm", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=[], metavar="TABLE-PRESET[-off]")
    parser.add_argument(
        "--rows",
        type=int,
        default=kaggle_optimizers.ROWS,
        help="training rows of -optimizers; fewer are a trial and keep nothing",
    )
    options = parser.parse_args()
    cases = options.only or ["titanic-quick", "titanic-standard", "house-prices-quick",
                             "house-prices-standard"]  # fmt: skip
    for case in cases:
        if case in kaggle_optimizers.CASES:
            found = kaggle_optimizers.compare(case, options, run_measured)
            found["machine"] = machine()
        else:
            found = run_case(case, options)
        print(case, json.dumps(found), flush=True)
        if case not in kaggle_optimizers.CASES or options.rows == kaggle_optimizers.ROWS:
            save(case, found)


def run_case(case: str, options: argparse.Namespace) -> dict:
    match = re.fullmatch(r"(.+)-(quick|standard)(-off)?", case)
    if not match or match[1] not in TABLES:
        raise SystemExit(
            f"{case}: expected TABLE-quick or TABLE-standard, with -off for no numeric features, "
            f"or {' or '.join(kaggle_optimizers.CASES)}; tables: {', '.join(TABLES)}"
        )
    table, preset, off = match.groups()
    file, target, split = TABLES[table]
    split = [str(options.data / each) if each.endswith(".csv") else each for each in split]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "mlx_kaggle.cli", "train", "--preset", preset,
                   "--train", str(options.data / file), "--target", target, *split,
                   "--members", "text,linear", "--output", f"{folder}/run"]  # fmt: skip
        if not split:
            command += ["--folds", "0"]
        if preset == "standard":
            command += ["--encoder", str(options.minilm)]
        if off:
            command += ["--numeric-features", "off"]
        started = time.monotonic()
        output, peak = run_measured(command)
        wall = time.monotonic() - started
        summary = json.loads(Path(folder, "run", "summary.json").read_text())
        submission = check_submission(Path(folder), (options.data / file).parent)
    expected = re.search(r"expected time: about (.+?) \(", output)
    return {
        **summary,
        "submission": submission,
        "expected": expected[1] if expected else "",
        "wall": round(wall, 1),
        "peak_gb": round(peak / 1e9, 2),
        "machine": machine(),
        "split": "5 folds" if "--folds" in split else "val file" if split else "20 % held out",
    }


def machine() -> str:
    return f"{platform.machine()} Linux, {os.cpu_count()} cores, mlx {version('mlx')}"


def check_submission(folder: Path, data: Path) -> str:
    """Predict the competition's test file; return what the command's own check said."""
    if not list(data.glob("*_submission.csv")):
        return ""
    paths = {"run": folder / "run", "test": data / "test.csv", "output": folder / "submission.csv"}
    flags = [part for name, path in paths.items() for part in (f"--{name}", str(path))]
    command = [sys.executable, "-m", "mlx_kaggle.cli", "predict", *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    line = done.stdout.splitlines()[-1]
    return line.replace(str(data), data.name).removeprefix("checked: ")


def run_measured(command: list[str]) -> tuple[str, int]:
    """Run; return what it printed and its peak resident memory in bytes."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend(process.stdout or []))
    reader.start()
    _, status, usage = os.wait4(process.pid, 0)
    reader.join()
    if status:
        raise SystemExit("".join(lines))
    return "".join(lines), usage.ru_maxrss * 1024


def save(case: str, found: dict) -> None:
    DOCS.mkdir(parents=True, exist_ok=True)
    path = DOCS / "kaggle.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    results[case] = found
    path.write_text(json.dumps(results, indent=1) + "\n")
    (DOCS / "kaggle.md").write_text(page(results))


def page(results: dict[str, dict]) -> str:
    lines = [
        "# mlx-kaggle on real tables",
        "",
        "Written by `benchmarks/kaggle.py`. Every model of a row is scored on the same rows, which",
        "none of them was trained on. `-off`: numeric columns reach the model as text only.",
        "`standard` is the real all-MiniLM-L6-v2. Ours learn the residual over the linear model.",
        "Time is the whole training command; expected is what it said at its start.",
        "",
        "| case | rows scored | metric | mlx-kaggle | HistGB | linear model | constant "
        "| by fold | time | expected | peak memory |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    tables = {case: each for case, each in results.items() if case not in kaggle_optimizers.CASES}
    for case, found in sorted(tables.items()):
        metric = found["metric"]
        scores = {name: values[metric] for name, values in found["scores"].items()}
        ours = scores.pop("text", scores.get("mlx-kaggle"))  # no members in earlier results
        trees = scores.pop("HistGradientBoosting", None)
        linear = scores.pop("linear", scores.get("linear model"))
        (constant,) = (scores[name] for name in CONSTANTS if name in scores)
        folds = found["fold_scores"]
        cells = [
            *(case, found["split"], metric, *map(_number, (ours, trees, linear, constant))),
            f"{min(folds):.4g} to {max(folds):.4g}" if len(folds) > 1 else "",
            *(f"{found['wall']:.0f} s", found["expected"], f"{found['peak_gb']:.1f} GB"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "Submissions, as `mlx-kaggle predict` checked them:", ""]
    lines += [f"- {case}: {found['submission']}" for case, found in sorted(tables.items())
              if found.get("submission")]  # fmt: skip
    lines += kaggle_optimizers.section(results)
    machines = sorted({found["machine"] for found in results.values()})
    return "\n".join([*lines, "", f"Machine: {'; '.join(machines)}.", ""])


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


if __name__ == "__main__":
    main()
