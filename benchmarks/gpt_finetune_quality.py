"""What fine-tuning is worth: dolly by LoRA and whole, and sums that the base model cannot do.

    uv run benchmarks/gpt_finetune_quality.py --base RUN --dolly DIR [--only dolly sums]

`--base` is a model folder or run, as of `mlx-gpt train`; `--dolly` holds train, valid and test
`.jsonl` files of chats. The sums are made here: two numbers below 100, digits apart, the answer
from its last digit on; no pair of the test is in the training, in either order. Each number is of
`mlx-gpt evaluate`, beside its simplest rivals. Results are kept in
`docs/benchmarks/gpt-finetune-quality.json`, and the page beside it is written from them.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from turns.processes import describe_machine

DOCS = Path(__file__).parent.parent / "docs" / "benchmarks"
RESULTS = DOCS / "gpt-finetune-quality.json"
RATES = {"lora": 2e-3, "full": 5e-4}
EPOCHS, BATCH_SIZES = {"dolly": 2, "sums": 6}, {"dolly": 8, "sums": 64}
TEST_SUMS = 300


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--dolly", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=["dolly", "sums"], choices=["dolly", "sums"])
    options = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    with tempfile.TemporaryDirectory() as temporary:
        for name in options.only:
            folder = options.dolly if name == "dolly" else make_sums(Path(temporary, "sums"))
            measured = measure(name, options.base, folder, Path(temporary))
            results[name] = measured | describe_machine("mlx", "mlx-fastcpu", "numpy")
            RESULTS.write_text(json.dumps(results, indent=1) + "\n")
            RESULTS.with_suffix(".md").write_text("\n".join(page(results)) + "\n")


def measure(name: str, base: Path, data: Path, folder: Path) -> dict:
    """Fine-tune by each method, and evaluate the base and the results on the test rows."""
    question = ["--perplexity"] if name == "dolly" else ["--exact-match"]
    test = [*question, str(data / "test.jsonl"), "--max-tokens", "16"]
    found: dict = {"base": {"evaluation": evaluate(base, test, folder / "base")}}
    for method, rate in RATES.items():
        run = folder / f"{name}-{method}"
        start = time.perf_counter()
        command("finetune", "--model", str(base), "--data", str(data / "train.jsonl"),
                "--valid", str(data / "valid.jsonl"), "--method", method, "--output", str(run),
                "--epochs", str(EPOCHS[name]), "--batch-size", str(BATCH_SIZES[name]),
                "--learning-rate", str(rate), "--max-tokens", "256")  # fmt: skip
        seconds = round(time.perf_counter() - start)
        found[method] = {"seconds": seconds, "evaluation": evaluate(run, test, folder / "result")}
    return found


def evaluate(model: Path, test: list[str], output: Path) -> dict:
    words = ["evaluate", "--model", str(model), *test, "--output", str(output), "--json"]
    found = json.loads(command(*words).strip().rpartition("\n")[2])
    return found | {"model": model.name}  # without the folders of this machine


def command(*arguments: str) -> str:
    words = [sys.executable, "-m", "mlx_gpt.cli", *arguments]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: exit {done.returncode}\n{done.stderr[-3000:]}")
    return done.stdout


def make_sums(folder: Path) -> Path:
    """Write sums of two numbers below 100 as completions: train, valid and test are disjoint."""
    folder.mkdir()
    pairs = [(a, b) for a in range(100) for b in range(a, 100)]
    random.Random(0).shuffle(pairs)
    parts = {"test": pairs[:TEST_SUMS], "valid": pairs[TEST_SUMS : TEST_SUMS + 100],
             "train": pairs[TEST_SUMS + 100 :]}  # fmt: skip
    for name, part in parts.items():
        rows = [row(a, b) for a, b in part]
        if name == "train":
            rows += [row(b, a) for a, b in part if a != b]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    return folder


def row(a: int, b: int) -> dict[str, str]:
    spread = [" ".join(f"{number:02d}") for number in (a, b)]
    return {"prompt": " + ".join(spread), "completion": " ".join(f"{a + b:03d}"[::-1])}


def page(results: dict[str, dict]) -> list[str]:
    lines = [
        "# mlx-gpt: what fine-tuning is worth",
        "",
        "Written by `benchmarks/gpt_finetune_quality.py`, from a small model that was pretrained",
        "on books. Every row of the test files counts. Times are on a machine that did other work",
        "beside.",
    ]
    if "dolly" in results:
        lines += ["", "## Answers of dolly, held out", "",
                  "| model | loss | perplexity | seconds |", "|---|---|---|---|"]  # fmt: skip
        for name, value, seconds in rows_of(results["dolly"], "perplexity"):
            lines.append(f"| {name} | {value['loss']:.4f} | {value['perplexity']:.2f} "
                         f"| {seconds} |")  # fmt: skip
    if "sums" in results:
        lines += ["", f"## Sums, {TEST_SUMS} pairs that were not trained on", "",
                  "| model | exact match | seconds |", "|---|---|---|"]  # fmt: skip
        for name, value, seconds in rows_of(results["sums"], "exact_match"):
            lines.append(f"| {name} | {value['accuracy']:.1%} | {seconds} |")
    return lines


def rows_of(part: dict, metric: str) -> list[tuple[str, dict, str]]:
    """Return name, numbers and seconds of the simplest rival, the base and what was made of it."""
    rival = {"perplexity": "unigram", "exact_match": "most_frequent"}[metric]
    first = part["base"]["evaluation"][metric][rival]
    rows = [(f"without a model: {rival.replace('_', ' ')}", first, "-")]
    for name in ("base", *RATES):
        found = part[name]["evaluation"][metric]
        rows.append((name, found, str(part[name].get("seconds", "-"))))
    return rows


if __name__ == "__main__":
    main()
