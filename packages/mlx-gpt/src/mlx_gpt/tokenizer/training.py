"""Learn a byte-level BPE vocabulary from text, with the trainer of `tokenizers`."""

import json
from collections.abc import Callable, Iterable, Iterator

import tiktoken
from tokenizers import Regex, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as HuggingFaceTokenizer

from mlx_gpt.data.text_files import split_text
from mlx_gpt.tokenizer.files import unspell

# GPT-4's way to split text, but numbers in groups of at most two digits: nanochat measured 0.965
# bits per byte with two, 0.969 with one and 0.972 with three, at a vocabulary of 32,768.
SPLIT_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}"
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)


def train_ranks(texts: Iterable[str], size: int, pattern: str) -> dict[bytes, int]:
    """Return `size` tokens with their ids: the 256 bytes first, then the merges in their order.

    The same texts give the same tokens. Raises `ValueError` where the texts have too few pairs of
    neighbours for so many merges.
    """
    check_pattern(pattern)
    tokenizer = HuggingFaceTokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    ranks = {bytes([byte]): byte for byte in range(256)}
    for left, right in json.loads(tokenizer.to_str())["model"]["merges"]:
        ranks[unspell(left + right)] = len(ranks)
    if len(ranks) < size:
        raise ValueError(
            f"the text has pairs for only {len(ranks):,} tokens, {size:,} were asked for (special "
            "tokens not counted); give more text or a smaller vocab_size"
        )
    return ranks


def capped(
    texts: Iterable[str],
    max_chars: int,
    max_document_chars: int | None,
    progress: Callable[[int], object] = lambda chars: None,
) -> Iterator[str]:
    """Yield `texts` in pieces, at most `max_document_chars` of each text, `max_chars` in all.

    `progress` is told the number of characters of each piece.
    """
    left = max_chars
    for text in texts:
        for piece in split_text(text[:max_document_chars]):
            piece = piece[:left]
            left -= len(piece)
            yield whole_characters(piece)
            progress(len(piece))
            if not left:
                return


def whole_characters(text: str) -> str:
    """Return the text with U+FFFD for each half of a surrogate pair, as tiktoken reads it."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def check_pattern(pattern: str) -> None:
    """Raise `ValueError` unless tiktoken and `tokenizers` both take the regular expression."""
    try:
        Regex(pattern)
        # tiktoken panics on an empty piece: is there one before a letter, a space, a digit?
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
