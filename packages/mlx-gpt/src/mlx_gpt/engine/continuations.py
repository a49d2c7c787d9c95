"""Continuations of prompts, for `mlx-gpt sample`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from mlx_gpt.engine.engine import Engine
from mlx_gpt.engine.requests import Completion, Request
from mlx_gpt.engine.sampling import Sampling
from mlx_gpt.tokenizer import AnyTokenizer


def read_prompts(path: Path) -> list[str]:
    """Return the lines of a file; `ValueError` if it is empty or not UTF-8."""
    try:
        prompts = [line for line in path.read_text("utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text: {error}") from error
    if not prompts:
        raise ValueError(f"{path} has no prompt")
    return prompts


def make_requests(
    tokenizer: AnyTokenizer,
    prompts: Sequence[str],
    samples: int,
    max_tokens: int,
    sampling: Sampling,
    stop: tuple[str, ...] = (),
) -> list[Request]:
    """Return `samples` requests per prompt, BOS first; request i has the seed + i."""
    requests: list[Request] = []
    for i, prompt in enumerate(prompts):
        settings = sampling
        if sampling.seed is not None:
            settings = replace(sampling, seed=(sampling.seed + i * samples) % 2**64)
        ids = [tokenizer.bos_id, *tokenizer.encode(prompt)]
        requests += Request(ids, max_tokens, settings, stop).repeat(samples)
    return requests


def stream_text(engine: Engine, prompt: str, request: Request) -> Iterator[str]:
    """Yield the prompt, then its continuation as it is generated."""
    yield prompt
    for piece in engine.stream([request]):
        yield piece.text


def format_completions(
    completions: Sequence[Completion], prompts: Sequence[str], samples: int, as_json: bool
) -> Iterator[str]:
    """Yield one text per completion: a JSON object, or a heading, the prompt and the text."""
    for i, completion in enumerate(completions):
        prompt = prompts[i // samples]
        if as_json:
            row = {"prompt": prompt, "text": completion.text, "tokens": len(completion.ids),
                   "finish_reason": completion.finish_reason}  # fmt: skip
            yield json.dumps(row, ensure_ascii=False)
        else:
            yield f"--- {i + 1} of {len(completions)}\n{prompt}{completion.text}"
