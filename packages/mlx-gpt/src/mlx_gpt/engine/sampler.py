"""Sample the next token of each row of a batch, each row with its own settings and seed.

Filters apply in this order, as in Transformers: temperature, `top_k`, `top_p` of the tokens that
`top_k` kept, `min_p`. Each keeps the most likely tokens; of equal logits the lower id ranks first.
A filter that no row uses costs nothing.

A sample is the argmax of logits plus Gumbel noise, which has the distribution of the softmax
(Gumbel-max trick). Each row has its own random key, so that a seed yields the same tokens in any
batch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

# Lower temperatures count as 0: logits apart by 0.001 would differ by a factor e^100.
MIN_TEMPERATURE = 1e-5
# Gumbel noise is above -2.9, except for a uniform draw of exactly 0, whose noise is -inf.
_MIN_NOISE = -4.0


@dataclass(frozen=True)
class Sampling:
    """Sampling settings.

    `temperature` 0 is greedy. `top_k` keeps this many tokens (0: all), `top_p` the fewest with this
    share of the probability (1: all), `min_p` those at least `min_p` times as likely as the most
    likely token (0: all), which is always kept. Without a `seed`, sampling depends on
    `mx.random.seed`.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int | None = None

    def __post_init__(self):
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature must be 0 or more, got {self.temperature}")
        if self.top_k < 0 or self.top_k != int(self.top_k):
            raise ValueError(f"top_k must be a whole number, 0 or more, got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, got {self.top_p}")
        if not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p must be from 0 to 1, got {self.min_p}")
        if self.seed is not None and not 0 <= self.seed < 2**64:
            raise ValueError(f"seed must be from 0 to 2**64 - 1, got {self.seed}")

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is chosen."""
        return self.temperature < MIN_TEMPERATURE


class Sampler:
    """The settings and the random keys of a batch's rows."""

    def __init__(self, settings: Sequence[Sampling]):
        self._keys = mx.stack([_key(each.seed) for each in settings])  # (B, 2)
        self._set(list(settings))

    def _set(self, settings: list[Sampling]) -> None:
        self._settings = settings
        drawn = [each for each in settings if not each.greedy]
        self._all_greedy, self._any_greedy = not drawn, len(drawn) < len(settings)
        self._greedy = _column([each.greedy for each in settings])
        self._temperature = _column([1 if each.greedy else each.temperature for each in settings])
        self._filters = Filters(settings)

    def __call__(self, logits: mx.array) -> mx.array:
        """Return one token id per row, (B,), of float32 logits (B, V)."""
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
        self._keys = self._keys[mx.array(list(rows))]
        self._set([self._settings[row] for row in rows])


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
    return mx.vmap(lambda key: mx.random.split(key))(keys)  # type: ignore[operator]


def _gumbel(keys: mx.array, width: int) -> mx.array:
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
