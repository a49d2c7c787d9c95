"""Adapters that a batch may mix: each row has its own, or none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from mlx_gpt.models.adapters import apply_adapter
from mlx_gpt.models.decoder import Decoder
from mlx_lora import MixedAdapters, set_adapter
from mlx_lora.adapters import adapter_configs


class NamedAdapters:
    """The adapters in the folders of `adapters`, by name, loaded onto a model in place.

    `use` states those of the next batches. Raises `ValueError` for adapters that do not fit, that
    cannot be mixed, and for a model that has an adapter already.
    """

    def __init__(self, model: Decoder, adapters: Mapping[str, Path]):
        self._mixed: MixedAdapters | None = None
        self._block, self._names = ExitStack(), ()
        if not adapters:
            return
        if known := adapter_configs(model):
            raise ValueError(
                f"the model has the adapter {next(iter(known))!r} in it: fuse it first (mlx-gpt "
                "fuse), or serve its base model and name it with the others"
            )
        for name, folder in adapters.items():
            apply_adapter(model, folder, None, name)
        set_adapter(model, ())
        self._mixed = MixedAdapters(model, list(adapters))

    def use(self, names: Sequence[str | None]) -> None:
        """Let row i of the batches use `names[i]` until the next call; None is the model itself."""
        names = tuple(names) if any(names) else ()
        if names == self._names:
            return
        self._block.close()
        self._names = ()
        if names:
            assert self._mixed is not None  # names were checked against those loaded
            self._block.enter_context(self._mixed.rows(names))
            self._names = names
