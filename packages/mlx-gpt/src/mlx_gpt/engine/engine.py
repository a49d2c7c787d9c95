"""Continue prompts with a model: in batches, streaming, with tools."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from typing import TYPE_CHECKING

from mlx_gpt.engine.generation import Generation
from mlx_gpt.engine.prefill import PromptCache
from mlx_gpt.engine.requests import Completion, Piece, Request
from mlx_gpt.engine.tools import Markers

if TYPE_CHECKING:
    from mlx_gpt.models.formats import Decoder
    from mlx_gpt.tokenizer import Tokenizer


class Engine:
    """A model and its tokenizer, ready to answer requests.

    Each request has its own settings, whatever else is in the batch. Rows end at `end_ids`, by
    default the tokenizer's: `<|assistant_end|>` and BOS. With `tools`, calls between the
    tokenizer's python markers are answered by the calculator; a tokenizer without markers has no
    tools. At most `prefill_chunk` tokens of a prompt are read at a time.

    A prompt may be longer than the model's `sequence_len`: it was not trained for that, and its
    attention reaches back no further.
    """

    def __init__(
        self,
        model: Decoder,
        tokenizer: Tokenizer,
        tools: bool = True,
        end_ids: Iterable[int] | None = None,
        prefill_chunk: int = 512,
    ):
        if prefill_chunk < 1:
            raise ValueError(f"prefill_chunk must be 1 or more, got {prefill_chunk}")
        self.model = model
        self.tokenizer = tokenizer
        self.end_ids = frozenset(tokenizer.end_ids if end_ids is None else end_ids)
        self._markers = Markers.of(tokenizer) if tools else None
        self._prefill_chunk = prefill_chunk

    def generate(self, requests: Iterable[Request], max_batch: int = 64) -> list[Completion]:
        """Return the completions of the requests, in their order.

        Equal prompts are read once: `request.repeat(16)` draws sixteen answers to one. More than
        `max_batch` requests are answered in turns, those with prompts of similar lengths together.
        """
        if max_batch < 1:
            raise ValueError(f"max_batch must be 1 or more, got {max_batch}")
        requests = list(requests)
        alike = sorted(range(len(requests)), key=lambda i: _order(requests[i]))
        found: dict[int, Completion] = {}
        for begin in range(0, len(alike), max_batch):
            batch = alike[begin : begin + max_batch]
            found |= zip(batch, self._answer([requests[i] for i in batch]), strict=True)
        return [found[i] for i in range(len(requests))]

    def _answer(self, requests: Sequence[Request]) -> list[Completion]:
        # On its own, so that its cache is gone when the next batch makes one.
        generation = self.start(requests)
        while generation.active:
            generation.step()
        return generation.completions()

    def stream(
        self, requests: Sequence[Request], prompt_cache: PromptCache | None = None
    ) -> Generator[Piece, None, None]:
        """Yield pieces of the answers as they come, at most one a request and step.

        Closing the iterator ends the generation. Each request's last piece has a `finish_reason`.
        """
        generation = self.start(requests, prompt_cache)
        try:
            while generation.active:
                yield from generation.step()
        finally:
            generation.close()

    def start(
        self, requests: Sequence[Request], prompt_cache: PromptCache | None = None
    ) -> Generation:
        """Read the prompts; return what is stepped, and cancelled, by hand.

        A `prompt_cache` goes with a single request.
        """
        if not requests:
            raise ValueError("there are no requests")
        if prompt_cache is not None and len(requests) > 1:
            raise ValueError(f"a prompt cache is of one request, got {len(requests)}")
        for i, request in enumerate(requests):
            strange = [id for id in request.prompt if not 0 <= id < self.tokenizer.vocab_size]
            if strange:
                raise ValueError(
                    f"request {i}: the prompt has id {strange[0]}, but the tokenizer has "
                    f"{self.tokenizer.vocab_size} tokens"
                )
        return Generation(
            self.model, self.tokenizer, requests, end_ids=self.end_ids, markers=self._markers,
            chunk=self._prefill_chunk, prompt_cache=prompt_cache,
        )  # fmt: skip


def _order(request: Request) -> tuple[int, Sequence[int]]:
    return len(request.prompt), request.prompt
