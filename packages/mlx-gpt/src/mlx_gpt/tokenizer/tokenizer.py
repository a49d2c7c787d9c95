"""Text to token ids and back: byte-level BPE, trained by `tokenizers`, run by tiktoken.

A tokenizer is its `tokenizer.json`, in the layout of Hugging Face's `tokenizers`: transformers and
mlx-lm read what is saved here, and the files of GPT-2, Llama 3 and other byte-level ones load here.
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer as HuggingFaceTokenizer

from mlx_gpt._atomic import write_atomic
from mlx_gpt._suggest import did_you_mean
from mlx_gpt.tokenizer.files import (
    Vocabulary,
    layout_sha256,
    read_config,
    read_layout,
    token_name,
    write_layout,
)
from mlx_gpt.tokenizer.training import (
    SPLIT_PATTERN,
    capped,
    check_pattern,
    compile_pattern,
    train_ranks,
    whole_characters,
)

__all__ = ["SPECIALS", "SPLIT_PATTERN", "Tokenizer"]

# nanochat's, in its order; they take the last ids.
SPECIALS = (
    "<|bos|>",
    "<|user_start|>",
    "<|user_end|>",
    "<|assistant_start|>",
    "<|assistant_end|>",
    "<|python_start|>",
    "<|python_end|>",
    "<|output_start|>",
    "<|output_end|>",
)
# What begins a document where no tokenizer_config.json says it.
_BOS_NAMES = ("<|bos|>", "<|begin_of_text|>", "<|endoftext|>", "<s>")
_MAX_THREADS = 8

# What transformers and mlx-lm read beside tokenizer.json. The template is `render_conversation`
# for messages of plain text.
_CHAT_TEMPLATE = (
    "<|bos|>{% set said = namespace(before='') %}{% for message in messages %}"
    "{% if message.role == 'system' %}{% set said.before = message.content + '\n\n' %}"
    "{% elif message.role == 'user' %}"
    "{{ '<|user_start|>' + said.before + message.content + '<|user_end|>' }}"
    "{% set said.before = '' %}"
    "{% else %}{{ '<|assistant_start|>' + message.content + '<|assistant_end|>' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant_start|>' }}{% endif %}"
)
_CONFIG = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": "<|bos|>",
    "eos_token": "<|assistant_end|>",
    "clean_up_tokenization_spaces": False,
    "chat_template": _CHAT_TEMPLATE,
}


class Tokenizer:
    """Byte-level BPE: `encode` loses nothing, and `decode` gives the text back.

    Text is always ordinary text: what looks like a special token in it becomes ordinary tokens, so
    that nobody can end a turn by typing. Special tokens are put in by id: `special(name)`.

    Made by `train`, `load` or `from_ranks`. `text` is the content of a `tokenizer.json`, `config`
    that of the `tokenizer_config.json` beside it, `source` a name for errors.
    """

    def __init__(self, text: str, config: dict | None = None, source: str = "tokenizer.json"):
        self._text, self._config, self._source = text, config or {}, source
        vocabulary = read_layout(text, source)
        self._tokens, self._specials = vocabulary.tokens, vocabulary.specials
        self.vocab_size = max(self._tokens) + 1
        self._encode_batch = _tiktoken(vocabulary, text) or _tokenizers(text, source)

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        vocab_size: int,
        pattern: str = SPLIT_PATTERN,
        specials: Sequence[str] = SPECIALS,
        max_chars: int = 2_000_000_000,
        max_document_chars: int | None = None,
        progress: Callable[[int], object] = lambda chars: None,
    ) -> "Tokenizer":
        """Learn `vocab_size` tokens, specials among them, from texts.

        Of each text the first `max_document_chars` are used (None: all; nanochat's is 10,000), of
        all together the first `max_chars`, as nanochat's. Long texts are cut in pieces.
        The same texts give the same tokenizer. `pattern` is the regular expression whose matches
        are the pieces within which bytes merge. `progress` is told of characters as they are read.
        Raises `ValueError` for a bad pattern, too small a vocabulary or too little text.
        """
        smallest = 256 + len(specials)
        if vocab_size < smallest:
            raise ValueError(
                f"vocab_size must be at least {smallest}, 256 bytes and {len(specials)} special "
                f"tokens, got {vocab_size}"
            )
        for name, value in (("max_chars", max_chars), ("max_document_chars", max_document_chars)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        _check_specials(specials, {})
        chosen = capped(texts, max_chars, max_document_chars, progress)
        return cls.from_ranks(
            train_ranks(chosen, vocab_size - len(specials), pattern), pattern, specials
        )

    @classmethod
    def from_ranks(
        cls, ranks: Mapping[bytes, int], pattern: str, specials: Sequence[str] = SPECIALS
    ) -> "Tokenizer":
        """Return the tokenizer of tiktoken's or rustbpe's mergeable ranks.

        Ids are the ranks; special tokens follow in their order. Raises `ValueError` unless the
        ranks are 0, 1, 2 and so on, or where a special token is spelt like another token.
        """
        check_pattern(pattern)
        if sorted(ranks.values()) != list(range(len(ranks))):
            raise ValueError(f"ranks must be 0 to {len(ranks) - 1}, each once")
        _check_specials(specials, ranks)
        layout = write_layout(ranks, pattern, specials)
        return cls(json.dumps(layout, ensure_ascii=False, indent=1) + "\n", source="ranks")

    @classmethod
    def load(cls, folder: str | Path) -> "Tokenizer":
        """Read `tokenizer.json` in a folder, or a file of that layout under any name.

        `tokenizer_config.json` beside it, where there is one, says what begins and ends a text.
        Raises `FileNotFoundError` or `ValueError` with the file's name.
        """
        path = Path(folder).expanduser()
        path = path / "tokenizer.json" if path.is_dir() else path
        if not path.is_file():
            raise FileNotFoundError(f"no tokenizer: {path} is not there")
        config_path = path.with_name("tokenizer_config.json")
        config = {}
        try:
            if config_path.is_file():
                config = read_config(config_path)
            return cls(path.read_text("utf-8"), config, str(path))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path.parent}: not a tokenizer's files: {error}") from error

    def save(self, folder: str | Path) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json` into a folder, each in one step."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        config = self._config
        if not config and set(self._specials) >= set(SPECIALS):
            config = _CONFIG
        files = {"tokenizer.json": self._text}
        if config:
            text = json.dumps(config, ensure_ascii=False, indent=1) + "\n"
            files["tokenizer_config.json"] = text
        for name, text in files.items():
            write_atomic(
                folder / name, lambda path, text=text: path.write_bytes(text.encode("utf-8"))
            )

    def encode(self, text: str) -> list[int]:
        """Return the ids of ordinary text; half a surrogate pair counts as U+FFFD."""
        return self._encode_batch([text], 1)[0]

    def encode_batch(self, texts: Sequence[str], threads: int | None = None) -> list[list[int]]:
        """Return the ids of each text, by several threads (default: one a core, at most 8)."""
        return self._encode_batch(texts, threads or min(os.cpu_count() or 1, _MAX_THREADS))

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids, special tokens by their names; bad UTF-8 becomes U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Return the bytes of ids; raises `ValueError` for an id that is no token."""
        try:
            return b"".join([self._tokens[number] for number in ids])
        except KeyError as error:
            raise ValueError(
                f"token id {error.args[0]} is not in this vocabulary of {self.vocab_size}"
            ) from None

    def piece(self, number: int) -> str:
        r"""Return one token for display: bytes that are no text alone as `\xe2`, `\n` as such."""
        text = self.decode_bytes([number]).decode("utf-8", "backslashreplace")
        return "".join([each if each.isprintable() else repr(each)[1:-1] for each in text])

    def special(self, name: str) -> int:
        """Return the id of a special token; raises `KeyError` that names the nearest one."""
        if name not in self._specials:
            hint = did_you_mean(name, self._specials) if self._specials else "; it has none"
            raise KeyError(f"no special token {name!r} in this tokenizer{hint}")
        return self._specials[name]

    @cached_property
    def sha256(self) -> str:
        """The hash of `tokenizer.json`; a model keeps that of the tokenizer it was trained with."""
        return layout_sha256(self._text)

    @property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint keeps of the tokenizer: hash and number of tokens."""
        return {"sha256": self.sha256, "vocab_size": self.vocab_size}

    @property
    def special_ids(self) -> frozenset[int]:
        """The ids of all special tokens."""
        return frozenset(self._specials.values())

    @property
    def bos_id(self) -> int:
        """The token that begins each document; `ValueError` where the tokenizer has none."""
        for name in (token_name(self._config.get("bos_token")), *_BOS_NAMES):
            if name in self._specials:
                return self._specials[name]
        raise ValueError(
            f"{self._source} has no token that begins a document: none of {', '.join(_BOS_NAMES)}, "
            "and no bos_token in tokenizer_config.json"
        )

    @property
    def end_ids(self) -> frozenset[int]:
        """The tokens that end a text or an answer: `<|assistant_end|>`, BOS, and the file's own."""
        names = ("<|assistant_end|>", token_name(self._config.get("eos_token")), *_BOS_NAMES)
        return frozenset(self._specials[name] for name in names if name in self._specials)

    def token_bytes(self) -> np.ndarray:
        """Return how many bytes each id stands for, int32 (vocab_size,); 0 for special tokens.

        These are the bytes of the token itself. A token may be a part of a character, and as text
        it would then count for three bytes (U+FFFD) whatever it has.
        """
        lengths = np.zeros(self.vocab_size, np.int32)
        for number, token in self._tokens.items():
            lengths[number] = len(token)
        lengths[list(self.special_ids)] = 0
        return lengths


def _check_specials(specials: Sequence[str], ranks: Mapping[bytes, int]) -> None:
    clashes = any(not name or name.encode() in ranks for name in specials)
    if clashes or len(set(specials)) < len(specials):
        raise ValueError(
            f"special tokens must differ from each other and from all tokens, got {list(specials)}"
        )


_EncodeBatch = Callable[[Sequence[str], int], list[list[int]]]


def _tiktoken(vocabulary: Vocabulary, text: str) -> _EncodeBatch | None:
    """Return tiktoken's encoding of a batch by threads, None where it gives other ids."""
    pattern, ranks = vocabulary.pattern, vocabulary.ranks
    if not pattern or not ranks:
        return None
    try:
        # tiktoken drops what no match covers; `tokenizers` keeps it as a piece, and so does this.
        encoding = compile_pattern(rf"(?:{pattern})|(?:(?!{pattern})[\s\S])+", ranks)
    except ValueError:  # a regular expression of another dialect
        return None

    def encode(texts: Sequence[str], threads: int) -> list[list[int]]:
        try:
            if len(texts) == 1 or threads == 1:
                return [encoding.encode_ordinary(text) for text in texts]
            return encoding.encode_ordinary_batch(list(texts), num_threads=threads)
        except BaseException as error:
            # A million blanks in a row are too much for tiktoken's regular expressions. It panics,
            # which is no Exception and would end a run of training.
            if type(error).__name__ != "PanicException":
                raise
            return _tokenizers(text)(texts, threads)

    return encode


def _tokenizers(text: str, source: str = "tokenizer.json") -> _EncodeBatch:
    """Return the encoding by `tokenizers`, for files with normalizers or several splits."""
    try:
        tokenizer = HuggingFaceTokenizer.from_str(text)
    except Exception as error:  # tokenizers raises plain Exception
        raise ValueError(f"{source}: Hugging Face's tokenizers cannot read it: {error}") from error
    tokenizer.encode_special_tokens = True  # means: treat them as ordinary text
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def encode(texts: Sequence[str], threads: int) -> list[list[int]]:
        found = tokenizer.encode_batch_fast(
            [whole_characters(each) for each in texts], add_special_tokens=False
        )
        return [each.ids for each in found]

    return encode
