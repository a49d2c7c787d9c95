"""Tiny engines of all model families, and what hears their answers."""

import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_map

from mlx_gpt.engine import Engine, Request
from mlx_gpt.models.decoder import Decoder
from mlx_gpt.models.gpt2 import GPT2, GPT2Config
from mlx_gpt.models.llama import Llama, LlamaConfig
from mlx_gpt.models.nanochat import Nanochat, NanochatConfig
from mlx_gpt.models.nanochat_2025 import Nanochat2025, Nanochat2025Config
from mlx_gpt.serve.answer import Answer, Deliver
from mlx_gpt.serve.generation import Delta, Generate, Ticket
from mlx_gpt.serve.loop import EngineLoop
from mlx_gpt.serve.scheduler import Scheduler
from mlx_gpt.tokenizer import Tokenizer

CONTEXT = 96
FAMILIES = ("nanochat", "nanochat-2025", "llama", "mistral", "gpt2")


class Narrow(NanochatConfig):
    """Windows shorter than the texts of the tests."""

    @property
    def windows(self) -> list[int]:
        return [6, CONTEXT]


def make_model(family: str, vocab_size: int, head_dim: int = 8) -> Decoder:
    """Return a model of two layers of 32 dimensions whose tokens depend on all before them.

    `head_dim` is of Llamas.
    """
    mx.random.seed(7)
    sizes: dict[str, Any] = {"vocab_size": vocab_size, "n_layer": 2, "n_head": 4, "n_embd": 32}
    model: Decoder
    if family == "nanochat":
        model = Nanochat(Narrow(sequence_len=CONTEXT, n_kv_head=2, **sizes))
    elif family == "nanochat-2025":
        model = Nanochat2025(Nanochat2025Config(sequence_len=CONTEXT, n_kv_head=2, **sizes))
    elif family == "gpt2":
        model = GPT2(GPT2Config(n_positions=CONTEXT, **sizes))
    else:
        windows = (9, 1 << 30) if family == "mistral" else ()
        model = Llama(LlamaConfig(vocab_size, 32, 48, 2, 4, 2, head_dim, CONTEXT, windows=windows))
    model.update(
        tree_map(lambda value: value + 0.3 * mx.random.normal(value.shape), model.parameters())
    )
    mx.eval(model.parameters())
    return model


def make_engine(
    tokenizer: Tokenizer, family: str = "llama", head_dim: int = 8, **options: Any
) -> Engine:
    """Return an engine that ends at no token."""
    settings: dict[str, Any] = {"tools": False, "end_ids": (), **options}
    return Engine(make_model(family, tokenizer.vocab_size, head_dim), tokenizer, **settings)


@dataclass
class Heard:
    """The deltas of one request."""

    deltas: list[Delta] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)
    ticket: Ticket | None = None

    def __call__(self, delta: Delta) -> None:
        assert not self.done.is_set()
        self.deltas.append(delta)
        if delta.finish_reason:
            self.done.set()

    def wait(self) -> "Heard":
        """Wait for the last delta."""
        assert self.done.wait(600)
        return self

    @property
    def tokens(self) -> list[int]:
        return [each.token for each in self.deltas if each.token is not None]

    @property
    def text(self) -> str:
        return "".join(each.text for each in self.deltas)

    @property
    def reason(self) -> str | None:
        return self.deltas[-1].finish_reason if self.deltas else None


class Steps:
    """The work of the engine thread, step by step in this thread."""

    def __init__(self, engine: Engine, adapters: Mapping[str, Path] = {}, **options: Any):
        self.counts: Counter[str] = Counter()
        settings = {
            "max_batch": 4, "prefill_chunk": 16, "prefix_cache_bytes": 1 << 20,
            "memory_limit": 1 << 30, **options,
        }  # fmt: skip
        self.loop = EngineLoop(engine, adapters, self.counts, **settings)
        self._number = 0

    def ask(self, given: Generate, deliver: Deliver | None = None) -> tuple[Answer, Heard]:
        """Let a request wait."""
        self._number += 1
        heard = Heard()
        plain = Request(given.prompt, given.max_tokens, given.sampling, given.stop)
        row = self.loop.engine.row(0, plain, given.end_ids)
        size = self.loop.engine.tokenizer.vocab_size
        answer = Answer(Ticket(self._number), given, deliver or heard, row, self.counts, size)
        self.loop.waiting.append(answer)
        return answer, heard

    def finish(self) -> None:
        """Take steps until nothing is left to do."""
        while self.loop.busy:
            self.loop.step()

    def answer(self, given: Generate) -> Heard:
        """Answer one request."""
        _, heard = self.ask(given)
        self.finish()
        return heard


def ask(scheduler: Scheduler, request: Generate) -> Heard:
    """Submit a request."""
    heard = Heard()
    heard.ticket = scheduler.submit(request, heard)
    return heard


@contextmanager
def serving(
    tokenizer: Tokenizer, family: str = "llama", engine: Mapping[str, Any] = {}, **options: Any
) -> Iterator[Scheduler]:
    """Yield a scheduler with an engine of a family."""
    scheduler = Scheduler(lambda: make_engine(tokenizer, family, **engine), **options)
    scheduler.start()
    try:
        yield scheduler
    finally:
        scheduler.close()
