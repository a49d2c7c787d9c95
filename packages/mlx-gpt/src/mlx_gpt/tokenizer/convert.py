"""nanochat's `tokenizer.pkl` turned into a tokenizer.json."""

import pickle
from pathlib import Path
from typing import Any

from mlx_gpt.tokenizer.tokenizer import Tokenizer


def convert_nanochat_tokenizer(path: str | Path, unsafe: bool = False) -> Tokenizer:
    """Return the tokenizer of nanochat's `tokenizer.pkl`, or of the folder that has it.

    A pickle can run any program. This reader takes tiktoken's `Encoding` and nothing else, and
    does not even make one; it refuses all the same unless you say `unsafe=True`. Raises
    `ValueError` for a pickle of anything else.
    """
    path = Path(path).expanduser()
    path = path / "tokenizer.pkl" if path.is_dir() else path
    if not unsafe:
        raise ValueError(
            f"{path} is a pickle, which can run programs; say unsafe=True (--unsafe) if you trust "
            "where it comes from"
        )
    with path.open("rb") as file:
        try:
            state = _Unpickler(file).load().state
            ranks, pattern = state["mergeable_ranks"], state["pat_str"]
            specials = sorted(state["special_tokens"], key=state["special_tokens"].__getitem__)
            numbers = sorted(state["special_tokens"].values())
        except Exception as error:  # of the many that a damaged pickle may lead to
            raise ValueError(f"{path}: not a tokenizer of nanochat: {error!r}") from error
    if numbers != list(range(len(ranks), len(ranks) + len(specials))):
        raise ValueError(f"{path}: special tokens must have the ids after the others")
    try:
        return Tokenizer.from_ranks(ranks, pattern, specials)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


class _Encoding:
    """Stands for tiktoken's class: keeps what the pickle says, and runs nothing."""

    state: dict[str, Any]

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.state = state


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type:
        if (module, name) != ("tiktoken.core", "Encoding"):
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return _Encoding
