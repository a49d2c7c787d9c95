"""What quantization costs: merging an adapter, and LoftQ beside quantization alone."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from mlx_encoders import load_model
from mlx_lora import LoraConfig, add_adapter, merge, unmerge
from mlx_lora.initialize import loftq

FORMS: tuple[dict[str, Any], ...] = (
    *({"bits": bits, "group_size": 64, "mode": "affine"} for bits in (2, 3, 4, 5, 6, 8)),
    {"bits": 4, "group_size": 32, "mode": "mxfp4"},
    {"bits": 8, "group_size": 32, "mode": "mxfp8"},
    {"bits": 4, "group_size": 16, "mode": "nvfp4"},
)
TARGETS = ["query", "key", "value", "dense"]
EFFECTS = (0.02, 0.07, 0.3)
"""The size of an adapter's change of the output of a layer, relative to that output."""
RANK = 8


def merge_errors(folder: Path) -> list[list[str]]:
    """Return for each form: errors of outputs after a merge and unmerge, and what survives 4 bits.

    The adapter changes the outputs of each layer by 7 %.
    """
    rows = []
    for form in (None, *FORMS):
        model, ids = _adapted(folder, form, 0.07), _ids()
        before = dict(tree_flatten(model.parameters()))
        outputs = model(ids)
        merge(model)
        merged = float(mx.abs(model(ids) - outputs).max() / mx.abs(outputs).max())
        unmerge(model)
        exact = all(mx.array_equal(before[p], a) for p, a in tree_flatten(model.parameters()))
        cells = [_name(form), f"{merged:.1e}", "yes" if exact else "NO"]
        if form:
            again = merge(model, requantize=True)
            worst = float(mx.abs(model(ids) - outputs).max() / mx.abs(outputs).max())
            errors = sorted(each.error for each in again.layers)
            cells += [f"{again.retained:.1%}", f"{errors[len(errors) // 2]:.2f}", f"{worst:.1e}"]
        rows.append(cells + [""] * (6 - len(cells)))
    return rows


def retention(folder: Path) -> list[list[str]]:
    """Return what survives merging adapters of several sizes into 4 bits."""
    rows = []
    for effect in EFFECTS:
        model, ids = _adapted(folder, FORMS[2], effect), _ids()
        outputs = model(ids)
        base = _adapted(folder, FORMS[2], 0.0)(ids)
        report = merge(model, requantize=True)
        lost = float(mx.linalg.norm(model(ids) - outputs) / mx.linalg.norm(outputs - base))
        errors = sorted(each.error for each in report.layers)
        rows.append([f"{effect:.0%}", f"{report.retained:.1%}",
                     f"{errors[len(errors) // 2]:.2f}", f"{lost:.2f}"])  # fmt: skip
    return rows


def loftq_errors(folder: Path) -> list[list[str]]:
    """Return the Frobenius error of quantization alone, and with LoftQ of one and five rounds."""
    model, _ = load_model(folder)
    paths = [f"encoder.layer.{layer}.{name}" for layer in (0, 5) for name in
             ("attention.self.query", "attention.output.dense", "intermediate.dense")]  # fmt: skip
    weights = [layer.weight for path, layer in model.named_modules() if path in paths]
    rows = []
    for form in FORMS:
        plain = once = often = total = 0.0
        for weight in weights:
            quantized = mx.dequantize(*mx.quantize(weight, **form), **form).astype(mx.float32)
            plain += float(mx.square(weight - quantized).sum())
            total += float(mx.square(weight).sum())
            for rounds in (1, 5):
                a, b, arrays = loftq(weight, RANK, 2.0, iterations=rounds, **form)
                found = mx.dequantize(*arrays, **form).astype(mx.float32) + 2.0 * b @ a
                error = float(mx.square(weight - found).sum())
                once, often = (once + error, often) if rounds == 1 else (once, often + error)
        cells = [(each / total) ** 0.5 for each in (plain, once, often)]
        rows.append([_name(form), *(f"{each:.4f}" for each in cells),
                     f"{1 - cells[2] / cells[0]:.1%}"])  # fmt: skip
    return rows


def _adapted(folder: Path, form: dict | None, effect: float) -> Any:
    """Return the encoder with an adapter that changes each layer's outputs by about `effect`."""
    model, _ = load_model(folder)
    model.eval()
    if form:
        nn.quantize(model, **form, class_predicate=lambda _, layer: isinstance(layer, nn.Linear))
    add_adapter(model, LoraConfig(r=RANK, lora_alpha=16, target_modules=TARGETS),
                key=mx.random.key(0))  # fmt: skip
    key = mx.random.key(1)
    for layer in model.modules():
        if "lora_B" not in layer:
            continue
        key, own = mx.random.split(key)
        layer.lora_B.weight = mx.random.normal(layer.lora_B.weight.shape, key=own)
    x = mx.random.normal((256, 1536), key=mx.random.key(2))
    for layer in model.modules():
        adapters = layer.get("adapters") if "base_layer" in layer else None
        if adapters:
            adapter = adapters["default"]
            columns = adapter.lora_A.weight.shape[1]
            plain = layer.base_layer(x[:, :columns])
            change = adapter(layer.base_layer, x[:, :columns], plain) - plain
            size = mx.linalg.norm(plain) / mx.linalg.norm(change)
            adapter.lora_B.weight = effect * size * adapter.lora_B.weight
    mx.eval(model.parameters())
    return model


def _ids() -> mx.array:
    return mx.random.randint(1000, 20000, (4, 32), key=mx.random.key(3))


def _name(form: dict | None) -> str:
    if form is None:
        return "float32"
    return f"{form['mode']} {form['bits']} bits, groups of {form['group_size']}"
