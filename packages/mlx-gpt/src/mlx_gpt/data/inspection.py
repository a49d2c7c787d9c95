"""Inspect data before training on it: lengths, truncation, supervision, duplicates, padding."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from mlx_gpt.data.batching import padding_ratio, plan_epoch
from mlx_gpt.data.examples import (
    Example,
    Examples,
    Pair,
    read_examples,
    read_pairs,
    show_ignored,
)
from mlx_gpt.data.rows import iterate_rows
from mlx_gpt.data.supervision import Mask
from mlx_gpt.tokenizer.loading import AnyTokenizer

BATCH_SIZE = 8  # rows, for the share of padding
_MOST_PACKED = 8192  # tokens of a packed row
_CONTEXT_KEYS = ("sequence_len", "max_position_embeddings", "n_positions", "n_ctx")


@dataclass(frozen=True)
class Inspection:
    """What was found: a dict for each split, overlaps between splits, and what to look at."""

    splits: dict[str, dict[str, Any]]
    overlaps: list[dict[str, Any]]
    problems: list[str]
    example: Example  # the first row of the first split
    max_tokens: int | None

    def as_dict(self) -> dict[str, Any]:
        """Return the result for `--json`."""
        return {"max_tokens": self.max_tokens, "splits": self.splits, "overlaps": self.overlaps,
                "look_at": self.problems}  # fmt: skip


def inspect(
    files: Mapping[str, Sequence[Path]],
    tokenizer: AnyTokenizer,
    mask: Mask = "assistant",
    max_tokens: int | None = None,
) -> Inspection:
    """Return the inspection of each split; malformed rows are counted.

    A model reads at most `max_tokens` of a row; one more token is only a target, as in `finetune`.
    A preference counts as two rows. Raises `ValueError` if a split has no row to train on.
    """
    splits, rows, problems = {}, {}, []
    for name, paths in files.items():
        found = _read(paths, tokenizer, mask, max_tokens)
        rows[name] = found.rows
        splits[name] = _measure(found, max_tokens)
        problems += [f"{name}: {line}" for line in found.summary()]
        if twice := splits[name]["duplicates"]:
            problems.append(f"{name}: {twice:,} rows are copies of earlier ones")
    overlaps = []
    for one, other in ((a, b) for i, a in enumerate(rows) for b in list(rows)[i + 1 :]):
        overlap = {"splits": [one, other], **find_overlap(rows[one], rows[other])}
        overlaps.append(overlap)
        if overlap["rows"] or overlap["questions"]:
            problems.append(
                f"{overlap['rows']:,} rows of {other} are in {one} too, and of "
                f"{overlap['questions']:,} the question"
            )
    example = next(iter(rows.values()))[0]
    return Inspection(splits, overlaps, problems, example, max_tokens)


def find_overlap(one: Sequence[Example | Pair], other: Sequence[Example | Pair]) -> dict[str, int]:
    """Return how many rows of `other` are in `one`, and of how many the question is."""
    rows = {_key(each) for each in one}
    questions = {_question(each) for each in one} - {b""}
    return {
        "rows": sum(_key(each) in rows for each in other),
        "questions": sum(_question(each) in questions for each in other),
    }


def read_context(folder: Path) -> int | None:
    """Return the longest context of a model folder, None if its `config.json` names none."""
    for path in (folder / "config.json", folder / "model" / "config.json"):
        if path.is_file():
            config = json.loads(path.read_text(encoding="utf-8"))
            values = [config[key] for key in _CONTEXT_KEYS if isinstance(config.get(key), int)]
            return values[0] if values else None
    return None


def format_inspection(found: Inspection) -> str:
    """Return the inspection as text for a terminal."""
    lines = []
    for name, split in found.splits.items():
        layouts = ", ".join(f"{count:,} {layout}" for layout, count in split["layouts"].items())
        length, padded = split["length"], split["padded_per_real_token"]
        ignored = show_ignored(split["ignored_keys"])
        lines += [
            f"{name}",
            f"  rows        {split['rows']:,} of {split['read']:,} usable: {layouts}",
            f"  tokens      {split['tokens']:,}; of a row: median {length['median']:,}, 90 % up to "
            f"{length['p90']:,}, longest {length['max']:,}",
            f"  trained on  {split['trained_tokens']:,} tokens, {split['trained_share']:.1%}",
            f"  truncated   {split['truncated']:,} rows, {split['lost_tokens']:,} tokens lost",
            f"  copies      {split['duplicates']:,} rows",
            *([f"  ignored     keys: {ignored}"] if ignored else []),
            f"  padded per real token, {BATCH_SIZE} rows a batch: {padded['file_order']:.2f} in "
            f"file order, {padded['sorted']:.2f} sorted by length, {padded['packed']:.2f} packed",
        ]
    limit = found.max_tokens
    lines.append(
        f"rows are cut after {limit + 1:,} tokens: the model reads {limit:,}, the last one is only "
        "a target" if limit else "no limit of tokens"
    )  # fmt: skip
    return "\n".join(lines)


def _read(
    paths: Sequence[Path], tokenizer: AnyTokenizer, mask: Mask, max_tokens: int | None
) -> Examples[Example]:
    first = next((row.value for row in iterate_rows(paths[0]) if not row.problem), {})
    longest = None if max_tokens is None else max_tokens + 1
    if {"chosen", "rejected"} - set(first):
        return read_examples(paths, tokenizer, mask, longest, "skip")
    pairs = read_pairs(paths, tokenizer, longest, "skip")
    rows = [side for pair in pairs.rows for side in pair.sides]
    others = {name: value for name, value in vars(pairs).items() if name != "rows"}
    return Examples(rows, **others)


def _measure(found: Examples[Example], max_tokens: int | None) -> dict[str, Any]:
    lengths = np.array([len(each) for each in found.rows])
    trained = sum(int(each.trained.sum()) for each in found.rows)
    copies = Counter(each.ids.tobytes() for each in found.rows)
    total = int(lengths.sum())
    inputs = lengths - 1  # the last token of a row is only a target
    capacity = int(inputs.max()) if max_tokens is None else min(max_tokens, _MOST_PACKED)
    plans = {
        "sorted": plan_epoch(inputs, BATCH_SIZE, BATCH_SIZE * capacity),
        "packed": plan_epoch(inputs, BATCH_SIZE, BATCH_SIZE * capacity, capacity=capacity),
    }
    padded = {"file_order": _batched(inputs) / inputs.sum()}
    padded |= {name: padding_ratio(plan, inputs) for name, plan in plans.items()}
    return {
        "read": found.read,
        "rows": len(found.rows),
        "layouts": dict(found.layouts),
        "skipped": [{"where": where, "reason": reason} for where, reason in found.skipped],
        "without_target": found.without_target,
        "truncated": found.truncated,
        "lost_tokens": found.lost_tokens,
        "only_last_turn": found.only_last,
        "unpaired_surrogates": sum(found.surrogates),
        "ignored_keys": dict(found.ignored),
        "tokens": total,
        "length": {
            "median": int(np.median(lengths)),
            "p90": int(np.quantile(lengths, 0.9, method="higher")),
            "max": int(lengths.max()),
        },
        "trained_tokens": trained,
        "trained_share": trained / total,
        "duplicates": len(found.rows) - len(copies),
        "padded_per_real_token": {name: round(value, 4) for name, value in padded.items()},
    }


def _batched(lengths: np.ndarray) -> int:
    """Return the tokens of batches of consecutive rows, each padded to its longest row."""
    begins = [*range(0, len(lengths), BATCH_SIZE), len(lengths)]
    return sum(int(lengths[a:b].max()) * (b - a) for a, b in pairwise(begins))


def _key(row: Example | Pair) -> tuple[bytes, ...]:
    return tuple(each.ids.tobytes() for each in row.sides)


def _question(row: Example | Pair) -> bytes:
    """Return the tokens before the first trained one; empty for texts."""
    example = row.sides[0]
    begin = int(example.trained.argmax())
    return example.ids[:begin].tobytes() if begin > 1 else b""
