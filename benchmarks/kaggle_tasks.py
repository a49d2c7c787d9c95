"""Every task of mlx-kaggle on a real table, through the command line, beside simple rivals.

    uv run benchmarks/kaggle_tasks.py --data DIR --minilm DIR [--only wine-corn adult ...]

`--data` holds `goemotions/train.csv`, `wine-quality/winequality-white.csv` and so on; `--minilm` a
Hugging Face folder of all-MiniLM-L6-v2. Each case is one `mlx-kaggle train` in a process of its
own. Results are kept in `docs/benchmarks/kaggle-tasks.json`, and `kaggle-tasks.md` is written from
all of them, so that cases can be run one at a time.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from kaggle import DOCS, machine

RESULTS = DOCS / "kaggle-tasks.json"
# Short texts and few epochs, so that all cases take half an hour on two cores.
FAST = ["--set", "text.numbers=value", "--set", "text.tta=1", "--set", "training.epochs=2"]
WINE = ["--train", "wine-quality/winequality-white.csv", "--target", "quality",
        *FAST]  # fmt: skip
ORDINAL = ("corn", "coral", "cumulative_logit", "cumulative_probit", "cross_entropy", "mse")
CASES: dict[str, list[str]] = {
    "goemotions": ["--train", "goemotions/train.csv", "--val", "goemotions/test.csv",
                   "--targets", "admiration:neutral", *FAST],
    "goemotions-minilm": ["--train", "goemotions/train.csv", "--val", "goemotions/test.csv",
                          "--targets", "admiration:neutral", "--preset", "standard",
                          "--set", "training.learning_rate=5e-4"],
    **{f"wine-{loss.replace('_', '-')}": [*WINE, "--task", "ordinal", "--loss", loss]
       for loss in ORDINAL},
    "wine-multiclass": [*WINE, "--task", "multiclass", "--metric", "quadratic_kappa"],
    "etth1": ["--train", "time-series/ETTh1-5000.csv", "--target", "OT", "--task", "forecast",
              "--time", "date", "--horizon", "24", *FAST],
    "bike-sharing": ["--train", "time-series/bike-sharing-day.csv", "--target", "cnt",
                     "--task", "forecast", "--time", "dteday", "--horizon", "7",
                     "--kind", "casual=ignored", "--kind", "registered=ignored"],
    "adult": ["--train", "adult/train.csv", "--val", "adult/test.csv", "--target", "income",
              "--metric", "roc_auc", *FAST],
    "diamonds-gaussian": ["--train", "diamonds/diamonds.csv", "--target", "price",
                          "--loss", "gaussian_nll", *FAST],
    "diamonds-quantile": ["--train", "diamonds/diamonds.csv", "--target", "price",
                          "--loss", "quantile", *FAST],
}  # fmt: skip
SECTIONS = {
    "goemotions": "Several labels: 28 emotions of a comment. `as trained` is a threshold of 0.5 "
    "for every label; the others choose one per label for macro F1, on other rows than those "
    "scored.",
    "wine": "Ordered classes: the quality of white wines, 3 to 9. `mse` is a regression on class "
    "numbers, `cross_entropy` unordered classes; all with cut points for quadratic kappa chosen "
    "on other rows than those scored. The last case is plain multiclass: the likeliest class. One "
    "wine in five is a copy of another, which gradient boosting profits from most.",
    "forecast": "Forecasts, against the value one season before.",
    "adult": "Two classes: area under the curve and calibration, before (`as trained`) and after "
    "the temperature.",
    "diamonds": "A number with an interval: the share of prices inside the 90 % interval, before "
    "(`as trained`) and after scaling its width on other rows than those scored; the interval "
    "score (width plus a penalty for misses) is less for a better interval.",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--minilm", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=list(CASES), choices=CASES, metavar="CASE")
    parser.add_argument("--set", nargs="*", default=[], help="settings of a trial, kept nowhere")
    options = parser.parse_args()
    for case in options.only:
        found = run_case(case, options)
        print(case, json.dumps(found), flush=True)
        if not options.set:
            save(case, found)


def run_case(case: str, options: argparse.Namespace) -> dict:
    flags = [str(options.data / each) if each.endswith(".csv") else each for each in CASES[case]]
    if "standard" in flags:
        flags += ["--encoder", str(options.minilm)]
    settings = [f"--set={each}" for each in options.set]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "mlx_kaggle.cli", "train", *flags, *settings,
                   "--members", "text,linear", *([] if "--val" in flags else ["--folds", "0"]),
                   "--json", "--output", f"{folder}/run"]  # fmt: skip
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True)
        seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"{case}: exit {done.returncode}\n{done.stderr[-3000:]}")
    values = json.loads(done.stdout.splitlines()[-1])
    return {**values, "seconds": round(seconds), "machine": machine()}


def save(case: str, found: dict) -> None:
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results = {name: each for name, each in {**results, case: found}.items() if name in CASES}
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    RESULTS.with_suffix(".md").write_text("\n".join(page(results)) + "\n")


def page(results: dict[str, dict]) -> list[str]:
    lines = [
        "# mlx-kaggle by task",
        "",
        "Written by `benchmarks/kaggle_tasks.py`. Every model of a table is scored on the same",
        "rows, which none of them was trained on; thresholds, cut points, temperatures and widths",
        "are chosen on other rows than those they are scored on, for the rivals too.",
    ]
    for section, text in SECTIONS.items():
        cases = {case: results[case] for case in CASES if section_of(case) == section
                 and case in results}  # fmt: skip
        if cases:
            lines += ["", f"## {section}", "", text]
        for case, found in cases.items():
            lines += ["", f"### {case}", "", f"`mlx-kaggle train {' '.join(CASES[case])}`", ""]
            lines += table(found["scores"])
            lines += ["", *(f"- stored: {line}" for line in found["decision"]),
                      f"- {found['seconds']} s on {found['machine']}"]  # fmt: skip
    return lines


def section_of(case: str) -> str:
    name = case.split("-")[0]
    return "forecast" if name in ("etth1", "bike") else name


def table(scores: dict[str, dict[str, float]]) -> list[str]:
    names = list(scores["mlx-kaggle"])
    rows = [
        [model, *(number(values.get(name)) for name in names)] for model, values in scores.items()
    ]
    rule = ["---"] * (len(names) + 1)
    return [f"| {' | '.join(row)} |" for row in (["model", *names], rule, *rows)]


def number(value: float | None) -> str:
    if value is None or value != value:
        return "-"
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:.0f}"


if __name__ == "__main__":
    main()
