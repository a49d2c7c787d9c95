"""Evaluate a model folder with all metrics; as a dict, a table and a file.

`evaluation.json` has the keys of the metrics that were computed:

    {"model": "runs/d4",
     "bits_per_byte": 1.23, "tokens": 102400, "held_out_tokens": "111,540",
     "core": {"score": 0.12, "tasks": {"arc_easy": {
         "type": "multiple_choice", "examples": 600,
         "accuracy": 0.31, "baseline": 0.25, "centered": 0.08}}},
     "chat": {"score": ..., "tasks": {..., "gsm8k": {"type": "generative", ...}}},
     "perplexity": {"loss": ..., "perplexity": ..., "bits_per_byte": ..., "unigram": {...}},
     "exact_match": {"accuracy": ..., "most_frequent": {...}, ...},
     "choices": {"accuracy": ..., "chance": ..., "most_frequent": {...}, "longest": ...},
     "seconds": 61.5}

Accuracies and baselines are in [0, 1]; a score is the mean of `centered`. If several answers to
GSM8K were sampled, its task has `"pass_at": {"1": ..., "2": ...}`.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mlx_gpt.data.documents import find_text
from mlx_gpt.data.supervision import Mask
from mlx_gpt.engine.engine import Engine
from mlx_gpt.evaluate.choice_tasks import ChoiceTask, evaluate_choice_task, read_choice_tasks
from mlx_gpt.evaluate.choices import evaluate_choices, read_choices
from mlx_gpt.evaluate.core import evaluate_core_task
from mlx_gpt.evaluate.core_tasks import CoreTask, read_core_tasks
from mlx_gpt.evaluate.descriptions import (
    describe_choices,
    describe_exact_match,
    describe_perplexity,
)
from mlx_gpt.evaluate.exact_match import AnswerKind, evaluate_exact_match, read_questions
from mlx_gpt.evaluate.gsm8k import evaluate_gsm8k, read_problems
from mlx_gpt.evaluate.metrics import TaskResult, bits_per_byte, mean_centered
from mlx_gpt.evaluate.perplexity import evaluate_perplexity, read_held_out
from mlx_gpt.models.adapters import apply_adapter, find_adapter, read_base
from mlx_gpt.models.files import find_model_folder, load
from mlx_gpt.models.formats import Decoder
from mlx_gpt.tokenizer.loading import AnyTokenizer, load_chat_tokenizer
from mlx_gpt.training.streams import count_tokens
from mlx_shards import Cache, StreamConfig, TokenStream
from mlx_trainer import Progress, rank, world_size, write_atomic

FILE_NAME = "evaluation.json"
_CACHE = "~/.cache/mlx-gpt/shards"
_DESCRIBE = {
    "perplexity": describe_perplexity,
    "exact_match": describe_exact_match,
    "choices": describe_choices,
}


@dataclass(frozen=True)
class EvaluationConfig:
    """Data and settings; `bpb` may also be the URL of a shard or hf:owner/name."""

    bpb: str | None = None
    core: Path | None = None
    chat: Path | None = None
    gsm8k: Path | None = None
    perplexity: tuple[Path, ...] = ()
    exact_match: Path | None = None
    choices: Path | None = None
    adapter: Path | None = None
    chat_template: str | None = None
    mask: Mask = "assistant"  # of `perplexity`
    answer: AnswerKind = "text"  # of `exact_match`
    limit: int | None = None  # rows of `perplexity`, `exact_match` and `choices`
    bpb_tokens: int = 80 * 2**19  # nanochat's
    oversize: Literal["split", "crop"] = "split"  # documents of `bpb` longer than a row
    max_per_task: int | None = None
    shots: int = 0  # for folders without core.yaml
    samples: int = 1  # answers to each problem of GSM8K
    max_tokens: int = 512  # of an answer to `gsm8k` or `exact_match`
    batch_size: int = 16
    seed: int = 0


def evaluate_folder(folder: Path, config: EvaluationConfig) -> dict[str, Any]:
    """Return the evaluation of a model or run folder; progress goes to stderr.

    All files are read and checked before the model is used. Under `mlx.launch` the ranks share the
    work and all get the result.
    """
    began = time.perf_counter()
    most = config.max_per_task
    core_tasks = read_core_tasks(config.core, most, config.shots) if config.core else []
    choice_tasks = read_choice_tasks(config.chat, most) if config.chat else []
    problems = read_problems(config.gsm8k, most) if config.gsm8k else []
    tokenizer = load_chat_tokenizer(_tokenizer_folder(folder), config.chat_template)
    rows = _read_rows(tokenizer, config)
    model, _ = load(folder)
    found: dict[str, Any] = {"model": str(folder)}
    if config.adapter:
        apply_adapter(model, config.adapter, folder)
        found["adapter"] = str(config.adapter)
    if config.bpb:
        found |= _bits_per_byte(model, tokenizer, config)

    def evaluate_task(
        evaluate: Callable[..., TaskResult], task: CoreTask | ChoiceTask
    ) -> TaskResult:
        with _progress(task.name, len(task.examples)) as advance:
            return evaluate(model, tokenizer, task, config.batch_size, advance)

    results = {
        "core": [evaluate_task(evaluate_core_task, task) for task in core_tasks],
        "chat": [evaluate_task(evaluate_choice_task, task) for task in choice_tasks],
    }
    if problems:
        with _progress("gsm8k", len(problems)) as advance:
            result = evaluate_gsm8k(
                Engine(model, tokenizer), problems, config.samples, config.max_tokens,
                config.batch_size, config.seed, advance,
            )  # fmt: skip
        results["chat"].append(result)
    for section, each in results.items():
        if each:
            tasks = {result.name: result.as_dict() for result in each}
            found[section] = {"score": mean_centered(each), "tasks": tasks}
    found |= _measure_rows(model, tokenizer, rows, config)
    return found | {"seconds": round(time.perf_counter() - began, 2)}


def format_table(found: dict[str, Any]) -> str:
    """Return an evaluation as text for a terminal."""
    parts = []
    if "bits_per_byte" in found:
        parts.append(
            f"bits per byte {found['bits_per_byte']:.4f} over {found['tokens']:,} of "
            f"{found['held_out_tokens']} held-out tokens"
        )
    for section, score in (("core", "CORE"), ("chat", "ChatCORE")):
        if section in found:
            parts.append(_section_table(found[section], score))
    parts += [describe(found[key]) for key, describe in _DESCRIBE.items() if key in found]
    return "\n\n".join(parts)


def _section_table(section: dict[str, Any], score: str) -> str:
    width = max(len(name) for name in [*section["tasks"], score])
    lines = [f"{'task':<{width}}  {'type':<17}      n  accuracy  baseline  centered"]
    for name, task in section["tasks"].items():
        numbers = "".join(f"{task[key]:>10.4f}" for key in ("accuracy", "baseline", "centered"))
        lines.append(f"{name:<{width}}  {task['type']:<17} {task['examples']:>6}{numbers}")
        lines += [f"  pass@{k} {value:.4f}" for k, value in task.get("pass_at", {}).items()]
    lines.append(f"{score:<{width}}  {'':<44}{section['score']:>10.4f}")
    return "\n".join(lines)


def save_evaluation(found: dict[str, Any], folder: Path) -> Path:
    """Write `evaluation.json` into a folder, created if needed; return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE_NAME
    write_atomic(path, lambda temporary: temporary.write_text(json.dumps(found, indent=2) + "\n"))
    return path


def _tokenizer_folder(folder: Path) -> Path:
    adapter = find_adapter(folder)
    if adapter is None:
        return find_model_folder(folder)
    has_one = (adapter / "tokenizer.json").is_file()
    return adapter if has_one else find_model_folder(read_base(adapter).model)


def _read_rows(tokenizer: AnyTokenizer, config: EvaluationConfig) -> dict[str, Any]:
    """Return the rows of perplexity, exact match and choices."""
    rows: dict[str, Any] = {}
    if config.perplexity:
        rows["perplexity"] = read_held_out(config.perplexity, tokenizer, config.mask, config.limit)
    if config.exact_match:
        rows["exact_match"] = read_questions(
            config.exact_match, tokenizer, config.answer, config.limit
        )
    if config.choices:
        rows["choices"] = read_choices(config.choices, config.limit)
    return rows


def _measure_rows(
    model: Decoder, tokenizer: AnyTokenizer, rows: dict[str, Any], config: EvaluationConfig
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if held_out := rows.get("perplexity"):
        with _progress("perplexity", len(held_out.rows)) as advance:
            found["perplexity"] = evaluate_perplexity(
                model, tokenizer, held_out, config.batch_size, advance
            )
    if "exact_match" in rows:
        questions, available = rows["exact_match"]
        with _progress("exact match", len(questions)) as advance:
            found["exact_match"] = {"available_questions": available} | evaluate_exact_match(
                Engine(model, tokenizer), questions, config.answer, config.max_tokens,
                config.batch_size, advance,
            )  # fmt: skip
    if "choices" in rows:
        task, available = rows["choices"]
        with _progress("choices", len(task.examples)) as advance:
            found["choices"] = {"available_questions": available} | evaluate_choices(
                model, tokenizer, task, config.batch_size, advance
            )
    return found


def _bits_per_byte(
    model: Decoder, tokenizer: AnyTokenizer, config: EvaluationConfig
) -> dict[str, Any]:
    assert config.bpb
    shards = find_text(config.bpb, note=_note)
    cache = None
    if not all(shard.local_path for shard in shards):
        cache = Cache(Path(_CACHE).expanduser(), max_bytes="20GB")
    # The same as the validation in pretraining, so that the numbers agree.
    stream_config = StreamConfig(
        model.config.sequence_len,
        config.batch_size,
        tokenizer.bos_id,
        oversize=config.oversize,
        shuffle=False,
        epochs=1,
        last_batch="pad",
    )
    stream = TokenStream(
        shards, tokenizer.encode_batch, stream_config, cache=cache,
        rank=rank(), world_size=world_size(), arrays="numpy",
    )  # fmt: skip
    at_once = config.batch_size * model.config.sequence_len * world_size()
    # In memory, because the progress bar needs their number: 8 bytes per token.
    batches = [
        (batch.inputs, batch.targets)
        for batch in islice(stream, max(1, -(-config.bpb_tokens // at_once)))
    ]
    stream.close()
    read = stream.stats.counts.tokens
    held_out = count_tokens(stream)
    with _progress("bits per byte", len(batches) * world_size()) as advance:

        def counted() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            for batch in batches:
                yield batch
                advance(1)

        value = bits_per_byte(model, counted(), tokenizer.token_bytes())
    return {"bits_per_byte": value, "tokens": read, "held_out_tokens": held_out.size}


def _note(line: str) -> None:
    if not rank():
        print(line, file=sys.stderr)


@contextmanager
def _progress(description: str, total: int) -> Iterator[Callable[[int], object]]:
    """Yield a function that advances a bar on rank 0 by its share of `total`."""
    if rank():
        yield lambda amount: None
        return
    with Progress(-(-total // world_size()), description) as progress:
        yield progress.advance
