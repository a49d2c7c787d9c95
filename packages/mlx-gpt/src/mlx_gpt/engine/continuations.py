"""Prompts and their continuations, for `mlx-gpt generate`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlx_gpt.data.conversation import render_for_completion
from mlx_gpt.engine.engine import Engine
from mlx_gpt.engine.requests import Completion, Request
from mlx_gpt.engine.sampling import Sampling
from mlx_gpt.tokenizer import AnyTokenizer, PretrainedTokenizer, encode_prompt

Messages = list[dict[str, Any]]
Prompt = str | Messages


def read_prompts(path: Path) -> list[Prompt]:
    """Return the lines of a text file, or each row's `prompt` or `messages` of a `.jsonl` file.

    Raises `ValueError` if there is none or if it is not UTF-8, with the line of a wrong row.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text: {error}") from error
    numbered = [(i + 1, line) for i, line in enumerate(lines) if line.strip()]
    if not numbered:
        raise ValueError(f"{path} has no prompt")
    if path.suffix != ".jsonl":
        return [line for _, line in numbered]
    return [_read_row(line, f"{path}:{number}") for number, line in numbered]


def _read_row(line: str, where: str) -> Prompt:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where}: not JSON: {error}") from None
    if isinstance(row, Mapping):
        if isinstance(prompt := row.get("prompt"), str):
            return prompt
        messages = row.get("messages")
        if isinstance(messages, list) and all(isinstance(each, dict) for each in messages):
            return messages
    raise ValueError(f"{where}: expected a text under prompt, or a list under messages")


def encode(tokenizer: AnyTokenizer, prompt: Prompt, chat: bool, system: str | None) -> list[int]:
    """Return the ids of a prompt: of a text to continue, or of a conversation to answer.

    With `chat` a text is a user's message; `system` is the message before a conversation.
    """
    if isinstance(prompt, str):
        if not chat:
            return tokenizer.prompt_ids(prompt)
        prompt = [{"role": "user", "content": prompt}]
    if system is not None:
        prompt = [{"role": "system", "content": system}, *prompt]
    return chat_ids(tokenizer, prompt)


def chat_ids(tokenizer: AnyTokenizer, messages: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return the ids after which the answer to a conversation begins, in the model's format."""
    if isinstance(tokenizer, PretrainedTokenizer):
        return encode_prompt(tokenizer, messages)
    return render_for_completion(tokenizer, {"messages": list(messages)})


def make_requests(
    prompts: Sequence[Sequence[int]],
    samples: int,
    max_tokens: int,
    sampling: Sampling,
    stop: tuple[str, ...] = (),
) -> list[Request]:
    """Return `samples` requests per prompt; request i has the seed + i."""
    requests: list[Request] = []
    for i, ids in enumerate(prompts):
        settings = sampling
        if sampling.seed is not None:
            settings = replace(sampling, seed=(sampling.seed + i * samples) % 2**64)
        requests += Request(ids, max_tokens, settings, stop).repeat(samples)
    return requests


def stream_text(engine: Engine, prompt: str, request: Request) -> Iterator[str]:
    """Yield the prompt, then its continuation as it is generated."""
    yield prompt
    for piece in engine.stream([request]):
        yield piece.text


def format_completions(
    completions: Sequence[Completion], prompts: Sequence[Prompt], as_json: bool, chat: bool = False
) -> Iterator[str]:
    """Yield one text per completion: a JSON object, or a heading, the prompt and the text.

    There are equally many completions of each prompt. With `chat` prompts are messages: they are
    not repeated before the answers.
    """
    samples = len(completions) // len(prompts)
    for i, completion in enumerate(completions):
        prompt = prompts[i // samples]
        if as_json:
            key = "prompt" if isinstance(prompt, str) else "messages"
            row = {key: prompt, "text": completion.text, "tokens": len(completion.ids),
                   "finish_reason": completion.finish_reason}  # fmt: skip
            yield json.dumps(row, ensure_ascii=False)
        else:
            before = prompt if isinstance(prompt, str) and not chat else ""
            yield f"--- {i + 1} of {len(completions)}\n{before}{completion.text}"
