"""One adapter a row: a batch whose rows use different adapters, in one forward pass."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten

from mlx_lora.adapters import active_adapters, adapter_configs, check_known, set_adapter
from mlx_lora.convolution import convolve
from mlx_lora.layers import Parts, adapted_layers
from mlx_lora.targets import CONVOLUTIONS, EMBEDDINGS
from mlx_lora.whole import copies_of, values_of, whole_modules, whole_values


class MixedAdapters:
    """Adapters of one model, stacked for batches that mix them; as many batches as wanted.

    The stack is a copy of the adapters' present values; the base is shared, and may be quantized.
    DoRA, IA3, embeddings, convolutions and heads can be mixed too. Gradients are not meant for it.
    A compiled function that captures `model.state` is compiled once for each shape of a batch,
    whatever the adapters of its rows.

    Raises `ValueError` for unknown names, merged models, and adapters with `bias="all"` or
    "lora_only".
    """

    def __init__(self, model: nn.Module, names: Sequence[str]):
        known = adapter_configs(model)
        for name in names:
            check_known(name, known)
        if repeated := [name for name in names if list(names).count(name) > 1]:
            raise ValueError(f"names has {repeated[0]!r} twice")
        self.model, self.names = model, tuple(names)
        active = active_adapters(model)
        set_adapter(model, ())
        self._layers = {
            path: (layer, RowsOfLayer(layer.base_layer, [layer.known.get(n) for n in self.names]))
            for path, layer in adapted_layers(model).items()
            if any(name in layer.known for name in self.names)
        }
        self._whole = dict(self._stack_whole())
        set_adapter(model, active)

    @contextmanager
    def rows(self, names: Sequence[str | None]) -> Iterator[None]:
        """Within the block, row i of each batch uses the adapter `names[i]`; None is the base.

        Raises `ValueError` for names that are not in the stack, and in the block for batches of
        another number of rows.
        """
        index = self._index(names)
        if any("rows" in layer for layer, _ in self._layers.values()):
            raise ValueError("the model is within a block of rows already; end that one first")
        active = active_adapters(self.model)
        set_adapter(self.model, ())
        originals = [(path, original) for path, (original, _) in self._whole.items()]
        for layer, stack in self._layers.values():
            stack._index = index
            layer.rows = stack
        for path, (_, mixed) in self._whole.items():
            mixed._index = index
            self.model.update_modules(tree_unflatten([(path, mixed)]))
        try:
            yield
        finally:
            for layer, _ in self._layers.values():
                del layer["rows"]
            if originals:
                self.model.update_modules(tree_unflatten(originals))
            set_adapter(self.model, active)

    def _index(self, names: Sequence[str | None]) -> mx.array:
        if isinstance(names, str):
            raise TypeError(f"names must have one entry for each row, got the string {names!r}")
        positions = {None: 0, **{name: i + 1 for i, name in enumerate(self.names)}}
        for row, name in enumerate(names):
            if name not in positions:
                listed = ", ".join(map(repr, self.names))
                raise ValueError(
                    f"row {row} asks for {name!r}, which is not stacked here: {listed}"
                )
        return mx.array([positions[name] for name in names])

    def _stack_whole(self) -> Iterator[tuple[str, tuple[nn.Module, "RowsOfModule"]]]:
        for path, module in whole_modules(self.model).items():
            copies = copies_of(module)
            assert copies is not None
            having = [name for name in self.names if name in copies.by_adapter]
            if having and copies.keys is not None:
                raise ValueError(
                    f"{having[0]!r} trains the biases of the model: it cannot be mixed"
                )
            if having:
                values = [
                    whole_values(module, name) or values_of(module, None) for name in self.names
                ]
                yield path, (module, RowsOfModule(module, [values_of(module, None), *values]))


@contextmanager
def adapter_rows(model: nn.Module, names: Sequence[str | None]) -> Iterator[None]:
    """Within the block, row i of each batch uses the adapter `names[i]`; None is the base.

    For one batch; `MixedAdapters` stacks the adapters once for many.
    """
    chosen = list(dict.fromkeys(name for name in names if name is not None))
    with MixedAdapters(model, chosen).rows(names):
        yield


class RowsOfModule(nn.Module):
    """A module that is trained whole, with the values of each adapter; a row takes its own."""

    def __init__(self, module: nn.Module, values: Sequence[dict[str, mx.array]]):
        super().__init__()
        self._module, self._values = module, list(values)
        self._index = mx.array([0])
        self.train(module.training)

    def __call__(self, *arguments: Any, **options: Any) -> mx.array:
        """Call the module once with each adapter's values, and pick the rows."""
        index, outputs = self._index, []
        for values in self._values:
            self._module.update(tree_unflatten(list(values.items())))
            outputs.append(self._module(*arguments, **options))
        self._module.update(tree_unflatten(list(self._values[0].items())))
        _check_rows(outputs[0], index)
        return mx.stack(outputs)[index, mx.arange(index.size)]


class RowsOfLayer(nn.Module):
    """The adapters of one layer side by side: the hidden values of all come from one product.

    A row then keeps those of its own adapter. `_down` (R, in), of all ranks together, `_up`
    (out, R), `_owner` (R,); `_added`, `_ratio`, `_outputs` (adapters + 1, out), `_inputs`
    (adapters + 1, in), where the first row is of the base alone.
    """

    def __init__(self, base: Any, adapters: Sequence[Any]):
        super().__init__()
        parts = [Parts() if each is None else each.parts(base) for each in adapters]
        self._index = mx.array([0])
        downs = [each.down for each in parts if each.down is not None]
        if downs:
            self._down = mx.concatenate(downs)
            self._up = mx.concatenate([each.up for each in parts if each.up is not None], axis=1)
            self._owner = mx.array([
                i + 1 for i, each in enumerate(parts)
                for _ in range(0 if each.down is None else each.down.shape[0])
            ])  # fmt: skip
        for name, neutral in (("added", 0), ("ratio", 1), ("outputs", 1), ("inputs", 1)):
            arrays = [getattr(each, name) for each in parts]
            given = next((each for each in arrays if each is not None), None)
            if given is not None:
                plain = mx.full(given.shape, neutral, given.dtype)
                self[f"_{name}"] = mx.stack([plain, *(plain if a is None else a for a in arrays)])
        mx.eval(list(self.values()))

    def __call__(self, base: Any, x: mx.array) -> mx.array:
        """Return the output of the layer `base`, changed in each row by the row's adapter."""
        _check_rows(x, self._index)
        if "_inputs" in self:
            x = (x * self._picked("_inputs", x.ndim)).astype(x.dtype)
        y = base(x)
        changed = y
        if "_down" in self:
            changed = y + self._own(_hidden(base, x, self._down)) @ self._up.T
        if "_added" in self:
            changed = changed + self._picked("_added", y.ndim)
        if "_ratio" in self:
            bias = base.get("bias", mx.zeros((), y.dtype))
            changed = self._picked("_ratio", y.ndim) * (changed - bias) + bias
        if "_outputs" in self:
            changed = changed * self._picked("_outputs", y.ndim)
        return changed.astype(y.dtype)

    def as_linear(self, base: Any, x: mx.array) -> mx.array:
        """Return the scores of a tied output layer, each row with its adapter's table."""
        _check_rows(x, self._index)
        if "_ratio" in self:
            x = (x * self._picked("_ratio", x.ndim)).astype(x.dtype)
        y = base.as_linear(x)
        return (y + self._own(x @ self._up) @ self._down).astype(y.dtype) if "_up" in self else y

    def _own(self, hidden: mx.array) -> mx.array:
        """Keep, of the hidden values (B, ..., R), those of the row's adapter."""
        kept = self._owner == self._index[:, None]
        kept = kept.reshape(kept.shape[0], *[1] * (hidden.ndim - 2), -1)
        return mx.where(kept, hidden, mx.zeros((), hidden.dtype))

    def _picked(self, name: str, axes: int) -> mx.array:
        """Return the row's vectors (B, 1, ..., out)."""
        picked = self[name][self._index]
        return picked.reshape(picked.shape[0], *[1] * (axes - 2), -1)


def _hidden(base: Any, x: mx.array, down: mx.array) -> mx.array:
    """Return the product of inputs with the As (R, ...) of a layer, (B, ..., R)."""
    if isinstance(base, EMBEDDINGS):
        return mx.moveaxis(mx.take(down, x, axis=1), 0, -1)
    if isinstance(base, CONVOLUTIONS):
        return convolve(base, x.astype(down.dtype), down)
    return x.astype(down.dtype) @ down.T


def _check_rows(x: mx.array, index: mx.array) -> None:
    if x.shape[0] != index.size:
        raise ValueError(f"the batch has {x.shape[0]} rows, but {index.size} adapters were named")
