"""Constrained decoding by llguidance: the tokens that a grammar allows next, as a mask.

A grammar is a JSON schema, a regular expression or a grammar in llguidance's form of Lark. White
space between the tokens of JSON is limited, so that a weak model cannot write it for ever.
"""

import json
from collections.abc import Mapping
from functools import lru_cache
from threading import Lock
from typing import Any

import llguidance
import numpy as np

from mlx_gpt.tokenizer import AnyTokenizer

# `x-guidance` of a schema: what it may not set itself, as `lenient`, which ignores keywords.
_JSON_OPTIONS = {"whitespace_pattern": r"[\x20\x0A\x0D\x09]{0,20}"}
_LONGEST_ERROR = 300
# Bytes that a text in UTF-8 may have, but for control characters.
_BYTES = [bytes([each]) for each in range(0x20, 0xF5) if each not in (0x7F, 0xC0, 0xC1)]
_lock = Lock()


class Grammar:
    """The state of one answer under a grammar; a `TokenMask`.

    Make one by the functions of this module. Each answer needs its own: `copy` gives one that
    begins where this is now.
    """

    def __init__(self, matcher: llguidance.LLMatcher, vocab_size: int):
        self._matcher = matcher
        self._vocab_size = vocab_size

    @property
    def ended(self) -> bool:
        """Whether nothing may follow but an end token."""
        return self._matcher.is_stopped()

    @property
    def complete(self) -> bool:
        """Whether the answer may end here."""
        return self._matcher.is_accepting()

    def allowed(self) -> np.ndarray:
        """Return the mask of allowed tokens, boolean (vocab_size,).

        The tokenizer's end tokens are allowed where the answer may end. Raises `ValueError` if no
        token is allowed: no token of the vocabulary has the bytes that the grammar demands.
        """
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        mask = np.unpackbits(bits, count=self._vocab_size, bitorder="little").view(bool)
        self._check()
        if not mask.any():
            raise ValueError("the grammar allows no token of this vocabulary here")
        return mask

    def accept(self, token: int) -> None:
        """Take the next token of the answer; `ValueError` if the grammar does not allow it."""
        self._matcher.consume_token(token)
        self._check()

    def copy(self) -> "Grammar":
        """Return a grammar in the same state, for another answer."""
        return Grammar(self._matcher.deep_copy(), self._vocab_size)

    def _check(self) -> None:
        if self._matcher.is_error():
            raise ValueError(f"the grammar failed: {_one_line(self._matcher.get_error())}")


def response_grammar(tokenizer: AnyTokenizer, value: Mapping[str, Any]) -> Grammar | None:
    """Return the grammar of OpenAI's `response_format`, None for the type `text`."""
    kind = value.get("type")
    if kind == "text":
        return None
    if kind == "json_object":
        return json_object(tokenizer)
    if kind != "json_schema":
        raise ValueError(
            f"response_format.type must be text, json_object or json_schema, got {kind!r}"
        )
    inner = value.get("json_schema")
    if not isinstance(inner, Mapping) or not isinstance(inner.get("schema"), Mapping):
        raise ValueError("response_format.json_schema.schema must be an object")
    grammar = json_schema(tokenizer, inner["schema"])
    if inner.get("strict"):
        check_strict(inner["schema"])
    return grammar


def json_object(tokenizer: AnyTokenizer) -> Grammar:
    """Return the grammar of any JSON object."""
    return json_schema(tokenizer, {"type": "object"})


def json_schema(tokenizer: AnyTokenizer, schema: Mapping[str, Any]) -> Grammar:
    """Return the grammar of JSON that is valid under a schema (draft 2020-12).

    Raises `ValueError` for a schema that is invalid, that nothing can satisfy, or that has a
    keyword which llguidance does not enforce.
    """
    text = llguidance.LLMatcher.grammar_from_json_schema(schema_text(schema))
    return _compile(tokenizer, text, "the JSON schema")


def regex(tokenizer: AnyTokenizer, pattern: str) -> Grammar:
    """Return the grammar of a whole text that matches an expression of Rust's regex crate."""
    text = llguidance.LLMatcher.grammar_from_regex(pattern)
    return _compile(tokenizer, text, "the regular expression")


def lark(tokenizer: AnyTokenizer, text: str, what: str = "the grammar") -> Grammar:
    """Return a grammar in llguidance's form of Lark; `what` names it in errors."""
    return _compile(tokenizer, llguidance.LLMatcher.grammar_from_lark(text), what)


def schema_text(schema: Mapping[str, Any]) -> str:
    """Return a schema as JSON with our options, also for `%json` in Lark."""
    try:
        return json.dumps({**schema, "x-guidance": _JSON_OPTIONS}, ensure_ascii=False)
    except RecursionError:
        raise ValueError("the JSON schema is nested too deeply") from None


def check_strict(schema: Mapping[str, Any], path: str = "schema") -> None:
    """Raise `ValueError` unless a schema obeys OpenAI's rules for `strict`.

    The top is an object. Each object lists all its properties as required and sets
    `additionalProperties` to false.
    """
    if path == "schema" and schema.get("type") != "object":
        raise ValueError("a strict schema must have type object at the top")
    properties = schema.get("properties", {})
    if schema.get("type") == "object" or properties:
        if schema.get("additionalProperties") is not False:
            raise ValueError(f"{path}: a strict schema needs additionalProperties: false")
        missing = [name for name in properties if name not in schema.get("required", ())]
        if missing:
            raise ValueError(f"{path}: a strict schema must require {', '.join(missing)} too")
    for place, inner in _subschemas(schema):
        check_strict(inner, f"{path}.{place}")


def _subschemas(schema: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    found = []
    for key in ("properties", "$defs", "definitions"):
        found += [(f"{key}.{name}", each) for name, each in dict(schema.get(key) or {}).items()]
    for key in ("anyOf", "allOf", "oneOf", "prefixItems"):
        found += [(f"{key}[{number}]", each) for number, each in enumerate(schema.get(key) or ())]
    found.append(("items", schema.get("items")))
    return [(place, each) for place, each in found if isinstance(each, Mapping)]


def _compile(tokenizer: AnyTokenizer, text: str, what: str) -> Grammar:
    with _lock:
        environment = _environment(tokenizer)
    limits = llguidance.LLParserLimits(verbose_errors=False)
    matcher = llguidance.LLMatcher(environment, text, log_level=0, limits=limits)
    if matcher.is_error():
        raise ValueError(f"{what} is not supported: {_one_line(matcher.get_error())}")
    grammar = Grammar(matcher, tokenizer.vocab_size)
    try:
        grammar.allowed()
    except ValueError:
        raise ValueError(f"{what} cannot be satisfied: no token can begin it") from None
    return grammar


@lru_cache(maxsize=4)
def _environment(tokenizer: AnyTokenizer) -> llguidance.LLTokenizer:
    """Return a tokenizer as llguidance needs it; this takes about a second for 128,000 tokens."""
    ends = sorted(tokenizer.end_ids)
    if not ends:
        raise ValueError("this model has no token that ends an answer, so no grammar can")
    wrapper = llguidance.TokenizerWrapper(_Pieces(tokenizer, ends[0]))
    return llguidance.LLTokenizer(wrapper, eos_token=ends)


class _Pieces:
    """What `TokenizerWrapper` reads: the bytes of each token, and how a text is encoded."""

    def __init__(self, tokenizer: AnyTokenizer, eos_id: int):
        self._tokenizer = tokenizer
        self.eos_token_id, self.bos_token_id = eos_id, None
        self.special_token_ids = sorted(tokenizer.special_ids)
        self.tokens = [self._bytes(number) for number in range(tokenizer.vocab_size)]
        specials = set(self.special_token_ids)
        self._numbers = {each: number for number, each in enumerate(self.tokens)
                         if each and number not in specials}  # fmt: skip
        self._longest = max(map(len, self._numbers), default=0)
        missing = [each for each in _BYTES if each not in self._numbers]
        if missing:
            raise ValueError(
                f"the vocabulary has no token for {len(missing)} bytes, as {missing[0]!r}, so no "
                "grammar can be followed"
            )

    def __call__(self, data: bytes) -> list[int]:
        """Return the tokens of exactly these bytes.

        Tokenizers in the style of SentencePiece put a space before a text; the second attempt puts
        it before a character that nothing merges with.
        """
        for before in ("", "\x02"):
            ids = self._tokenizer.encode(before + data.decode())
            for begin in range(min(len(ids), 4)):
                if b"".join([self.tokens[each] for each in ids[begin:]]) == data:
                    return ids[begin:]
        return self._greedy(data)

    def _greedy(self, data: bytes) -> list[int]:
        """Return the longest tokens from left to right."""
        ids = []
        while data:
            lengths = range(min(self._longest, len(data)), 0, -1)
            length = next((each for each in lengths if data[:each] in self._numbers), 1)
            ids.append(self._numbers.get(data[:length], self.eos_token_id))
            data = data[length:]
        return ids

    def _bytes(self, number: int) -> bytes:
        try:
            return self._tokenizer.decode_bytes([number])
        except ValueError:  # an id without a token
            return b""


def _one_line(text: str) -> str:
    text = text.partition("\n<state>")[0].removesuffix("<non-verbose/>")
    return " ".join(text.split())[:_LONGEST_ERROR]
