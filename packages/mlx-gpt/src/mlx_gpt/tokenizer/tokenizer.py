"""Text to token ids and back: byte-level BPE, trained with `tokenizers`, run by tiktoken.

A tokenizer is a `tokenizer.json` in the layout of Hugging Face's `tokenizers`: transformers and
mlx-lm read what is saved here; files of GPT-2, Llama 3 and other byte-level tokenizers load here.
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from mlx_gpt.tokenizer.encoding import batch_encoder, check_pattern
from mlx_gpt.tokenizer.files import (
    make_layout,
    parse_layout,
    read_config,
    token_text,
)
from mlx_gpt.tokenizer.training import SPLIT_PATTERN, limit_text, train_ranks
from mlx_gpt.tokenizer.vocabulary import TokenVocabulary
from mlx_trainer import write_atomic

# nanochat's, in its order; they have the last ids.
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
# Names of the BOS token, tried in this order if no tokenizer_config.json names it.
_BOS_NAMES = ("<|bos|>", "<|begin_of_text|>", "<|endoftext|>", "<s>")
_MAX_THREADS = 8

# Read by transformers and mlx-lm. The template equals `render_conversation` for plain text.
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


class Tokenizer(TokenVocabulary):
    """Byte-level BPE: `encode` is lossless, and `decode` restores the text.

    The name of a special token in a text becomes ordinary tokens, so that no user can end a turn by
    typing it. Special tokens are added by id: `special(name)`.

    Create one with `train`, `load` or `from_ranks`. `text` is the content of a `tokenizer.json`,
    `config` that of its `tokenizer_config.json`, `source` a name for errors.
    """

    def __init__(self, text: str, config: dict | None = None, source: str = "tokenizer.json"):
        self._text, self._config, self._source = text, config or {}, source
        vocabulary = parse_layout(text, source)
        self._tokens, self._specials = vocabulary.tokens, vocabulary.specials
        self.vocab_size = max(self._tokens) + 1
        self._encode_batch = batch_encoder(text, vocabulary.pattern, vocabulary.ranks, source)

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
        """Train a tokenizer of `vocab_size` tokens, special tokens included.

        Uses the first `max_document_chars` of each text (None: all; nanochat: 10,000) and the first
        `max_chars` of all texts. Bytes merge only within the matches of the regular expression
        `pattern`. `progress` is called with numbers of characters read. Equal texts give equal
        tokenizers. Raises `ValueError` for a bad pattern, too small a vocabulary, too little text.
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
        limited = limit_text(texts, max_chars, max_document_chars, progress)
        ranks = train_ranks(limited, vocab_size - len(specials), pattern)
        return cls.from_ranks(ranks, pattern, specials)

    @classmethod
    def from_ranks(
        cls, ranks: Mapping[bytes, int], pattern: str, specials: Sequence[str] = SPECIALS
    ) -> "Tokenizer":
        """Return the tokenizer with the mergeable ranks of tiktoken or rustbpe.

        Ids are the ranks; special tokens follow in their order. Raises `ValueError` unless the
        ranks are 0, 1, 2 and so on, or if a special token equals another token.
        """
        check_pattern(pattern)
        if sorted(ranks.values()) != list(range(len(ranks))):
            raise ValueError(f"ranks must be 0 to {len(ranks) - 1}, each once")
        _check_specials(specials, ranks)
        return cls(_dump(make_layout(ranks, pattern, specials)), source="ranks")

    @classmethod
    def load(cls, folder: str | Path) -> "Tokenizer":
        """Read `tokenizer.json` in a folder, or a file of that layout under any name.

        BOS and EOS are those of the `tokenizer_config.json` next to it, if any. Raises
        `FileNotFoundError` or `ValueError` with the file's name.
        """
        path = Path(folder).expanduser()
        path = path / "tokenizer.json" if path.is_dir() else path
        if not path.is_file():
            raise FileNotFoundError(f"no tokenizer: {path} does not exist")
        config_path = path.with_name("tokenizer_config.json")
        config = {}
        try:
            if config_path.is_file():
                config = read_config(config_path)
            return cls(path.read_text("utf-8"), config, str(path))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path.parent}: damaged tokenizer files: {error}") from error

    def save(self, folder: str | Path) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json` into a folder, each atomically."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        config = self._config
        if not config and set(self._specials) >= set(SPECIALS):
            config = _CONFIG
        files = {"tokenizer.json": self._text}
        if config:
            files["tokenizer_config.json"] = _dump(config)
        for name, text in files.items():
            write_atomic(
                folder / name, lambda path, text=text: path.write_bytes(text.encode("utf-8"))
            )

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text; an unpaired surrogate counts as U+FFFD."""
        return self._encode_batch([text], 1)[0]

    def encode_batch(self, texts: Sequence[str], threads: int | None = None) -> list[list[int]]:
        """Return the ids of each text, computed by `threads` (default: one per core, at most 8)."""
        return self._encode_batch(texts, threads or min(os.cpu_count() or 1, _MAX_THREADS))

    def prompt_ids(self, text: str) -> list[int]:
        """Return the ids of a text to continue: BOS and the text."""
        return [self.bos_id, *self.encode(text)]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids, with names of special tokens; invalid UTF-8 becomes U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    @property
    def bos_id(self) -> int:
        """Id of the token that begins each document; `ValueError` if the tokenizer has none."""
        for name in (token_text(self._config.get("bos_token")), *_BOS_NAMES):
            if name in self._specials:
                return self._specials[name]
        raise ValueError(
            f"{self._source} has no token that begins a document: none of {', '.join(_BOS_NAMES)}, "
            "and no bos_token in tokenizer_config.json"
        )

    @property
    def eos_id(self) -> int:
        """Id of the token that ends a text in training: BOS, which begins the next document."""
        return self.bos_id

    @property
    def end_ids(self) -> frozenset[int]:
        """Ids that end a text or an answer: `<|assistant_end|>`, BOS, and the file's EOS."""
        names = ("<|assistant_end|>", token_text(self._config.get("eos_token")), *_BOS_NAMES)
        return frozenset(self._specials[name] for name in names if name in self._specials)


def _check_specials(specials: Sequence[str], ranks: Mapping[bytes, int]) -> None:
    clashes = any(not name or name.encode() in ranks for name in specials)
    if clashes or len(set(specials)) < len(specials):
        raise ValueError(
            f"special tokens must differ from each other and from all tokens, got {list(specials)}"
        )


def _dump(content: dict) -> str:
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"
