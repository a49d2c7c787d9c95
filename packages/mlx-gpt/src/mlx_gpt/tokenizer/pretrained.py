"""Tokenizers of Hugging Face models: a `tokenizer.json` and the files around it, as they are.

`tokenizer_config.json` names the special tokens and may hold the chat template;
`generation_config.json`, else `config.json`, has the ids that end an answer.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

from mlx_gpt.tokenizer.chat_template import (
    ChatTemplate,
    choose_chat_template,
    read_chat_template,
)
from mlx_gpt.tokenizer.decoding import piece_decoder
from mlx_gpt.tokenizer.encoding import replace_surrogates
from mlx_gpt.tokenizer.files import token_text
from mlx_gpt.tokenizer.vocabulary import TokenVocabulary
from mlx_trainer import write_atomic

_CONFIG, _MAP = "tokenizer_config.json", "special_tokens_map.json"
_GENERATION = "generation_config.json"
_NAMES = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token")


class PretrainedTokenizer(TokenVocabulary):
    """The tokenizer in a model folder of Hugging Face; the same methods as `Tokenizer`.

    `encode` adds no special tokens, and a special token spelled out in a text is ordinary text
    unless `allow_special`; `prompt_ids` adds what the model expects before a text. Raises
    `FileNotFoundError` or `ValueError` with the name of the file.
    """

    def __init__(self, folder: str | Path):
        self._folder = Path(folder)
        self.source = str(self._folder / "tokenizer.json")
        self._text = (self._folder / "tokenizer.json").read_text("utf-8")
        self._tokenizer = _parse(self._text, self.source)
        self._tokenizer.encode_special_tokens = True  # means: treat them as ordinary text
        self._config = _read_object(self._folder / _CONFIG)
        self._generation = _read_object(self._folder / _GENERATION)
        self._model = _read_object(self._folder / "config.json")
        added = self._tokenizer.get_added_tokens_decoder()
        self._specials = {each.content: id for id, each in added.items() if each.special}
        layout = json.loads(self._text)
        decoder = piece_decoder(layout.get("decoder"), self.source)
        self._strip = decoder.strip
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        self._tokens = {id: decoder.to_bytes(token) for token, id in vocabulary.items()}
        self._tokens |= {id: each.content.encode() for id, each in added.items()}
        self.vocab_size = max(self._tokens) + 1
        self._names = _special_names(_read_object(self._folder / _MAP), self._config, self.source)
        self.chat_template: ChatTemplate | None = read_chat_template(
            self._folder, self._config, self._names
        )

    @classmethod
    def load(cls, folder: str | Path) -> "PretrainedTokenizer":
        """Read the tokenizer of a folder."""
        return cls(folder)

    def use_chat_template(self, choice: str) -> None:
        """Replace the chat template by a built-in one (`chatml`, `plain`) or that of a file."""
        self.chat_template = choose_chat_template(choice, self._names)

    def save(self, folder: str | Path) -> None:
        """Write the tokenizer's files and the chat template into a folder, each atomically."""
        folder = Path(folder)
        config = {key: value for key, value in self._config.items() if key != "chat_template"}
        generation = self._generation or {
            key: self._model[key] for key in ("bos_token_id", "eos_token_id") if key in self._model
        }
        files = {"tokenizer.json": self._text, _CONFIG: _dump(config | self._names)}
        if generation:
            files[_GENERATION] = _dump(generation)
        for name, text in (self.chat_template.templates if self.chat_template else {}).items():
            file = f"additional_chat_templates/{name}.jinja"
            files["chat_template.jinja" if name == "default" else file] = text
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            write_atomic(
                folder / name, lambda path, text=text: path.write_bytes(text.encode("utf-8"))
            )

    def encode(self, text: str, allow_special: bool = False) -> list[int]:
        """Return the ids of a text; with `allow_special` names of special tokens are these."""
        encoder = self._special_encoder if allow_special else self._tokenizer
        return encoder.encode(replace_surrogates(text), add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str], threads: int | None = None) -> list[list[int]]:
        """Return the ids of each text; `tokenizers` chooses the number of threads."""
        plain = [replace_surrogates(each) for each in texts]
        return [
            each.ids for each in self._tokenizer.encode_batch_fast(plain, add_special_tokens=False)
        ]

    def encode_with_offsets(
        self, text: str, allow_special: bool = False
    ) -> list[tuple[int, tuple[int, int]]]:
        """Return each id with the characters of the text that it stands for."""
        encoder = self._special_encoder if allow_special else self._tokenizer
        encoding = encoder.encode(replace_surrogates(text), add_special_tokens=False)
        return list(zip(encoding.ids, encoding.offsets, strict=True))

    def prompt_ids(self, text: str) -> list[int]:
        """Return the ids of a text to continue, with BOS if the model expects it.

        An empty text is BOS, or the token that ends texts, even if the model expects none.
        """
        ids = [*self._prefix, *self.encode(text)]
        return ids or [self.bos_id if "bos_token" in self._names else self.eos_id]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids, with names of special tokens; invalid UTF-8 becomes U+FFFD.

        In the style of SentencePiece the space before the first word is removed.
        """
        text = self.decode_bytes(ids).decode("utf-8", "replace")
        spaces = len(text) - len(text.lstrip(" "))
        return text[min(self._strip, spaces) :]

    @property
    def special_names(self) -> tuple[str, ...]:
        """Names of all special tokens."""
        return tuple(self._specials)

    @property
    def bos_id(self) -> int:
        """Id of the token that begins a text; `ValueError` if the model has none."""
        return self._named("bos_token")

    @property
    def eos_id(self) -> int:
        """Id of the token that ends a text in training; `ValueError` if the model has none."""
        return self._named("eos_token")

    @cached_property
    def end_ids(self) -> frozenset[int]:
        """Ids that end an answer: those of `generation_config.json`, and `eos_token`."""
        found = self._ids("eos_token_id")
        if "eos_token" in self._names:
            found |= {self.eos_id}
        return frozenset(found)

    @cached_property
    def _special_encoder(self) -> tokenizers.Tokenizer:
        return _parse(self._text, self.source)

    @cached_property
    def _prefix(self) -> tuple[int, ...]:
        """The special tokens that the model expects before a text."""
        plain = self._tokenizer.encode("x", add_special_tokens=False).ids
        ids = self._tokenizer.encode("x").ids
        begins = range(len(ids) - len(plain) + 1)
        found = next((ids[:k] for k in begins if ids[k : k + len(plain)] == plain), [])
        wanted = self._config.get("add_bos_token")
        if wanted is None or "bos_token" not in self._names:
            return tuple(found)
        others = [number for number in found if number != self.bos_id]
        return tuple([self.bos_id, *others] if wanted else others)

    def _named(self, key: str) -> int:
        """Return the id of the token that the files call `key`."""
        if key in self._names:
            number = self._tokenizer.token_to_id(self._names[key])
            if number is None:
                raise ValueError(
                    f"{self._folder / _CONFIG}: {key} {self._names[key]!r} is not in tokenizer.json"
                )
            return number
        if found := self._ids(f"{key}_id"):
            return min(found)
        raise ValueError(f"{self._folder} names no {key}, in tokenizer_config.json or elsewhere")

    def _ids(self, key: str) -> set[int]:
        """Return the ids under `key` of `generation_config.json`, else of `config.json`."""
        value = self._generation.get(key, self._model.get(key))
        return {value} if isinstance(value, int) else set(value or ())


def _special_names(
    mapped: Mapping[str, Any], config: Mapping[str, Any], source: str
) -> dict[str, str]:
    """Return the texts of `bos_token` and so on; each is a text or an object with `content`."""
    names = {}
    for key in _NAMES:
        value = token_text(config.get(key) or mapped.get(key))
        if not isinstance(value, str | None):
            raise ValueError(f"{source}: {key} of {_CONFIG} must be text, got {value!r}")
        if value:
            names[key] = value
    return names


def _parse(text: str, source: str) -> tokenizers.Tokenizer:
    try:
        tokenizer = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # tokenizers raises plain Exception
        raise ValueError(f"{source}: Hugging Face's tokenizers cannot read it: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file, {} if there is no file."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} must contain a JSON object, got a {type(value).__name__}")
    return value


def _dump(content: Mapping[str, Any]) -> str:
    return json.dumps(content, ensure_ascii=False, indent=2) + "\n"
