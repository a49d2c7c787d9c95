"""How fast an engine is: tokens per second of prompts and of answers, peak memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import mlx.core as mx

from mlx_gpt.engine.requests import Piece, Request
from mlx_gpt.engine.sampling import Sampling
from mlx_gpt.machine import peak_memory

if TYPE_CHECKING:
    from mlx_gpt.engine.engine import Engine
    from mlx_gpt.engine.generation import Generation
    from mlx_gpt.engine.speculative import SpeculativeGeneration


@dataclass
class Timing:
    """What an engine has done: tokens of prompts and answers, and the time they took."""

    prompt_tokens: int = 0
    prompt_seconds: float = 0.0
    tokens: int = 0
    later_tokens: int = 0
    """After the first of each answer, which comes with the prompt."""
    seconds: float = 0.0
    """For these."""

    @contextmanager
    def prompts(self, requests: Sequence[Request]) -> Iterator[None]:
        """Count the time of the block as that of these prompts; equal ones are read once."""
        begin = time.perf_counter()
        yield
        self.prompt_seconds += time.perf_counter() - begin
        self.prompt_tokens += sum(len(prompt) for prompt in {each.prompt for each in requests})

    def step(self, generation: Generation | SpeculativeGeneration) -> list[Piece]:
        """Take one step and count it."""
        begin, is_first = time.perf_counter(), not any(row.tokens for row in generation.rows)
        pieces = generation.step()
        found = sum(piece.token is not None for piece in pieces)
        self.tokens += found
        if not is_first:
            self.seconds += time.perf_counter() - begin
            self.later_tokens += found
        return pieces


class Stopwatch:
    """Measures what an engine has done since now, for one line at the end of a command."""

    def __init__(self, engine: Engine):
        self._engine = engine
        engine.timing = Timing()

    def report(self) -> str:
        """Return one line: tokens per second, peak memory, the share of accepted guesses."""
        timing = self._engine.timing
        line = (
            f"prompt {timing.prompt_tokens:,} tokens, "
            f"{_rate(timing.prompt_tokens, timing.prompt_seconds)}; "
            f"generated {timing.tokens:,} tokens, {_rate(timing.later_tokens, timing.seconds)}; "
            f"peak memory {peak_memory() / 2**20:,.0f} MiB"
        )
        counts = self._engine.counts
        return f"{line}\n{counts}" if counts.passes else line


def _rate(tokens: int, seconds: float) -> str:
    return f"{tokens / seconds:,.1f} tokens/s" if tokens and seconds else "too few to time"


@dataclass(frozen=True)
class Speed:
    """One row of a benchmark, medians of all repeats; seconds per token are of one step."""

    prompt: int
    """Tokens of each prompt."""
    batch: int
    prefill_tokens_per_second: float
    tokens_per_second: float
    """Of the engine, all rows of the batch together."""
    bare_tokens_per_second: float
    """Of a loop of forward passes and argmax, without an engine."""
    overhead: float
    """Median of the engine's time by that of the bare loop beside it."""

    def row(self) -> dict[str, float]:
        """Return the values by name."""
        return asdict(self)


def measure(
    engine: Engine, prompts: Sequence[int], batches: Sequence[int], tokens: int, repeats: int
) -> list[Speed]:
    """Return the speeds for each length of the prompt and size of the batch.

    The engine's greedy decoding and the bare loop take turns, so that other programs on the
    machine disturb both alike.
    """
    return [_measure(engine, length, batch, tokens, repeats)
            for length in prompts for batch in batches]  # fmt: skip


def _measure(engine: Engine, length: int, batch: int, tokens: int, repeats: int) -> Speed:
    size = engine.tokenizer.vocab_size
    key = mx.random.key(0)
    ids: list[list[int]] = mx.random.randint(0, size, (batch, length), key=key).tolist()  # type: ignore[assignment]
    requests = [Request(row, tokens + 1, Sampling(temperature=0)) for row in ids]
    prefill, decode, bare = [], [], []
    for repeat in range(repeats + 1):
        begin = time.perf_counter()
        generation = engine.start(requests)
        generation.step()
        first = time.perf_counter()
        pieces = 0
        while generation.active:
            pieces += len(generation.step())
        end = time.perf_counter()
        plain = _bare_seconds(engine, ids, tokens)
        if repeat:  # the first run compiles kernels
            prefill.append(first - begin)
            decode.append((end - first) * batch / max(pieces, 1))
            bare.append(plain)
    median = statistics.median
    return Speed(
        length, batch, batch * length / median(prefill), batch / median(decode),
        batch / median(bare), median(a / b for a, b in zip(decode, bare, strict=True)),
    )  # fmt: skip


def _bare_seconds(engine: Engine, ids: list[list[int]], tokens: int) -> float:
    """Return the seconds per step of the model alone."""
    model, cache = engine.model, engine.model.make_cache()
    found = mx.argmax(model(mx.array(ids), cache)[:, -1], axis=-1)
    mx.eval(found)
    begin = time.perf_counter()
    for _ in range(tokens):
        found = mx.argmax(model(found[:, None], cache)[:, -1], axis=-1)
        mx.eval(found)
    return (time.perf_counter() - begin) / tokens
