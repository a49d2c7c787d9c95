"""The names by which requests choose the model or one of its adapters."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mlx_gpt.serve.errors import ApiError
from mlx_gpt.serve.settings import ServedModel


@dataclass(frozen=True)
class Choice:
    """A model that a request may name: `id` in answers, and its adapter, if any."""

    id: str
    adapter: str | None = None


class ServedNames:
    """Matches names by id, the part after the last slash, alias, adapter, and `model:adapter`.

    Names are only compared, never opened or downloaded. Raises `ValueError` for a name with two
    meanings.
    """

    def __init__(self, model: ServedModel, adapters: Sequence[str], context_length: int):
        self.default = Choice(model.id)
        self._created, self._context_length = int(time.time()), context_length
        self.choices = [self.default, *(Choice(f"{model.id}:{each}", each) for each in adapters)]
        bases = dict.fromkeys([model.id, model.id.rpartition("/")[2], *model.aliases])
        self._by_name = dict.fromkeys(bases, self.default)
        for choice in self.choices[1:]:
            assert choice.adapter is not None
            for name in (choice.adapter, *(f"{base}:{choice.adapter}" for base in bases)):
                if self._by_name.setdefault(name, choice) != choice:
                    raise ValueError(f"the name {name!r} is the model's and an adapter's")

    def find(self, name: str | None) -> Choice:
        """Return what a request names, the model if it names none; a 404 for another name."""
        if name is None:
            return self.default
        if name not in self._by_name:
            known = ", ".join(each.id for each in self.choices)
            raise ApiError(
                404, f"there is no model {name[:100]!r} here, only {known}",
                param="model", code="model_not_found",
            )  # fmt: skip
        return self._by_name[name]

    def describe(self, choice: Choice) -> dict[str, Any]:
        """Return the object of a model in /v1/models."""
        return {
            "id": choice.id, "object": "model", "created": self._created, "owned_by": "mlx-gpt",
            "adapter": choice.adapter, "context_length": self._context_length,
        }  # fmt: skip

    def listing(self) -> Iterator[dict[str, Any]]:
        """Yield the objects of all models."""
        yield from map(self.describe, self.choices)
