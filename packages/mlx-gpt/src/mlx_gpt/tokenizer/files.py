"""Read and write `tokenizer.json` in the layout of Hugging Face's `tokenizers`.

The file writes a token with one character per byte, in GPT-2's byte alphabet. This module converts
that to bytes and back, and decides whether tiktoken can encode with the vocabulary.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

GPT2_PATTERN = (
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"  # ByteLevel's
)

_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]
# A printable byte is written as itself, the others as the characters from U+0100 on, in order.
ALPHABET = {byte: chr(byte) for byte in _PRINTABLE} | {
    byte: chr(256 + place) for place, byte in enumerate(_OTHERS)
}
_MAX_IDS = 2**24
_BYTES = {character: byte for byte, character in ALPHABET.items()}


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a file.

    `tokens` has the bytes of each id (for an added token, of its text), `specials` the ids of
    special tokens. With `ranks` and `pattern` tiktoken returns the same ids as `tokenizers`; both
    are None if it cannot.
    """

    tokens: dict[int, bytes]
    specials: dict[str, int]
    ranks: dict[bytes, int] | None
    pattern: str | None


def make_layout(ranks: Mapping[bytes, int], pattern: str, specials: Sequence[str]) -> dict:
    """Return the content of a `tokenizer.json` with tiktoken's `ranks`, then `specials`.

    tiktoken merges any two tokens whose concatenation is a token, so each such pair becomes a
    merge. A piece that is a token as a whole is that token (`ignore_merges`).
    """
    ordered = sorted(ranks, key=ranks.__getitem__)
    merges = [
        f"{to_byte_alphabet(token[:cut])} {to_byte_alphabet(token[cut:])}"
        for token in ordered
        for cut in range(1, len(token))
        if token[:cut] in ranks and token[cut:] in ranks
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            _added(content, len(ordered) + place) for place, content in enumerate(specials)
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [split | {"invert": False}, byte_level | {"use_regex": False}],
        },
        "post_processor": None,
        "decoder": byte_level | {"use_regex": False},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,
            "vocab": {to_byte_alphabet(token): ranks[token] for token in ordered},
            "merges": merges,
        },
    }


def parse_layout(text: str, source: str) -> Vocabulary:
    """Return the vocabulary of a `tokenizer.json` from its text; `source` is for errors.

    Raises `ValueError` unless it is byte-level BPE.
    """
    try:
        layout = json.loads(text)
        model, added = layout["model"], layout.get("added_tokens") or []
        _check_byte_level(layout, source)
        _check_ids({**model["vocab"], **{each["content"]: each["id"] for each in added}})
        specials = {each["content"]: each["id"] for each in added if each["special"]}
        plain = {each["content"]: each["id"] for each in added if not each["special"]}
        written = {
            token: number
            for token, number in model["vocab"].items()
            if token not in specials and token not in plain
        }
        tokens = {number: _token_bytes(token, source) for token, number in written.items()}
        merges = [_pair(each) for each in model["merges"]]
        pattern = None if layout.get("normalizer") or plain else _one_pattern(layout)
        ranks = _ranks(written, merges, bool(model.get("ignore_merges"))) if pattern else None
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{source}: not a tokenizer.json of Hugging Face's tokenizers ({error!r})"
        ) from error
    if missing := {bytes([byte]) for byte in range(256)} - set(tokens.values()):
        raise ValueError(
            f"{source}: {len(missing)} of the 256 bytes have no token; the first is {min(missing)}"
        )
    tokens |= {number: content.encode() for content, number in (specials | plain).items()}
    return Vocabulary(tokens, specials, ranks, pattern if ranks else None)


def read_config(path: Path) -> dict:
    """Return the content of a `tokenizer_config.json`; `ValueError` if it is damaged."""
    config = json.loads(path.read_text("utf-8"))
    if not isinstance(config, dict):
        raise ValueError(f"{path} must contain a JSON object, got a {type(config).__name__}")
    for key in ("bos_token", "eos_token"):
        if not isinstance(token_text(config.get(key)), str | None):
            raise ValueError(f"{path}: {key} must be text, got {config[key]!r}")
    return config


def token_text(token: str | dict | None) -> str | None:
    """Return the text of a token in a `tokenizer_config.json`: text, or an object with it."""
    return token.get("content") if isinstance(token, dict) else token


def layout_sha256(text: str) -> str:
    """Return the hash of a `tokenizer.json`, independent of white space and the order of keys."""
    plain = json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(plain.encode()).hexdigest()


def to_byte_alphabet(token: bytes) -> str:
    """Return a token in GPT-2's byte alphabet."""
    return "".join([ALPHABET[byte] for byte in token])


def from_byte_alphabet(token: str) -> bytes:
    """Return the bytes of a token in GPT-2's byte alphabet; `KeyError` for other characters."""
    return bytes([_BYTES[character] for character in token])


def _token_bytes(token: str, source: str) -> bytes:
    try:
        return from_byte_alphabet(token)
    except KeyError as error:
        raise ValueError(
            f"{source}: expected byte-level BPE, but token {token!r} has the character {error}, "
            "which is not a byte"
        ) from None


def _check_ids(vocabulary: Mapping[object, object]) -> None:
    for token, number in vocabulary.items():
        if not isinstance(token, str) or type(number) is not int or not 0 <= number < _MAX_IDS:
            raise TypeError(f"token {token!r} has the id {number!r}")


def _pair(merge: str | list[str]) -> list[str]:
    parts = merge.split(" ") if isinstance(merge, str) else merge
    if len(parts) != 2:
        raise TypeError(f"merge {merge!r} does not have two tokens")
    return parts


def _added(content: str, number: int) -> dict:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": number, "content": content, **flags, "special": True}


def _check_byte_level(layout: dict, source: str) -> None:
    model, steps = layout["model"], _steps(layout.get("pre_tokenizer"))
    refused = ("continuing_subword_prefix", "end_of_word_suffix", "dropout")
    found = [f"{option} {model[option]!r}" for option in refused if model.get(option)]
    if model["type"] != "BPE":
        found = [f"a model of type {model['type']}"]
    elif "ByteLevel" not in [step["type"] for step in steps]:
        found = [f"the pre-tokenizers {[step['type'] for step in steps]} without ByteLevel"]
    if found:
        raise ValueError(f"{source}: expected byte-level BPE, found {', '.join(found)}")


def _steps(pre_tokenizer: dict | None) -> list[dict]:
    if pre_tokenizer is None:
        return []
    if pre_tokenizer["type"] == "Sequence":
        return [step for each in pre_tokenizer["pretokenizers"] for step in _steps(each)]
    return [pre_tokenizer]


def _one_pattern(layout: dict) -> str | None:
    """Return the regular expression that splits text, None unless there is exactly one."""
    *splits, last = _steps(layout["pre_tokenizer"])
    if last["type"] != "ByteLevel" or last.get("add_prefix_space", True):
        return None
    if last.get("use_regex", True):
        return None if splits else GPT2_PATTERN
    if len(splits) != 1 or splits[0]["type"] != "Split" or splits[0].get("invert"):
        return None
    if splits[0]["behavior"] != "Isolated":
        return None
    return splits[0]["pattern"].get("Regex")


def _ranks(
    written: Mapping[str, int], merges: Sequence[Sequence[str]], whole: bool
) -> dict[bytes, int] | None:
    """Return tiktoken's ranks, which are ids; None if merges are not in the order of ids.

    A token that results from no merge is found only as a whole piece, and only with
    `ignore_merges` (here `whole`).
    """
    made = [written[left + right] for left, right in merges]
    parts_first = whole or all(
        len(part) == 1 or written[part] < number
        for pair, number in zip(merges, made, strict=True)
        for part in pair
    )
    if made != sorted(made) or not parts_first:
        return None
    reachable = set(made)
    return {
        from_byte_alphabet(token): number
        for token, number in written.items()
        if whole or len(token) == 1 or number in reachable
    }
