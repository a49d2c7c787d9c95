"""Forward pass and training step of the encoders and the GPT in MLX."""

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from turns.timing import Calls

from cpu.gpt import GPT
from cpu.sizes import Size, size_of
from cpu.variants import UNPATCHED, forward_call, patch, threads_of
from mlx_encoders import BertConfig, ModernBertConfig, build_model
from mlx_trainer import AdamW, TrainStep

SHORT = 8  # tokens of the shortest batch of stock MLX


def prepare(case: str, variant: str, tiny: bool) -> Calls:
    """Return forward and training step; of stock MLX for two small batches, to extrapolate."""
    mx.random.seed(0)
    size = size_of(case, tiny)
    model = patch(build(case, size, variant), variant)
    mx.eval(model.parameters())
    step = make_step(model, case, variant)
    sizes = [array.size for _, array in tree_flatten(model.parameters())]  # type: ignore[union-attr]
    facts: dict[str, object] = {"parameters": sum(sizes)}
    if variant != "stock":
        batch = make_batch(case, size, size.rows, size.length)
        measured = {
            "forward": forward_call(model, batch["ids"], variant),
            "step": lambda: step([batch], 1e-5),
        }
        return Calls(measured, list(measured), facts)
    short = make_batch(case, size, 1, SHORT)
    batch = make_batch(case, size, size.stock_rows, size.length)
    facts["extrapolated"] = [SHORT, size.stock_rows * size.length, size.rows * size.length]
    measured = {
        "short forward": forward_call(model, short["ids"], variant),
        "short step": lambda: step([short], 1e-5),
        "forward": forward_call(model, batch["ids"], variant),
        "step": lambda: step([batch], 1e-5),
    }
    return Calls(measured, ["short forward", "short step"], facts)


def build(case: str, size: Size, variant: str) -> nn.Module:
    """Return the model of a case with random weights and without dropout."""
    if case == "d6":
        return GPT(size, fast_loss=variant not in UNPATCHED)
    shape = {
        "vocab_size": size.vocab,
        "hidden_size": size.width,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "intermediate_size": size.inner,
        "pad_token_id": 0,
    }
    if case == "modernbert-base":
        return build_model(ModernBertConfig.from_dict(shape))
    config = BertConfig.from_dict({**shape, "add_pooling_layer": False})
    return build_model(config.with_dropout(0.0, 0.0))


def make_batch(case: str, size: Size, rows: int, length: int) -> dict[str, mx.array]:
    """Return random ids and what the loss compares with: token ids, or hidden states."""
    ids = mx.random.randint(0, size.vocab, (rows, length))
    if case == "d6":
        targets = mx.random.randint(0, size.vocab, (rows, length))
    else:
        targets = mx.random.normal((rows, length, size.width))
    mx.eval(ids, targets)
    return {"ids": ids, "targets": targets}


def make_step(model: nn.Module, case: str, variant: str) -> TrainStep:
    """Return the training step as the variant would do it; MLX alone does not compile it."""
    loss = token_loss if case == "d6" else hidden_loss
    options = {"threads": 2} if threads_of(variant) == 2 else {}
    model.train()  # nothing drops out
    compile = variant != "stock"
    return TrainStep(model, AdamW(), loss, max_grad_norm=1.0, compile=compile, **options)


def token_loss(model: nn.Module, batch: dict[str, mx.array]) -> tuple[mx.array, mx.array]:
    """Return the sum of cross-entropies and the number of tokens."""
    targets = batch["targets"]
    return model(batch["ids"], targets), mx.array(targets.size)


def hidden_loss(model: nn.Module, batch: dict[str, mx.array]) -> tuple[mx.array, mx.array]:
    """Return the mean square of the difference for each row, summed, and the number of rows.

    Against random targets: the square of a normalized output alone has a gradient of almost
    nothing, and the update would be measured on denormal numbers.
    """
    rows = len(batch["ids"])
    loss = mx.square(model(batch["ids"]) - batch["targets"]).mean() * rows
    return loss, mx.array(rows)
