"""The matrices of the cases, (rows, columns) by name."""

Shapes = dict[str, tuple[int, int]]


def gpt(layers: int = 12, width: int = 768) -> Shapes:
    """Query, key, value, output, and the two matrices of the feed-forward part, of each layer."""
    one = dict.fromkeys(("query", "key", "value", "output"), (width, width))
    return repeated(layers, one | {"up": (4 * width, width), "down": (width, 4 * width)})


def modernbert(layers: int = 22) -> Shapes:
    """ModernBERT-base, its projections fused as in the model."""
    one = {"Wqkv": (2304, 768), "Wo": (768, 768), "Wi": (2304, 768), "mlp_Wo": (768, 1152)}
    return repeated(layers, one)


def squares(size: int, count: int = 48) -> Shapes:
    return repeated(count, {"square": (size, size)})


def lora(layers: int = 24, width: int = 768) -> Shapes:
    """Pairs of rank 8 and of rank 16."""
    one = {f"{name}{rank}": shape for rank in (8, 16)
           for name, shape in (("a", (rank, width)), ("b", (width, rank)))}  # fmt: skip
    return repeated(layers, one)


def repeated(count: int, one: Shapes) -> Shapes:
    return {f"{name}_{layer}": shape for layer in range(count) for name, shape in one.items()}


CASES = {
    "gpt": gpt(),
    "modernbert": modernbert(),
    "32": squares(32),
    "64": squares(64),
    "128": squares(128),
    "lora": lora(),
}
TINY = {"gpt": gpt(1, 16), "modernbert": modernbert(1)} | {
    name: lora(1, 16) for name in ("32", "64", "128", "lora")
}


def operations(shapes: Shapes) -> float:
    """Return additions and multiplications of five direct Newton-Schulz steps."""
    return sum(5 * operations_of_step(min(shape), max(shape)) for shape in shapes.values())


def operations_of_step(short: int, long: int) -> float:
    """X X^T and B X on the short side, and the square of the small product."""
    return 4.0 * short * short * long + 2.0 * short**3
