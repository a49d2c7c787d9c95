"""Encode text: with tiktoken if it returns the same ids, else with `tokenizers`."""

import re
from collections.abc import Callable, Mapping, Sequence

import tiktoken
from tokenizers import Regex
from tokenizers import Tokenizer as HuggingFaceTokenizer

# From texts and a number of threads to the ids of each text.
BatchEncoder = Callable[[Sequence[str], int], list[list[int]]]
_SURROGATE = re.compile("[\ud800-\udfff]")


def batch_encoder(
    text: str, pattern: str | None, ranks: dict[bytes, int] | None, source: str
) -> BatchEncoder:
    """Return the encoder for the text of a `tokenizer.json`.

    With `pattern` and `ranks` tiktoken encodes. Raises `ValueError` with `source` if `tokenizers`
    cannot read the file.
    """
    encoder = _tiktoken_encoder(text, pattern, ranks) if pattern and ranks else None
    return encoder or _tokenizers_encoder(text, source)


def check_pattern(pattern: str) -> None:
    """Raise `ValueError` unless tiktoken and `tokenizers` both accept the regular expression."""
    try:
        Regex(pattern)
        # tiktoken panics on an empty match: test for one before a letter, a space, a digit.
        matches_nothing = any(
            compile_pattern(rf"\A(?:{pattern}){probe}\z").encode_ordinary(probe)
            for probe in ("x", " ", "1")
        )
    except Exception as error:  # tokenizers raises plain Exception for a bad expression
        raise ValueError(f"split pattern {pattern!r}: {error}") from error
    if matches_nothing:
        raise ValueError(f"split pattern {pattern!r}: it must not match the empty text")


def compile_pattern(pattern: str, ranks: dict[bytes, int] | None = None) -> tiktoken.Encoding:
    """Return tiktoken's encoding with these ranks (default: the 256 bytes), without specials."""
    ranks = ranks or {bytes([byte]): byte for byte in range(256)}
    return tiktoken.Encoding("mlx-gpt", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})


def replace_surrogates(text: str) -> str:
    """Return the text with U+FFFD for each unpaired surrogate, as tiktoken reads it."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def count_surrogates(value: object) -> int:
    """Return how many unpaired surrogates are in the texts of a JSON value."""
    if isinstance(value, str):
        return 0 if value.isascii() else len(_SURROGATE.findall(value))
    if isinstance(value, Mapping):
        return sum(map(count_surrogates, value.values()))
    return sum(map(count_surrogates, value)) if isinstance(value, list) else 0


def _tiktoken_encoder(text: str, pattern: str, ranks: dict[bytes, int]) -> BatchEncoder | None:
    """Return the fast encoder, None if tiktoken does not support the pattern."""
    try:
        # tiktoken drops text that no match covers; `tokenizers` keeps it as a piece, as we do.
        encoding = compile_pattern(rf"(?:{pattern})|(?:(?!{pattern})[\s\S])+", ranks)
    except ValueError:  # a regular expression in another dialect
        return None

    def encode(texts: Sequence[str], threads: int) -> list[list[int]]:
        try:
            if len(texts) == 1 or threads == 1:
                return [encoding.encode_ordinary(text) for text in texts]
            return encoding.encode_ordinary_batch(list(texts), num_threads=threads)
        except BaseException as error:
            # A million spaces in a row overflow tiktoken's regular expressions. It panics, which is
            # not an Exception and would end a training run.
            if type(error).__name__ != "PanicException":
                raise
            return _tokenizers_encoder(text)(texts, threads)

    return encode


def _tokenizers_encoder(text: str, source: str = "tokenizer.json") -> BatchEncoder:
    """Return the slower encoder, which also supports normalizers and several splits."""
    try:
        tokenizer = HuggingFaceTokenizer.from_str(text)
    except Exception as error:  # tokenizers raises plain Exception
        raise ValueError(f"{source}: Hugging Face's tokenizers cannot read it: {error}") from error
    tokenizer.encode_special_tokens = True  # means: treat them as ordinary text
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def encode(texts: Sequence[str], threads: int) -> list[list[int]]:
        encodings = tokenizer.encode_batch_fast(
            [replace_surrogates(each) for each in texts], add_special_tokens=False
        )
        return [each.ids for each in encodings]

    return encode
