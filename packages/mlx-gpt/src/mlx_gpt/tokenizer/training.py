"""Train a byte-level BPE vocabulary on text, with the trainer of `tokenizers`."""

import json
import re
from collections.abc import Callable, Iterable, Iterator

from tokenizers import Regex, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as HuggingFaceTokenizer

from mlx_gpt.tokenizer.encoding import check_pattern, replace_surrogates
from mlx_gpt.tokenizer.files import from_byte_alphabet

# GPT-4's pattern, but with numbers in groups of at most two digits: nanochat measured 0.965 bits
# per byte with two, 0.969 with one and 0.972 with three, at a vocabulary of 32,768.
SPLIT_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}"
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
MIN_PIECE_CHARS = 4000
_BREAKS = [
    re.compile(pattern)
    for pattern in (
        r"\n\s*\n|\r\s*\r|\f",  # a blank line or a new page
        r"[\n\r\v\x85\u2028\u2029]",  # the end of a line
        r"[.!?…][\"'”’»)\]]*\s+|[。！？][”’」』）]*",  # the end of a sentence
        r"\s",
    )
]


def train_ranks(texts: Iterable[str], size: int, pattern: str) -> dict[bytes, int]:
    """Return `size` tokens with their ids: the 256 bytes first, then the merges in their order.

    Equal texts give equal tokens. Raises `ValueError` if the texts have too few pairs for this many
    merges.
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
        ranks[from_byte_alphabet(left + right)] = len(ranks)
    if len(ranks) < size:
        raise ValueError(
            f"the text has enough pairs for only {len(ranks):,} tokens, not {size:,} (special "
            "tokens not counted); give more text or a smaller vocab_size"
        )
    return ranks


def limit_text(
    texts: Iterable[str],
    max_chars: int,
    max_document_chars: int | None,
    progress: Callable[[int], object] = lambda chars: None,
) -> Iterator[str]:
    """Yield `texts` in pieces, at most `max_document_chars` of each text, `max_chars` in total.

    `progress` is called with the number of characters of each piece.
    """
    left = max_chars
    for text in texts:
        for piece in split_text(text[:max_document_chars]):
            piece = piece[:left]
            left -= len(piece)
            yield replace_surrogates(piece)
            progress(len(piece))
            if not left:
                return


def split_text(text: str | Iterable[str], min_chars: int = MIN_PIECE_CHARS) -> Iterator[str]:
    """Yield a text, or one that arrives in parts, in pieces of 1 to 2 x `min_chars` characters.

    A piece ends between `min_chars` and 2 x `min_chars` characters: at the first blank line there,
    else at the first end of a line, else of a sentence, else at a space, else at the limit. Joined,
    the pieces are the text. Only the last piece may be shorter: at least `min_chars` / 2 if it is
    not the only one.
    """
    rest = ""
    for part in [text] if isinstance(text, str) else text:
        rest += part
        begin = 0
        while len(rest) - begin > 3 * min_chars:
            end = _piece_end(rest, begin, min_chars)
            yield rest[begin:end]
            begin = end
        rest = rest[begin:]
    while rest:
        end = _piece_end(rest, 0, min_chars)
        yield rest[:end]
        rest = rest[end:]


def _piece_end(text: str, begin: int, min_chars: int) -> int:
    """Return the end of the piece that starts at `begin`; looks at most 3 x `min_chars` ahead."""
    left = len(text) - begin
    if left <= 2 * min_chars:
        return len(text)
    first, last = begin + min_chars, begin + min(2 * min_chars, left - min_chars // 2)
    matches = (pattern.search(text, first, last) for pattern in _BREAKS)
    end = next((match.end() for match in matches if match), last)
    return end + 1 if text[end - 1 : end + 1] == "\r\n" else end
