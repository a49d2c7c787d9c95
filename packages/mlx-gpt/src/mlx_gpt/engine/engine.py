"""Continue prompts with a model: in batches, as a stream, with tools."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from typing import TYPE_CHECKING

from mlx_gpt.engine.drafts import Speculation
from mlx_gpt.engine.generation import Generation, Row, make_cache
from mlx_gpt.engine.requests import Completion, Piece, Request
from mlx_gpt.engine.speculative import SpeculationCounts, SpeculativeGeneration
from mlx_gpt.engine.speed import Timing
from mlx_gpt.engine.tools import Markers, ToolUse
from mlx_gpt.models.cache import Cache, PromptCache
from mlx_gpt.models.description import head_size

if TYPE_CHECKING:
    from mlx_gpt.models.decoder import Decoder
    from mlx_gpt.tokenizer import AnyTokenizer


class Engine:
    """A model and its tokenizer, ready to answer requests.

    Each request has its own settings, independent of the rest of the batch. Rows end at `end_ids`,
    by default the tokenizer's, in nanochat `<|assistant_end|>` and BOS. With `tools`, the
    calculator answers calls between the tokenizer's python markers; without these markers `tools`
    has no effect. Prompts are processed in chunks of `prefill_chunk` tokens. `kv_bits` (4 or 8)
    quantizes keys and values, in groups of `kv_group_size`. With `speculation` requests are
    answered one by one, with the same text; `counts` then has the share of accepted guesses.

    A prompt may be longer than the model's `sequence_len`, but the model was not trained for this,
    and its attention windows do not grow.
    """

    def __init__(
        self,
        model: Decoder,
        tokenizer: AnyTokenizer,
        tools: bool = True,
        end_ids: Iterable[int] | None = None,
        prefill_chunk: int = 512,
        kv_bits: int | None = None,
        kv_group_size: int = 64,
        speculation: Speculation | None = None,
    ):
        if prefill_chunk < 1:
            raise ValueError(f"prefill_chunk must be 1 or more, got {prefill_chunk}")
        self.model = model
        self.tokenizer = tokenizer
        self.end_ids = frozenset(tokenizer.end_ids if end_ids is None else end_ids)
        self._markers = Markers.of(tokenizer) if tools else None
        self.counts, self.timing = SpeculationCounts(), Timing()
        self._prefill_chunk = prefill_chunk
        self._kv = (kv_bits, kv_group_size) if kv_bits else None
        self.speculation = speculation
        self.make_cache()  # raises for wrong settings
        if kv_bits and head_size(model) % kv_group_size:
            raise ValueError(
                f"the heads of this model have {head_size(model)} numbers, which groups of "
                f"{kv_group_size} do not divide; choose another kv_group_size, or no kv_bits"
            )

    def generate(self, requests: Iterable[Request], max_batch: int = 64) -> list[Completion]:
        """Return the completions of the requests, in their order.

        Equal prompts, as in `request.repeat(16)`, are processed once. More than `max_batch`
        requests are split into batches of prompts of similar lengths.
        """
        if max_batch < 1:
            raise ValueError(f"max_batch must be 1 or more, got {max_batch}")
        requests = list(requests)
        if self.speculation:
            max_batch = 1
        order = sorted(range(len(requests)), key=lambda i: _sort_key(requests[i]))
        found: dict[int, Completion] = {}
        for begin in range(0, len(order), max_batch):
            batch = order[begin : begin + max_batch]
            found |= zip(batch, self._run([requests[i] for i in batch]), strict=True)
        return [found[i] for i in range(len(requests))]

    def _run(self, requests: Sequence[Request]) -> list[Completion]:
        # A separate function, so that the cache is freed before the next batch.
        generation = self._start_timed(requests)
        while generation.active:
            self.timing.step(generation)
        return generation.completions()

    def stream(
        self, requests: Sequence[Request], prompt_cache: PromptCache | None = None
    ) -> Generator[Piece, None, None]:
        """Yield pieces of the answers as they are generated.

        Closing the iterator ends the generation. Each request's last piece has a `finish_reason`.
        """
        generation = self._start_timed(requests, prompt_cache)
        try:
            while generation.active:
                yield from self.timing.step(generation)
        finally:
            generation.close()

    def start(
        self, requests: Sequence[Request], prompt_cache: PromptCache | None = None
    ) -> Generation | SpeculativeGeneration:
        """Process the prompts; return the generation, for callers that step or cancel it.

        A `prompt_cache` and speculation require a single request.
        """
        if not requests:
            raise ValueError("expected at least one request, got none")
        if prompt_cache is not None and len(requests) > 1:
            raise ValueError(f"a prompt cache is for one request, got {len(requests)}")
        for i, request in enumerate(requests):
            self._check(i, request)
        rows = [self.row(i, request) for i, request in enumerate(requests)]
        if self.speculation is None:
            return Generation(
                self.model, rows, vocab_size=self.tokenizer.vocab_size, chunk=self._prefill_chunk,
                kv=self._kv, prompt_cache=prompt_cache,
            )  # fmt: skip
        if len(rows) > 1:
            raise ValueError(f"speculative decoding is for one request, got {len(rows)}")
        return SpeculativeGeneration(
            self.model, rows[0], self.speculation.start(self._prefill_chunk),
            vocab_size=self.tokenizer.vocab_size, tokens=self.speculation.tokens,
            chunk=self._prefill_chunk, kv=self._kv, counts=self.counts, prompt_cache=prompt_cache,
        )  # fmt: skip

    def _start_timed(
        self, requests: Sequence[Request], prompt_cache: PromptCache | None = None
    ) -> Generation | SpeculativeGeneration:
        with self.timing.prompts(requests):
            return self.start(requests, prompt_cache)

    def row(self, index: int, request: Request, end_ids: frozenset[int] | None = None) -> Row:
        """Return a row of a batch; it ends at `end_ids`, None: the engine's."""
        tools = ToolUse(self.tokenizer, self._markers) if self._markers else None
        ends = self.end_ids if end_ids is None else end_ids
        return Row(index, request, self.tokenizer, tools, ends)

    def make_cache(self, padding: Sequence[int] = (0,)) -> Cache:
        """Return an empty cache of rows with so much padding on the left."""
        return make_cache(self.model, padding, self._kv)

    def _check(self, index: int, request: Request) -> None:
        size = self.tokenizer.vocab_size
        for what, ids in (("prompt", request.prompt), ("logit_bias", request.sampling.logit_bias)):
            unknown = next((each for each in ids if not 0 <= each < size), None)
            if unknown is not None:
                raise ValueError(
                    f"request {index}: the {what} has id {unknown}, but the tokenizer has "
                    f"{size} tokens"
                )


def _sort_key(request: Request) -> tuple[int, Sequence[int]]:
    return len(request.prompt), request.prompt
