"""The shapes of the measured models, shared by the MLX and the PyTorch side."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Size:
    """A transformer and its batch; stock MLX gets `stock_rows` of the `rows`."""

    rows: int
    length: int
    vocab: int
    width: int
    layers: int
    heads: int
    inner: int
    stock_rows: int = 1

    def tiny(self) -> "Size":
        """Return a shape that takes no time, to test the benchmark itself."""
        return replace(self, rows=4, length=16, vocab=64, width=192, layers=2, inner=256)


SIZES = {
    "minilm": Size(32, 64, 30522, 384, 6, 12, 1536, stock_rows=2),
    "bert-base": Size(16, 128, 30522, 768, 12, 12, 3072),
    "modernbert-base": Size(16, 128, 50368, 768, 22, 12, 1152),
    "d6": Size(4, 512, 8192, 384, 6, 3, 1536),
}
# The decoder of the quantized cases: 4 Llama layers.
LLAMA = Size(1, 512, 8192, 768, 4, 12, 2048)


def size_of(case: str, tiny: bool) -> Size:
    """Return the size of a case."""
    size = SIZES.get(case, LLAMA)
    return size.tiny() if tiny else size
