"""The depth determines everything: sizes, tokens, batch, steps, rates and weight decay.

The rules are nanochat's (July 2026). The width grows with the depth. Training takes 12 tokens per
scaling parameter. The batch grows with the tokens to the power 0.383 (arXiv 2505.13738), the rates
with the root of the batch. The weight decay keeps its time scale in epochs (arXiv 2405.13698). All
are relative to depth 12, where nanochat was tuned.
"""

import math
from dataclasses import dataclass

from mlx_gpt.models.nanochat import GATE_CHANNELS, SMEAR_CHANNELS, NanochatConfig
from mlx_gpt.training.settings import PretrainConfig
from mlx_trainer import ConfigError, world_size

HEAD_DIM = 128
WIDTH_PER_LAYER = 64
TOKENS_PER_PARAMETER = 12.0
REFERENCE_DEPTH = 12
REFERENCE_BATCH = 2**19
BATCH_EXPONENT = 0.383
WEIGHT_DECAY = 0.28
MAX_ROWS = 32  # nanochat's device batch size


@dataclass(frozen=True)
class ParameterCounts:
    """Parameters by role; `scaling` are those that nanochat's scaling rules count."""

    embedding: int
    value_embeddings: int
    head: int
    matrices: int
    scalars: int

    @property
    def total(self) -> int:
        """All parameters."""
        return sum(vars(self).values())

    @property
    def scaling(self) -> int:
        """The matrices of the blocks and the head."""
        return self.matrices + self.head


@dataclass(frozen=True)
class Plan:
    """Sizes of a run of pretraining; `batch_tokens` is one update of all processes."""

    depth: int
    config: NanochatConfig
    parameters: ParameterCounts
    batch_tokens: int
    steps: int
    weight_decay: float  # of Muon, before its schedule

    @property
    def tokens(self) -> int:
        """Tokens trained on."""
        return self.batch_tokens * self.steps

    @property
    def tokens_per_parameter(self) -> float:
        """Tokens per scaling parameter."""
        return self.tokens / self.parameters.scaling

    @property
    def batch_rate_scale(self) -> float:
        """The factor of the learning rates for the batch size."""
        return math.sqrt(self.batch_tokens / REFERENCE_BATCH)

    @property
    def width_rate_scale(self) -> float:
        """The factor of the rates of embeddings and head for the width."""
        return (self.config.n_embd / 768) ** -0.5

    @property
    def flops_per_token(self) -> int:
        """Operations of a forward and backward pass, with attention within its windows."""
        return training_flops(self.config)

    def table(self) -> str:
        """Return the plan as lines to print."""
        config, counts = self.config, self.parameters
        windows = " and ".join(map(str, sorted(set(config.windows))))
        rows = {
            "depth": f"{self.depth}",
            "width": f"{config.n_embd} ({config.n_head} heads of {config.head_dim})",
            "sequence": f"{config.sequence_len} tokens",
            "  windows": f"{config.window_pattern} ({windows} tokens)",
            "vocabulary": f"{config.vocab_size:,}",
            "parameters": f"{counts.total:,}",
            "  in blocks": f"{counts.matrices:,}",
            "  head": f"{counts.head:,}",
            "  embeddings": f"{counts.embedding:,}, and {counts.value_embeddings:,} of values",
            "tokens": f"{self.tokens:,} = {self.steps:,} steps of {self.batch_tokens:,}",
            "  ratio": f"{self.tokens_per_parameter:.2f} per parameter in blocks and head",
            "rates": f"x {self.batch_rate_scale:.3f} for the batch",
            "  embeddings, head": f"x {self.width_rate_scale:.3f} for the width",
            "weight decay": f"{self.weight_decay:.3f}, falling to 0",
            "compute": f"{self.flops_per_token * self.tokens:.3g} operations",
        }
        return "\n".join(f"{name:18} {value}" for name, value in rows.items())


def make_plan(
    depth: int,
    vocab_size: int = 32768,
    sequence_len: int = 2048,
    window_pattern: str = "SSSL",
    width_per_layer: int = WIDTH_PER_LAYER,
    head_dim: int = HEAD_DIM,
    n_kv_head: int | None = None,
    tokens_per_parameter: float = TOKENS_PER_PARAMETER,
    batch_tokens: int | None = None,
    steps: int | None = None,
) -> Plan:
    """Return the plan for a depth, which determines arguments that are None.

    `steps` overrides `tokens_per_parameter` for the length of the run only: weight decay and batch
    follow `tokens_per_parameter`, as in nanochat.
    """
    for name, value in (("depth", depth), ("sequence_len", sequence_len), ("steps", steps),
                        ("batch_tokens", batch_tokens), ("head_dim", head_dim)):  # fmt: skip
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if not tokens_per_parameter > 0:
        raise ValueError(f"tokens_per_parameter must be positive, got {tokens_per_parameter}")
    sizes = (vocab_size, sequence_len, window_pattern, width_per_layer, head_dim, n_kv_head)
    config = config_for(depth, *sizes)
    counts = count_parameters(config)
    reference = count_parameters(config_for(REFERENCE_DEPTH, *sizes[:-1])).scaling
    wanted_tokens = int(tokens_per_parameter * counts.scaling)
    more = counts.scaling / reference  # tokens, relative to the reference
    automatic = 2 ** round(math.log2(REFERENCE_BATCH * more**BATCH_EXPONENT))
    batch = automatic if batch_tokens is None else batch_tokens
    decay = WEIGHT_DECAY * math.sqrt(batch / REFERENCE_BATCH) / more
    updates = max(1, wanted_tokens // batch) if steps is None else steps
    return Plan(depth, config, counts, batch, updates, decay)


def config_for(
    depth: int,
    vocab_size: int,
    sequence_len: int,
    window_pattern: str = "SSSL",
    width_per_layer: int = WIDTH_PER_LAYER,
    head_dim: int = HEAD_DIM,
    n_kv_head: int | None = None,
) -> NanochatConfig:
    """Return the model of a depth; its width is rounded up to whole heads."""
    heads = -(-depth * width_per_layer // head_dim)
    return NanochatConfig(
        sequence_len=sequence_len,
        vocab_size=vocab_size,
        n_layer=depth,
        n_head=heads,
        n_kv_head=n_kv_head or heads,
        n_embd=heads * head_dim,
        window_pattern=window_pattern,
    )


def count_parameters(config: NanochatConfig) -> ParameterCounts:
    """Count the parameters of a model without building it."""
    D, kv_dims, rows = config.n_embd, config.n_kv_head * config.head_dim, config.padded_vocab_size
    value_layers = len(config.value_embedding_layers)
    block = 2 * D * D + 2 * D * kv_dims + 8 * D * D
    return ParameterCounts(
        embedding=rows * D,
        value_embeddings=value_layers * rows * kv_dims,
        head=rows * D,
        matrices=config.n_layer * block + value_layers * config.n_kv_head * GATE_CHANNELS,
        scalars=2 * config.n_layer + SMEAR_CHANNELS + 2,
    )


def training_flops(config: NanochatConfig) -> int:
    """Return the operations per token of a forward and backward pass.

    6 per parameter of a matrix product, 12 per dimension and token in a layer's window (as PaLM
    counts, arXiv 2204.02311).
    """
    counts = count_parameters(config)
    in_products = counts.matrices + counts.head + SMEAR_CHANNELS
    reach = sum(min(window, config.sequence_len) for window in config.windows)
    return 6 * in_products + 12 * config.n_embd * reach


def plan_for(config: PretrainConfig, vocab_size: int) -> Plan:
    """Return the plan of a configuration; its batch is a whole number of micro-batches."""
    model, training = config.model, config.training

    def plan(batch_tokens: int | None) -> Plan:
        return make_plan(
            model.depth,
            vocab_size,
            model.sequence_len,
            model.window_pattern,
            model.width_per_layer,
            model.head_dim,
            model.n_kv_head,
            training.tokens_per_parameter,
            batch_tokens,
            training.steps,
        )

    given = training.batch_tokens
    try:
        usual = plan(given).batch_tokens
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return plan(fit_batch(given, training.device_batch_size, model.sequence_len, usual)[0])


def fit_batch(
    batch_tokens: int | None,
    rows: int | None,
    sequence_len: int,
    usual_tokens: int,
    max_rows: int = MAX_ROWS,
) -> tuple[int, int]:
    """Return tokens per update and rows per micro-batch; whole micro-batches make an update.

    An argument that is None is chosen: the tokens nearest to `usual_tokens`, and the most rows up
    to `max_rows`. Raises `ConfigError` if the given ones do not fit together.
    """
    row = sequence_len * world_size()
    if batch_tokens is None:
        at_once = row * (rows or (max_rows if usual_tokens >= max_rows * row else 1))
        batch_tokens = max(1, round(usual_tokens / at_once)) * at_once
    if rows is None:
        rows = largest_divisor(accumulation_steps(batch_tokens, 1, sequence_len), max_rows)
    accumulation_steps(batch_tokens, rows, sequence_len)
    return batch_tokens, rows


def accumulation_steps(batch_tokens: int, rows: int, sequence_len: int) -> int:
    """Return the micro-batches per update; raises `ConfigError` unless it is a whole number."""
    at_once = rows * sequence_len * world_size()
    if batch_tokens % at_once:
        below = max(1, batch_tokens // at_once) * at_once
        of_rows = f"device_batch_size {rows} x " if rows > 1 else ""
        another = "device_batch_size" if rows > 1 else "sequence_len"
        raise ConfigError(
            f"batch_tokens {batch_tokens:,} is not a multiple of {at_once:,} = {of_rows}"
            f"sequence_len {sequence_len} x {world_size()} processes; take {below:,} or another "
            f"{another}"
        )
    return batch_tokens // at_once


def largest_divisor(number: int, limit: int) -> int:
    """Return the largest divisor of a number up to `limit`."""
    return next(each for each in range(min(number, limit), 0, -1) if number % each == 0)
