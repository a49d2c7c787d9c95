"""Smaller encoders from MiniLM on ag-news: trimmed vocabulary, pruned parts, distilled students.

    uv run benchmarks/encoders_small.py --minilm DIR --data DIR [--rows 800] [--seeds 2]

`--minilm` is a folder of all-MiniLM-L6-v2, `--data` has ag-news/train.csv and test.csv. A teacher
is fine-tuned on the first rows; students of half its layers are trained on the same rows, with the
same number of updates. Writes docs/benchmarks/encoders-small.md; --quick writes nothing.
"""

import argparse
import csv
import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_flatten
from turns.processes import describe_machine

import mlx_fastcpu
from mlx_encoders import (
    BertForSequenceClassification,
    PretrainedModel,
    Tokenizer,
    compare_tokens,
    distillation_loss,
    hidden_state_loss,
    load,
    measure_importance,
    plan_batches,
    prune_heads,
    prune_units,
    sensitivity_loss,
    student_of,
    trim_vocabulary,
)
from mlx_trainer import TrainStep

DOCS = Path(__file__).parent.parent / "docs" / "benchmarks"
PACKAGES = ("mlx", "mlx-encoders", "mlx-fastcpu", "mlx-trainer", "scikit-learn")
BATCH, MAX_LENGTH, RATE, WARMUP = 32, 32, 1e-4, 0.1
STARTS = [0, 2, 4]  # the student's layers
BLOCK_ENDS = [1, 3, 5]  # the teacher's layers whose outputs they learn
TEMPERATURE, ALPHA = 2.0, 0.5
FULL = {"heads": 12, "units": 1536}

Rows = list[list[int]]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--minilm", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=800, help="of the training rows")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=2, help="of the students")
    parser.add_argument("--quick", action="store_true", help="64 rows, and no page")
    options = parser.parse_args()
    mx.set_default_device(mx.cpu)
    mlx_fastcpu.activate(threads=1, compiler_flags="native")
    train, targets = read(options.data / "ag-news" / "train.csv")
    test, test_targets = read(options.data / "ag-news" / "test.csv")
    if options.quick:
        train, targets, test, test_targets = train[:64], targets[:64], test[:64], test_targets[:64]
    lines = [HEADER.format(test=len(test))]
    rows = slice(options.rows)
    write(options, lines, vocabulary(options, train, targets, test, test_targets))
    teacher, found = teach(options, train[rows], targets[rows])
    write(options, lines, found(test, test_targets))
    parts = (teacher, options, train[rows], targets[rows], test, test_targets)
    write(options, lines, students(*parts))
    write(options, lines, pruning(*parts))


def write(options: argparse.Namespace, lines: list[str], found: list[str]) -> None:
    """Write the page with what was found so far."""
    lines += found
    machine = describe_machine(*PACKAGES)
    end = f"\n{machine['date']}, {machine['machine']}; {machine['versions']}.\n"
    if not options.quick:
        (DOCS / "encoders-small.md").write_text("".join([*lines, end]))


HEADER = """# Smaller encoders

Written by `benchmarks/encoders_small.py`: all-MiniLM-L6-v2 (6 layers of 384, 22.7 million
parameters) on ag-news, 4 classes; accuracy on {test} test texts of at most 32 tokens, whose
standard error is about 0.8 points.

"""


def read(path: Path) -> tuple[list[str], np.ndarray]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    texts = [f"{row['title']}. {row['description']}" for row in rows]
    return texts, np.array([int(row["class_index"]) - 1 for row in rows])


def say(lines: list[str], line: str) -> None:
    lines.append(line + "\n")
    print(line, flush=True)


def size(model: nn.Module) -> int:
    return sum(array.size for _, array in tree_flatten(model.parameters()))


def vocabulary(
    options: argparse.Namespace,
    train: list[str],
    targets: np.ndarray,
    test: list[str],
    test_targets: np.ndarray,
) -> list[str]:
    """Compare a logistic regression on mean hidden states before and after trimming."""
    from sklearn.linear_model import LogisticRegression

    lines: list[str] = []
    say(lines, f"## Vocabulary of the {len(train):,} training texts\n\nA logistic regression on "
        f"the mean hidden states of the first {min(options.rows, len(train)):,} texts. Tokens and "
        "lengths are those of the test texts, which trimming has not seen.\n\n"
        "| occurrences | tokens | parameters | MB, float32 | test texts with other tokens | mean "
        "length | unknown tokens | accuracy |\n|---|---|---|---|---|---|---|---|")  # fmt: skip
    model, tokenizer = load(options.minilm)
    rows = slice(options.rows)
    for count in (0, 1, 3):
        smaller, trimmed = model, tokenizer
        if count:
            smaller, trimmed, _ = trim_vocabulary(model, tokenizer, train, min_count=count)
        found = compare_tokens(tokenizer, trimmed, test)
        probe = LogisticRegression(C=10, max_iter=1000)
        probe.fit(embed(smaller, trimmed, train[rows]), targets[rows])
        accuracy = probe.score(embed(smaller, trimmed, test), test_targets)
        say(lines, f"| {count or 'all tokens'} | {trimmed.vocab_size:,} | {size(smaller):,} | "
            f"{size(smaller) * 4 / 1e6:.0f} | {found.changed:,} | {found.length_after:.1f} | "
            f"{found.unknown_after:.2%} | {accuracy:.2%} |")  # fmt: skip
    return lines


def embed(model: PretrainedModel, tokenizer: Tokenizer, texts: Sequence[str]) -> np.ndarray:
    """Return normalized means of hidden states."""
    ids = tokenizer.encode(texts, max_length=MAX_LENGTH)
    found = np.zeros((len(ids), model.config.hidden_size), np.float32)
    for batch in plan_batches([len(row) for row in ids], batch_size=64, shuffle=False):
        inputs = tokenizer.pad([ids[i] for i in batch.indices])
        valid = mx.array(inputs["attention_mask"])[..., None]
        with mlx_fastcpu.fast_ops():
            mean = mx.where(valid, model(**inputs), 0).sum(axis=1) / valid.sum(axis=1)
        found[batch.indices] = np.array(mean / mx.linalg.norm(mean, axis=-1, keepdims=True))
    return found


def fit(
    model: nn.Module,
    ids: Rows,
    targets: np.ndarray,
    tokenizer: Tokenizer,
    epochs: int,
    seed: int,
    loss: Callable[[nn.Module, dict], mx.array],
) -> float:
    """Train with AdamW, warmup and linear decay; return the seconds."""
    mx.random.seed(seed)
    lengths = [len(row) for row in ids]
    plans = [plan_batches(lengths, batch_size=BATCH, seed=seed, epoch=e) for e in range(epochs)]
    updates = sum(len(plan) for plan in plans)
    optimizer = optim.AdamW(0.0, weight_decay=0.01, bias_correction=True)
    model.train()
    mx.eval(model.parameters())
    step = TrainStep(model, optimizer, summed(loss), max_grad_norm=1.0, threads=2)
    start = time.perf_counter()
    for done, batch in enumerate(itertools.chain(*plans)):
        inputs = tokenizer.pad([ids[i] for i in batch.indices])
        rate = RATE * min((done + 1) / (WARMUP * updates), (updates - done) / updates)
        step([inputs | {"targets": targets[batch.indices]}], rate)
    model.eval()
    mx.eval(model.parameters())  # as teacher, it is no input of the compiled step
    return time.perf_counter() - start


def summed(loss: Callable[[nn.Module, dict], mx.array]) -> Callable:
    """Return the sum of losses and the number of rows, computed with fast layers."""

    def sums(model: nn.Module, batch: dict) -> tuple[mx.array, mx.array]:
        rows = len(batch["targets"])
        with mlx_fastcpu.fast_ops():
            return loss(model, batch) * rows, mx.array(rows)

    return sums


def hard_loss(model: nn.Module, batch: dict) -> mx.array:
    logits = model(batch["input_ids"], batch["attention_mask"])
    return nn.losses.cross_entropy(logits, batch["targets"], reduction="mean")


def teacher_loss(teacher: nn.Module) -> Callable[[nn.Module, dict], mx.array]:
    def loss(model: nn.Module, batch: dict) -> mx.array:
        inputs = batch["input_ids"], batch["attention_mask"]
        own, other = (each.bert.hidden_states(*inputs) for each in (model, teacher))
        logits = [each.head(states[-1]) for each, states in ((model, own), (teacher, other))]
        soft = distillation_loss(*logits, batch["targets"], temperature=TEMPERATURE, alpha=ALPHA)
        return soft + hidden_state_loss(own, other, BLOCK_ENDS, batch["attention_mask"])

    return loss


def accuracy(
    model: nn.Module, tokenizer: Tokenizer, texts: list[str], targets: np.ndarray
) -> tuple[float, float]:
    """Return the accuracy, and the seconds of 1,000 texts."""
    ids = tokenizer.encode(texts, max_length=MAX_LENGTH)
    right, start = 0, time.perf_counter()
    for batch in plan_batches([len(row) for row in ids], batch_size=64, shuffle=False):
        with mlx_fastcpu.fast_ops():
            logits = model(**tokenizer.pad([ids[i] for i in batch.indices]))
        right += int((np.array(logits.argmax(-1)) == targets[batch.indices]).sum())
    return right / len(ids), (time.perf_counter() - start) / len(ids) * 1000


def teach(
    options: argparse.Namespace, train: list[str], targets: np.ndarray
) -> tuple[BertForSequenceClassification, Callable[[list[str], np.ndarray], list[str]]]:
    """Fine-tune the teacher; return it, and a function that measures it and its trimmed self."""
    tokenizer = Tokenizer.from_folder(options.minilm)
    teacher = BertForSequenceClassification.from_pretrained(
        options.minilm, new=("classifier",), num_labels=4, attention_dropout=0.0
    )
    ids = tokenizer.encode(train, max_length=MAX_LENGTH)
    seconds = fit(teacher, ids, targets, tokenizer, options.epochs, 0, hard_loss)

    def measure(test: list[str], test_targets: np.ndarray) -> list[str]:
        lines: list[str] = []
        score, _ = accuracy(teacher, tokenizer, test, test_targets)
        smaller, trimmed, _ = trim_vocabulary(teacher, tokenizer, train)
        after, _ = accuracy(smaller, trimmed, test, test_targets)
        say(lines, f"\nFine-tuned on {len(train):,} texts, {options.epochs} epochs in "
            f"{seconds:.0f} s: {score:.2%}. Trimmed afterwards to the tokens of these texts, "
            f"{trimmed.vocab_size:,}: {after:.2%}.")  # fmt: skip
        return lines

    return teacher, measure


def pruning(
    teacher: BertForSequenceClassification, options: argparse.Namespace, train: list[str],
    targets: np.ndarray, test: list[str], test_targets: np.ndarray,
) -> list[str]:  # fmt: skip
    """Remove heads and units of the fine-tuned model, without training it again."""
    tokenizer, lines = Tokenizer.from_folder(options.minilm), []
    ids = tokenizer.encode(train[:128], max_length=MAX_LENGTH)
    batches = [
        {**{k: mx.array(v) for k, v in tokenizer.pad(ids[i : i + 16]).items()},
         "targets": mx.array(targets[i : i + 16])}
        for i in range(0, len(ids), 16)
    ]  # fmt: skip
    by_loss = measure_importance(teacher, hard_loss, batches)
    by_change = measure_importance(teacher, sensitivity_loss(), batches)
    rng = np.random.default_rng(0)
    ways = {
        "gradient of the task's loss": (by_loss.heads, by_loss.units),
        "change of the embedding, no labels": (by_change.heads, by_change.units),
        "norm of the weights": (None, None),
        "at random": (rng.random(by_loss.heads.shape), rng.random(by_loss.units.shape)),
    }
    cases = [("heads", 8), ("units", 1024), ("units", 512)]
    say(lines, "\n## Heads and feed-forward units\n\nAccuracy of the fine-tuned model right after "
        f"pruning, without further training, on {len(test) // 4} test texts. Importance is from "
        f"{len(ids)} training texts.\n\n| chosen by | "
        + " | ".join(f"{count} of {FULL[kind]} {kind}" for kind, count in cases)
        + " |\n|---|" + "---|" * len(cases))  # fmt: skip
    for name, (heads, units) in ways.items():
        scores = []
        for kind, count in cases:
            prune, importance = (prune_heads, heads) if kind == "heads" else (prune_units, units)
            smaller = prune(teacher, count, importance)
            scores.append(accuracy(smaller, tokenizer, test[::4], test_targets[::4])[0])
        say(lines, f"| {name} | " + " | ".join(f"{score:.2%}" for score in scores) + " |")
    sizes = [size((prune_heads if kind == "heads" else prune_units)(teacher, count))
             for kind, count in cases]  # fmt: skip
    say(
        lines, f"| parameters, of {size(teacher):,} | " + " | ".join(f"{n:,}" for n in sizes) + " |"
    )
    return lines


def students(
    teacher: BertForSequenceClassification, options: argparse.Namespace, train: list[str],
    targets: np.ndarray, test: list[str], test_targets: np.ndarray,
) -> list[str]:  # fmt: skip
    """Train students of three layers with and without the teacher."""
    tokenizer, lines = Tokenizer.from_folder(options.minilm), []
    ids = tokenizer.encode(train, max_length=MAX_LENGTH)
    fresh = BertForSequenceClassification.from_pretrained(
        options.minilm, new=("classifier",), num_labels=4, attention_dropout=0.0
    )
    score, seconds = accuracy(teacher, tokenizer, test, test_targets)
    say(lines, f"\n## Students of three layers\n\nLayers {STARTS} of 6, the same "
        f"{len(train):,} texts, {options.epochs} epochs each, temperature {TEMPERATURE:g}, "
        f"alpha {ALPHA:g}; mean of {options.seeds} seeds. The teacher has {score:.2%}, and needs "
        f"{seconds:.1f} s for 1,000 texts.\n\n| student | parameters | accuracy by seed | mean | "
        "s for 1,000 texts |\n|---|---|---|---|---|")  # fmt: skip
    ways = {
        "layers of the teacher, not trained": (teacher, None),
        "layers of MiniLM, labels": (fresh, hard_loss),
        "layers of the teacher, labels": (teacher, hard_loss),
        "layers of the teacher, soft targets and hidden states": (teacher, teacher_loss(teacher)),
        "layers of MiniLM, soft targets and hidden states": (fresh, teacher_loss(teacher)),
    }
    for name, (source, loss) in ways.items():
        scores = []
        for seed in range(options.seeds if loss else 1):
            student = student_of(source, STARTS)
            if loss:
                fit(student, ids, targets, tokenizer, options.epochs, 10 + seed, loss)
            score, seconds = accuracy(student, tokenizer, test, test_targets)
            scores.append(score)
        say(lines, f"| {name} | {size(student):,} | {', '.join(f'{s:.2%}' for s in scores)} | "
            f"{np.mean(scores):.2%} | {seconds:.1f} |")  # fmt: skip
    return lines


if __name__ == "__main__":
    main()
