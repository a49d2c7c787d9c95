"""The memory that fine-tuning needs, from config.json and the headers of the weights alone.

Weights, adapters, gradients and the optimizer's state are counted. What a step holds besides them
is fitted: 80 measurements of `tools/fit_finetune_memory.py`, on a CPU with mlx-fastcpu, where the
scores of attention are stored. On a GPU it is an upper bound.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """Sizes of a model, and of the largest micro-batch: `rows` of `width` tokens.

    `query_dims` and `kv_dims` are the outputs of the projections for queries and for keys;
    `targets` (default all) are the tokens of the batch that go through the head.
    """

    layers: int
    hidden: int
    inner: int  # of the MLP
    heads: int
    query_dims: int
    kv_dims: int
    vocab: int
    rows: int
    width: int
    targets: int = 0

    @property
    def tokens(self) -> int:
        """Tokens of the batch, padding included."""
        return self.rows * self.width


def step_features(shape: Shape, checkpointed: bool) -> list[float]:
    """Return the numbers of bytes that the fitted constants multiply.

    Each is a float32 array: with checkpointing a block's input for each layer, and the inside of
    one block; without it the insides of all.
    """
    N, L = shape.tokens, shape.layers
    scores = shape.rows * shape.heads * shape.width**2
    inside = [N * shape.hidden, N * shape.inner, N * (shape.query_dims + shape.kv_dims), scores]
    logits = min((shape.targets or N) * shape.vocab, _CHUNK_LOGITS)
    per_layer = [L * N * shape.hidden] if checkpointed else [L * each for each in inside]
    return [4.0 * each for each in (*per_layer, *_once(inside), logits)]


def _once(inside: list[int]) -> list[int]:
    return [inside[0] + inside[1], inside[3]]


_CHUNK_LOGITS = 1 << 24
