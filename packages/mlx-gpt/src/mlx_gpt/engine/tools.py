"""Tool use in a stream of tokens: what stands between the markers of a call is computed.

A model writes `<|python_start|>12*7<|python_end|>`. The next tokens are then not drawn but forced:
`<|output_start|>84<|output_end|>`, and the model goes on from there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlx_gpt.engine.calculator import calculate

if TYPE_CHECKING:
    from mlx_gpt.tokenizer import Tokenizer


@dataclass(frozen=True)
class Markers:
    """Ids of the tokens around calls and around their results."""

    python_start: int
    python_end: int
    output_start: int
    output_end: int

    @staticmethod
    def of(tokenizer: Tokenizer) -> Markers | None:
        """Return a tokenizer's markers, or None if it has none."""
        names = ("python_start", "python_end", "output_start", "output_end")
        try:
            return Markers(*(tokenizer.special(f"<|{name}|>") for name in names))
        except KeyError:
            return None


class ToolUse:
    """Follows the tokens of one row and answers its calls."""

    def __init__(self, tokenizer: Tokenizer, markers: Markers):
        self._tokenizer = tokenizer
        self._markers = markers
        self._call: list[int] | None = None  # tokens of the call being written

    def see(self, token: int) -> list[int]:
        """Take the row's next token; return those to be forced after it.

        There are none unless it ends a call that `calculate` can answer.
        """
        if token == self._markers.python_start:
            self._call = []
        elif token == self._markers.python_end and self._call is not None:
            result = calculate(self._tokenizer.decode(self._call))
            self._call = None
            if result is not None:
                markers = self._markers
                return [markers.output_start, *self._tokenizer.encode(result), markers.output_end]
        elif self._call is not None:
            self._call.append(token)
        return []


def content_parts(tokenizer: Tokenizer, ids: Iterable[int]) -> list[dict[str, str]]:
    """Return tokens of an answer as the content of a message: text, calls and their results.

    Each part is `{"type": "text" | "python" | "python_output", "text": ...}`. A call or a result
    that was cut off counts as far as it got.
    """
    markers = Markers.of(tokenizer)
    if markers is None:
        text = tokenizer.decode(list(ids))
        return [{"type": "text", "text": text}] if text else []
    opens = {markers.python_start: "python", markers.output_start: "python_output"}
    closes = {markers.python_end, markers.output_end}
    parts: list[tuple[str, list[int]]] = [("text", [])]
    for token in ids:
        if token in opens:
            parts.append((opens[token], []))
        elif token in closes:
            parts.append(("text", []))
        else:
            parts[-1][1].append(token)
    return [{"type": kind, "text": tokenizer.decode(held)} for kind, held in parts if held]
