"""Fine-tune a real MiniLM by one recipe in MLX and in transformers: score and time.

    uv run --with torch --with transformers benchmarks/encoders_finetune.py \
        --data DIR --minilm DIR [--only ag-news nlp-disaster]

`--data` has the folders ag-news and nlp-disaster with Kaggle's CSV files, `--minilm` is a folder of
all-MiniLM-L6-v2. Each variant is a process of its own; one runs at a time. All start from the same
weights, head included, see the same rows in each update and have the same schedule. Writes
docs/benchmarks/encoders-finetune.json and, from it, encoders-finetune.md.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from encoders.finetune_order import BATCH
from encoders.finetune_page import page
from turns.processes import describe_machine

DOCS = Path(__file__).parent.parent / "docs" / "benchmarks"
VARIANTS = ("transformers", "mlx, equal padding", "mlx, length buckets")
PACKAGES = ("mlx", "mlx-encoders", "mlx-fastcpu", "torch", "transformers", "scikit-learn")
CASES = {"ag-news": ("accuracy", 4), "nlp-disaster": ("f1", 2)}
RATE, WARMUP, WEIGHT_DECAY, MAX_LENGTH = 1e-4, 0.1, 0.01, 128


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--minilm", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rows", type=int, help="use the first training rows only")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        case, variant = options.worker
        print(json.dumps(run(case, variant, options)), flush=True)
        os._exit(0)  # not by returning: a thread with an MLX stream may be alive
    path = DOCS / "encoders-finetune.json"
    kept = json.loads(path.read_text()) if path.is_file() else {}
    for case in options.only:
        found = {"linear": linear(case, options)}
        print(case, "linear", found["linear"], flush=True)
        for variant in options.variants:
            command = [sys.executable, __file__, *sys.argv[1:], "--worker", case, variant]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found[variant] = json.loads(done.stdout.splitlines()[-1])
            print(case, variant, found[variant], flush=True)
        count = len(read(case, options)[0])
        facts = {"variants": found, "epochs": options.epochs, "rows": count}
        kept[case] = {**facts, **describe_machine(*PACKAGES)}
    path.write_text(json.dumps(kept, indent=1) + "\n")
    (DOCS / "encoders-finetune.md").write_text(page(kept))


def read(case: str, options: argparse.Namespace) -> tuple[list, list, np.ndarray, np.ndarray]:
    """Return training and test texts, and their classes; the last fifth of the tweets is held out.

    The tweets are shuffled first, and copies of one text stay on one side.
    """
    folder = options.data / case
    if case == "ag-news":
        train, test = rows(folder / "train.csv"), rows(folder / "test.csv")
        texts = [
            [f"{row['title']}. {row['description']}" for row in part] for part in (train, test)
        ]
        targets = [[int(row["class_index"]) - 1 for row in part] for part in (train, test)]
    else:
        found = rows(folder / "train.csv")
        distinct = sorted({row["text"].strip() for row in found})
        held = {
            distinct[i]
            for i in np.random.default_rng(0).permutation(len(distinct))[: len(distinct) // 5]
        }
        parts = [
            [row for row in found if (row["text"].strip() in held) == is_test]
            for is_test in (False, True)
        ]
        texts = [[row["text"] for row in part] for part in parts]
        targets = [[int(row["target"]) for row in part] for part in parts]
    limit = options.rows or len(texts[0])
    return texts[0][:limit], texts[1], np.array(targets[0][:limit]), np.array(targets[1])


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def linear(case: str, options: argparse.Namespace) -> dict:
    """Return score and seconds of TF-IDF of words and pairs with logistic regression."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    texts, test_texts, targets, test_targets = read(case, options)
    start = time.perf_counter()
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=4)
    )
    predicted = model.fit(texts, targets).predict(test_texts)
    seconds = time.perf_counter() - start
    return {"score": score(case, test_targets, predicted), "training": seconds}


def score(case: str, targets: np.ndarray, predicted: np.ndarray) -> float:
    from sklearn.metrics import accuracy_score, f1_score

    metric = accuracy_score if CASES[case][0] == "accuracy" else f1_score
    return float(metric(targets, predicted))


def run(case: str, variant: str, options: argparse.Namespace) -> dict:
    """Fine-tune and predict in this process; return score, losses and seconds."""
    texts, test_texts, targets, test_targets = read(case, options)
    classes = CASES[case][1]
    head = 0.02 * np.random.default_rng(1).standard_normal((classes, 384)).astype(np.float32)
    updates = options.epochs * -(-len(texts) // BATCH)
    schedule = [RATE * min((i + 1) / (WARMUP * updates), (updates - i) / updates)
                for i in range(updates)]  # fmt: skip
    if variant == "transformers":
        from encoders import finetune_torch as backend
    else:
        from encoders import finetune_mlx as backend
    return backend.run(
        options.minilm,
        (texts, targets, test_texts, lambda predicted: score(case, test_targets, predicted)),
        head,
        schedule,
        {"batch": BATCH, "max_length": MAX_LENGTH, "epochs": options.epochs,
         "weight_decay": WEIGHT_DECAY, "buckets": variant.endswith("buckets")},
    )  # fmt: skip


if __name__ == "__main__":
    main()
