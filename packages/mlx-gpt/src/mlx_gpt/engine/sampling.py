"""The settings of sampling."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

# Lower temperatures count as 0: logits apart by 0.001 would differ by a factor e^100.
MIN_TEMPERATURE = 1e-5


@dataclass(frozen=True)
class Sampling:
    """Sampling settings.

    `temperature` 0 is greedy. `top_k` keeps this many tokens (0: all), `top_p` the fewest with this
    share of the probability (1: all), `min_p` those at least `min_p` times as likely as the most
    likely token (0: all), which is always kept. Without a `seed`, sampling depends on
    `mx.random.seed`. `repetition_penalty` (1: none), `presence_penalty` and `frequency_penalty`
    (0: none) make tokens of the text less likely, `logit_bias` is added to the logits of these
    ids; they are applied before all others, also when greedy, as in `Penalties`.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int | None = None
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)

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
        if not 0 < self.repetition_penalty < math.inf:
            raise ValueError(f"repetition_penalty must be above 0, got {self.repetition_penalty}")
        for name in ("presence_penalty", "frequency_penalty"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name} must be a number, got {getattr(self, name)}")
        for token, bias in self.logit_bias.items():
            if token < 0 or math.isnan(bias) or bias == math.inf:
                raise ValueError(f"logit_bias must map ids to numbers, got {token}: {bias}")

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is chosen."""
        return self.temperature < MIN_TEMPERATURE

    @property
    def is_penalized(self) -> bool:
        """Whether logits change before the temperature."""
        penalties = (self.repetition_penalty - 1, self.presence_penalty, self.frequency_penalty)
        return any(penalties) or bool(self.logit_bias)
