"""The bytes of a single token, for the decoders of `tokenizer.json` files.

Text is decoded token by token while a model writes it, so the bytes of a token must not depend on
its neighbours. Byte-level decoders (GPT-2, Llama 3, Qwen) write one character per byte. Decoders in
the style of SentencePiece (Llama 2, TinyLlama, Mistral) write a space as U+2581 and bytes without a
token as `<0xE2>`; they also remove the space before the first word of a text.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mlx_gpt.tokenizer.files import from_byte_alphabet

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SUPPORTED = ("ByteLevel", "Replace", "ByteFallback", "Fuse", "Strip", "Metaspace")


@dataclass(frozen=True)
class PieceDecoder:
    """`to_bytes` returns the bytes of a token's text in the vocabulary.

    Decoding a whole text removes at most `strip` leading spaces.
    """

    to_bytes: Callable[[str], bytes]
    strip: int


def piece_decoder(decoder: Mapping[str, Any] | None, source: str) -> PieceDecoder:
    """Return the decoder for the `decoder` of a `tokenizer.json`; `source` is for errors.

    Raises `ValueError` for the decoders of encoder models, such as WordPiece.
    """
    steps = _steps(decoder)
    types = [step.get("type") for step in steps]
    unknown = [str(each) for each in types if each not in _SUPPORTED]
    if unknown or not steps:
        raise ValueError(
            f"{source}: the decoder {', '.join(unknown) or None} is not supported; expected "
            "byte-level BPE or SentencePiece style"
        )
    if "ByteLevel" in types:
        return PieceDecoder(_byte_level, 0)
    spaces = dict(filter(None, map(_replacement, steps)))
    fallback = "ByteFallback" in types

    def to_bytes(token: str) -> bytes:
        if fallback and (found := _BYTE.fullmatch(token)):
            return bytes([int(found[1], 16)])
        for written, text in spaces.items():
            token = token.replace(written, text)
        return token.encode()

    return PieceDecoder(to_bytes, max(map(_strip, steps)))


def _byte_level(token: str) -> bytes:
    try:
        return from_byte_alphabet(token)
    except KeyError:  # an added token
        return token.encode()


def _replacement(step: Mapping[str, Any]) -> tuple[str, str] | None:
    if step["type"] == "Metaspace":
        return step.get("replacement", "\u2581"), " "
    if step["type"] == "Replace" and "String" in step["pattern"]:
        return step["pattern"]["String"], step["content"]
    return None


def _strip(step: Mapping[str, Any]) -> int:
    if step["type"] == "Metaspace":
        # Files of older versions have a flag instead of the scheme.
        first = step.get("prepend_scheme", "always") != "never" and step.get("add_prefix_space", 1)
        return int(bool(first))
    return step.get("start", 0) if step["type"] == "Strip" else 0


def _steps(decoder: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    if decoder is None:
        return []
    if decoder["type"] == "Sequence":
        return [step for each in decoder["decoders"] for step in _steps(each)]
    return [decoder]
