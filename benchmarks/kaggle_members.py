"""Every table through one `mlx-kaggle train` without hand-made settings: members, blend, rivals.

    uv run benchmarks/kaggle_members.py --data DIR [--minilm DIR] [--only titanic adult ...]

`--data` holds `titanic/train.csv`, `adult/train.csv` and so on; `--minilm` is a Hugging Face folder
of all-MiniLM-L6-v2, for the cases that name it. Each case is a process of its own; if a test file
has answers, `mlx-kaggle evaluate` scores it. Results are kept in
`docs/benchmarks/kaggle-members.json`, and the page beside it is written from all of them, so that
cases can be run one at a time.
"""

import argparse
import csv
import json
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from kaggle import DOCS, machine

RESULTS = DOCS / "kaggle-members.json"


@dataclass(frozen=True)
class Case:
    """Flags of `train`, the test file with answers, and the score to reach."""

    flags: tuple[str, ...]
    test: str = ""
    aim: str = ""
    minilm: bool = False


def forecast(file: str, target: str, when: str, horizon: int) -> Case:
    flags = ("--task", "forecast", "--time", when, "--horizon", str(horizon))
    return Case(("--train", f"time-series/{file}.csv", "--target", target, *flags))


CASES = {
    "titanic": Case(("--preset", "titanic", "--train", "titanic/train.csv"), aim=">= 0.845"),
    "house-prices": Case(("--preset", "house-prices", "--train", "house-prices/train.csv"),
                         aim="<= 0.117"),
    "adult": Case(("--preset", "quick", "--train", "adult/train.csv", "--target", "income"),
                  "adult/test.csv", ">= 0.873 on the test file"),
    "adult-without-names": Case(("--train", "adult-without-names/train.csv", "--target", "c14"),
                                "adult-without-names/test.csv"),
    "diamonds": Case(("--train", "diamonds/diamonds.csv", "--target", "price"), aim="<= 545"),
    "wine-red": Case(("--preset", "wine", "--train", "wine-quality/winequality-red.csv"),
                     aim="above HistGradientBoosting"),
    "wine-white": Case(("--preset", "wine", "--train", "wine-quality/winequality-white.csv"),
                       aim="above HistGradientBoosting"),
    "penguins": Case(("--train", "penguins/penguins.csv", "--target", "species")),
    "nlp-disaster": Case(("--preset", "nlp-disaster", "--train", "nlp-disaster/train.csv"),
                         aim=">= 0.77"),
    "nlp-disaster-minilm": Case(("--preset", "nlp-disaster", "--train", "nlp-disaster/train.csv"),
                                aim=">= 0.81", minilm=True),
    "ag-news": Case(("--preset", "quick", "--train", "ag-news/train.csv", "--target", "label"),
                    "ag-news/test.csv"),
    "ag-news-minilm": Case(("--train", "ag-news/train.csv", "--target", "label"),
                           "ag-news/test.csv", ">= 0.90", minilm=True),
    "goemotions": Case(("--preset", "quick", "--train", "goemotions/train.csv",
                        "--targets", "admiration:neutral"), "goemotions/test.csv"),
    "bike-sharing": Case(("--preset", "quick", "--train", "time-series/bike-sharing-day.csv",
                          "--target", "cnt", "--metric", "rmsle")),
    "airline": forecast("airline-passengers", "Passengers", "Month", 12),
    "temperatures": forecast("daily-min-temperatures", "Temp", "Date", 7),
    "etth1": forecast("ETTh1-5000", "OT", "date", 24),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--minilm", type=Path)
    parser.add_argument("--only", nargs="*", default=list(CASES), choices=CASES, metavar="CASE")
    parser.add_argument("--set", nargs="*", default=[], help="settings of a trial, kept nowhere")
    parser.add_argument("--keep", type=Path, help="folder for the run folders")
    options = parser.parse_args()
    for name in options.only:
        if CASES[name].minilm and not options.minilm:
            print(f"{name}: left out; give --minilm DIR", flush=True)
            continue
        found = run_case(name, options)
        print(name, found["answer"], found["score"], found.get("test"), flush=True)
        if not options.set:
            save(name, found)


def run_case(name: str, options: argparse.Namespace) -> dict:
    case = CASES[name]
    with tempfile.TemporaryDirectory() as temporary:
        data, folder = options.data, Path(options.keep or temporary)
        if name == "adult-without-names":
            data = nameless(options.data / "adult", Path(temporary))
        flags = [str(data / each) if each.endswith(".csv") else each for each in case.flags]
        encoder = str(options.minilm) if case.minilm else "scratch"
        settings = [f"--set={each}" for each in options.set]
        run = str(folder / name)
        start = time.perf_counter()
        found = command("train", *flags, "--encoder", encoder, *settings, "--json",
                        "--output", run, "--overwrite")  # fmt: skip
        found["seconds"], found["machine"] = round(time.perf_counter() - start), machine()
        if case.test:
            found["test"] = command("evaluate", "--run", run, "--data", str(data / case.test),
                                    "--json")  # fmt: skip
    return found


def command(*arguments: str) -> dict:
    words = [sys.executable, "-m", "mlx_kaggle.cli", *arguments]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: exit {done.returncode}\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def nameless(source: Path, folder: Path) -> Path:
    """Write the tables of `source` with the columns c0, c1, ...: one never seen before."""
    target = folder / "adult-without-names"
    target.mkdir(exist_ok=True)
    for file in ("train.csv", "test.csv"):
        with (source / file).open(newline="") as read, (target / file).open("w") as write:
            rows = csv.reader(read)
            header = next(rows)
            csv.writer(write, lineterminator="\n").writerows(
                [[f"c{at}" for at in range(len(header))], *rows]
            )
    return folder


def save(name: str, found: dict) -> None:
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results = {**results, name: found}
    results = {each: results[each] for each in CASES if each in results}
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    RESULTS.with_suffix(".md").write_text("\n".join(page(results)) + "\n")


def page(results: dict[str, dict]) -> list[str]:
    lines = [
        "# mlx-kaggle: members and blends",
        "",
        "Written by `benchmarks/kaggle_members.py`. One `mlx-kaggle train` a table, with the",
        "flags shown and no other settings. Scores are out of fold, on the same five folds for all",
        "(forecasts: five blocks of time). `answer` is what predicts, a blend with weights of the",
        "other folds or one member; `nested` repeats the choice too without the scored rows.",
        "`HistGB` is scikit-learn's with its defaults, on the columns as they are. `test` is the",
        "given test file with its answers. Times are on a machine that did other work beside.",
        "",
        "| table | metric | answer | nested | best member | HistGB | constant | test | aim |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, found in results.items():
        members = found["members"]
        constant = next(each for each in ("majority", "training mean", "seasonal naive")
                        if each in members)  # fmt: skip
        sign = -1 if found["greater_is_better"] else 1
        rivals = {each: values["score"] for each, values in members.items()
                  if each not in (constant, "HistGradientBoosting")}  # fmt: skip
        best = min(rivals, key=lambda each: sign * rivals[each])
        cells = [name, found["metric"], shown(answer_score(found)), shown(found["score"]),
                 f"{shown(rivals[best])} {best}",
                 shown(members["HistGradientBoosting"]["score"]),
                 shown(members[constant]["score"]),
                 shown(found["test"][found["metric"]]) if "test" in found else "",
                 CASES[name].aim]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    for name, found in results.items():
        encoder = " --encoder all-MiniLM-L6-v2" if CASES[name].minilm else ""
        flags = " ".join(CASES[name].flags) + encoder
        lines += ["", f"## {name}", "", f"`mlx-kaggle train {flags}`", "",
                  f"The answer: {found['answer']}.", "",
                  "| member | score | std. error | weight | loss without | time |",
                  "|---|---|---|---|---|---|"]  # fmt: skip
        for each, values in found["members"].items():
            weight = f"{values['weight']:.2f}" if values["weight"] else "-"
            known = values["weight"] and values["loss_without"] is not None
            lost = f"{values['loss_without']:+.2%}" if known else "-"
            lines.append(f"| {each} | {shown(values['score'])} | {shown(values['standard_error'])} "
                         f"| {weight} | {lost} | {values['seconds']:.0f} s |")  # fmt: skip
        # A run that was paused has no time.
        time_taken = f"{found['seconds']} s" if found["seconds"] else "not timed"
        lines += ["", *(f"- {note}" for note in found["notes"]),
                  f"- {time_taken} on {found['machine']}"]  # fmt: skip
    return lines


def answer_score(found: dict) -> float:
    """Return the score out of fold of what predicts: a blend, a member or the constant."""
    chosen = re.search(r"^the blend \((\w+)\)|^one member alone is best: ([^,]+)|\((.+)\):",
                       found["answer"])  # fmt: skip
    name = next(each for each in chosen.groups() if each)
    return found["blend_scores"][name]


def shown(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 100 else f"{value:.1f}"


if __name__ == "__main__":
    main()
