"""Sample the next token of each row of a batch, each row with its own settings and seed.

Biases and penalties come first (see `Penalties`), then, as in Transformers: temperature, `top_k`,
`top_p` of the tokens that `top_k` kept, `min_p`. Each keeps the most likely tokens; of equal logits
the lower id ranks first. A filter that no row uses costs nothing.

A sample is the argmax of logits plus Gumbel noise, which has the distribution of the softmax
(Gumbel-max trick). Each row has its own random key, so that a seed yields the same tokens in any
batch.
"""

import math
from collections.abc import Sequence

import mlx.core as mx

from mlx_gpt.engine.penalties import Penalties
from mlx_gpt.engine.sampling import Sampling

# Gumbel noise is above -2.9, except for a uniform draw of exactly 0, whose noise is -inf.
_MIN_NOISE = -4.0


class Sampler:
    """The settings and the random keys of a batch's rows.

    `prompts` and `vocab_size` are needed for penalties only.
    """

    def __init__(
        self,
        settings: Sequence[Sampling],
        prompts: Sequence[Sequence[int]] = (),
        vocab_size: int = 0,
    ):
        self._keys = mx.stack([_key(each.seed) for each in settings])  # (B, 2)
        self._penalties = Penalties.of(settings, prompts, vocab_size)
        self._set(list(settings))

    def _set(self, settings: list[Sampling]) -> None:
        self._settings = settings
        drawn = [each for each in settings if not each.greedy]
        self._all_greedy, self._any_greedy = not drawn, len(drawn) < len(settings)
        self._greedy = _column([each.greedy for each in settings])
        self._temperature = _column([1 if each.greedy else each.temperature for each in settings])
        self._filters = Filters(settings)

    def __call__(self, logits: mx.array, before: mx.array | None = None) -> mx.array:
        """Return one token id per row, (B,), of float32 logits (B, V).

        `before` (B,) are the tokens that the logits follow, None after the prompts.
        """
        if self._penalties:
            if before is not None:
                self._penalties.count(before)
            logits = self._penalties.apply(logits)
        if self._all_greedy:
            return mx.argmax(logits, axis=-1)
        # Relative to the maximum, because a low temperature could overflow positive logits.
        scaled = (logits - logits.max(axis=-1, keepdims=True)) / self._temperature
        kept = self._filters.kept(scaled)
        pairs = _split(self._keys)
        self._keys = pairs[:, 0]
        noisy = scaled + _gumbel(pairs[:, 1], logits.shape[-1])
        if kept is not None:
            noisy = mx.where(kept, noisy, -math.inf)
        if self._any_greedy:
            noisy = mx.where(self._greedy, scaled, noisy)
        return mx.argmax(noisy, axis=-1)

    def take(self, rows: Sequence[int]) -> None:
        """Select rows of the batch, in this order."""
        index = mx.array(list(rows))
        self._keys = self._keys[index]
        settings = [self._settings[row] for row in rows]
        if self._penalties and any(each.is_penalized for each in settings):
            self._penalties.take(index)
        else:
            self._penalties = None
        self._set(settings)

    def join(self, other: "Sampler") -> None:
        """Add the rows of another sampler after those of this one."""
        self._keys = mx.concatenate([self._keys, other._keys])
        counts = len(self._settings), len(other._settings)
        self._penalties = Penalties.joined(self._penalties, other._penalties, counts)
        self._set([*self._settings, *other._settings])


class Filters:
    """`top_k`, `top_p` and `min_p` of each row; unused filters are skipped."""

    def __init__(self, settings: Sequence[Sampling]):
        drawn = [each for each in settings if not each.greedy]
        self._top_k = self._top_p = self._min_p = None  # columns (B, 1), None: no row uses it
        if any(each.top_k for each in drawn):
            self._top_k = _column([each.top_k or 2**31 - 1 for each in settings])
        if any(each.top_p < 1 for each in drawn):
            # Rounded sums may reach 1 before the last token; a limit above 1 keeps all tokens.
            self._top_p = _column([each.top_p if each.top_p < 1 else 2.0 for each in settings])
        if any(each.min_p for each in drawn):
            self._min_p = _column([_log(each.min_p) for each in settings])
        # How many of the largest logits need sorting; None: all.
        self._largest = None
        if drawn and all(each.top_k for each in drawn):
            self._largest = max(each.top_k for each in drawn)

    def kept(self, logits: mx.array) -> mx.array | None:
        """Return the mask of kept tokens, boolean (B, V), for logits after temperature.

        None keeps all tokens.
        """
        kept = None
        if self._top_k is not None or self._top_p is not None:
            ordered = _descending(logits, self._largest)
            kept = _first(logits, ordered, self._count(ordered))
        if self._min_p is not None:
            likely = logits >= logits.max(axis=-1, keepdims=True) + self._min_p
            kept = likely if kept is None else kept & likely
        return kept

    def _count(self, ordered: mx.array) -> mx.array:
        """Return how many tokens each row keeps, (B, 1), from its logits in descending order."""
        width = ordered.shape[-1]
        if self._top_k is None:
            within = mx.ones(ordered.shape, mx.bool_)
        else:
            within = mx.arange(width) < self._top_k
        if self._top_p is not None:
            probabilities = mx.softmax(mx.where(within, ordered, -math.inf), axis=-1)
            before = mx.cumsum(probabilities, axis=-1, inclusive=False)
            within = within & (before < self._top_p)
        return within.sum(axis=-1, keepdims=True)


def log_probabilities(logits: mx.array, tokens: mx.array) -> mx.array:
    """Return log-probabilities (B,) of one token per row, at temperature 1 without filters."""
    chosen = mx.take_along_axis(logits, tokens[:, None], axis=-1)
    return (chosen - mx.logsumexp(logits, axis=-1, keepdims=True))[:, 0]


def _descending(logits: mx.array, largest: int | None) -> mx.array:
    if largest is not None and largest < logits.shape[-1]:
        logits = mx.topk(logits, largest, axis=-1)  # unsorted
    return mx.sort(logits, axis=-1)[:, ::-1]


def _first(logits: mx.array, ordered: mx.array, count: mx.array) -> mx.array:
    """Return a mask of the `count` largest logits of each row; of equal ones the lower ids."""
    last = mx.take_along_axis(ordered, count - 1, axis=-1)
    above, equal = logits > last, logits == last
    room = count - above.sum(axis=-1, keepdims=True)
    return above | (equal & (mx.cumsum(equal.astype(mx.int32), axis=-1) <= room))


def _split(keys: mx.array) -> mx.array:
    """Return two new keys for each key, (B, 2, 2)."""
    if keys.shape[0] == 1:  # the same numbers without the cost of a vmap
        return mx.random.split(keys[0])[None]
    return mx.vmap(lambda key: mx.random.split(key))(keys)  # type: ignore[operator]


def _gumbel(keys: mx.array, width: int) -> mx.array:
    if keys.shape[0] == 1:
        return mx.maximum(mx.random.gumbel((1, width), key=keys[0]), _MIN_NOISE)
    noise = mx.vmap(lambda key: mx.random.gumbel((width,), key=key))(keys)  # type: ignore[operator]
    return mx.maximum(noise, _MIN_NOISE)


def _key(seed: int | None) -> mx.array:
    if seed is not None:
        return mx.random.key(seed)
    return mx.random.randint(-(2**31), 2**31 - 1, (2,)).view(mx.uint32)


def _column(values: Sequence[float]) -> mx.array:
    return mx.array(list(values))[:, None]


def _log(value: float) -> float:
    return math.log(value) if value else -math.inf
