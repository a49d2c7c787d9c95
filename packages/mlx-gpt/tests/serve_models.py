"""Tiny engines of all model families, and a scheduler whose answers a test can wait for."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from mlx_gpt.engine import Engine
from mlx_gpt.models.decoder import Decoder
from mlx_gpt.models.gpt2 import GPT2, GPT2Config
from mlx_gpt.models.llama import Llama, LlamaConfig
from mlx_gpt.models.nanochat import Nanochat, NanochatConfig
from mlx_gpt.models.nanochat_2025 import Nanochat2025, Nanochat2025Config
from mlx_gpt.serve.generation import Delta, Generate, Ticket
from mlx_gpt.serve.scheduler import Scheduler
from mlx_gpt.tokenizer import Tokenizer

CONTEXT = 96
FAMILIES = ("nanochat", "nanochat-2025", "llama", "mistral", "gpt2")


class Narrow(NanochatConfig):
    """Windows shorter than the texts of the tests."""

    @property
    def windows(self) -> list[int]:
        return [6, CONTEXT]


def make_model(family: str, vocab_size: int) -> Decoder:
    """Return a model of two layers of 32 dimensions whose tokens depend on all before them."""
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
        model = Llama(LlamaConfig(vocab_size, 32, 48, 2, 4, 2, 8, CONTEXT, windows=windows))
    model.load_weights([
        (name, value + 0.3 * mx.random.normal(value.shape))
        for name, value in tree_flatten(model.parameters())
    ])  # fmt: skip
    mx.eval(model.parameters())
    return model


@dataclass
class Heard:
    """The deltas of one request."""

    deltas: list[Delta] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)
    ticket: Ticket | None = None

    def __call__(self, delta: Delta) -> None:
        self.deltas.append(delta)
        if delta.finish_reason:
            self.done.set()

    def wait(self) -> "Heard":
        """Wait for the last delta."""
        assert self.done.wait(120)
        return self

    @property
    def tokens(self) -> list[int]:
        return [each.token for each in self.deltas if each.token is not None]

    @property
    def text(self) -> str:
        return "".join(each.text for each in self.deltas)

    @property
    def reason(self) -> str | None:
        return self.deltas[-1].finish_reason


def ask(scheduler: Scheduler, request: Generate) -> Heard:
    """Submit a request."""
    heard = Heard()
    heard.ticket = scheduler.submit(request, heard)
    return heard


@contextmanager
def serving(
    tokenizer: Tokenizer, family: str = "llama", engine: Mapping[str, Any] = {}, **options: Any
) -> Iterator[Scheduler]:
    """Yield a scheduler with an engine of a family; nothing may be left in it at the end."""

    def load() -> Engine:
        settings: dict[str, Any] = {"tools": False, "end_ids": (), **engine}
        return Engine(make_model(family, tokenizer.vocab_size), tokenizer, **settings)

    scheduler = Scheduler(load, **options)
    scheduler.start()
    try:
        yield scheduler
    finally:
        scheduler.close()
    assert not scheduler.stats().active
