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


def small(count: int = 24) -> Shapes:
    """Many small matrices: those of small models, and a pair of LoRA of rank 8 for each."""
    one = {f"square{size}": (size, size) for size in (32, 64, 128)}
    return repeated(count, one | {"wide": (64, 128), "lora_a": (8, 768), "lora_b": (768, 8)})


def repeated(count: int, one: Shapes) -> Shapes:
    return {f"{name}_{layer}": shape for layer in range(count) for name, shape in one.items()}


CASES = {"gpt": gpt(), "modernbert": modernbert(), "small": small()}
TINY = {"gpt": gpt(1, 16), "modernbert": repeated(1, {"Wqkv": (48, 16)}), "small": small(2)}


def operations(shapes: Shapes) -> float:
    """Return additions and multiplications of five direct Newton-Schulz steps."""
    return sum(5 * operations_of_step(min(shape), max(shape)) for shape in shapes.values())


def operations_of_step(short: int, long: int) -> float:
    """X X^T and B X on the short side, and the square of the small product."""
    return 4.0 * short * short * long + 2.0 * short**3
