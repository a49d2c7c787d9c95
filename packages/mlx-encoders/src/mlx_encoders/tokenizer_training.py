"""Train a small tokenizer on your texts, deterministically."""

import string
from collections import Counter
from collections.abc import Iterable
from typing import Literal

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers

from mlx_encoders._suggest import did_you_mean
from mlx_encoders.tokenizer import Tokenizer, add_special_ids

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_PREFIX = "##"
_MOST_CHARACTERS = 1000


def train_tokenizer(
    texts: Iterable[str],
    kind: Literal["wordpiece", "bpe"] = "wordpiece",
    vocab_size: int = 4096,
    lowercase: bool = True,
    min_frequency: int = 2,
) -> Tokenizer:
    """Train a tokenizer with [PAD] [UNK] [CLS] [SEP] [MASK] as ids 0 to 4.

    Each digit and punctuation mark is a token, so that 7.25 and 2.75 share tokens. "wordpiece"
    drops whitespace and, with `lowercase`, accents. It covers ASCII and the most frequent other
    characters; words with other characters become [UNK]. "bpe" works on bytes: no text is unknown,
    and `decode` restores everything except the case. Merges need `min_frequency` occurrences, so
    the vocabulary may be smaller than `vocab_size`. Raises `ValueError` if `vocab_size` is too
    small for the single characters.
    """
    if isinstance(texts, str):
        raise TypeError("texts must be an iterable of strings, got one string")
    texts = list(texts)
    if not any(text.strip() for text in texts):
        raise ValueError("train_tokenizer needs some text, got only empty strings or none")
    trainers_by_kind = {"wordpiece": _train_wordpiece, "bpe": _train_bpe}
    if kind not in trainers_by_kind:
        raise ValueError(f"unknown tokenizer kind {kind!r}{did_you_mean(kind, trainers_by_kind)}")
    backend = trainers_by_kind[kind](texts, vocab_size, lowercase, min_frequency)
    backend.add_special_tokens(list(SPECIAL_TOKENS))
    add_special_ids(backend, "[CLS]", "[SEP]")
    settings = {
        # Without token types the same files serve BERT and ModernBERT.
        "model_input_names": ["input_ids", "attention_mask"],
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        **{f"{token[1:-1].lower()}_token": token for token in SPECIAL_TOKENS},
    }
    return Tokenizer(backend, settings)


def _train_wordpiece(
    texts: list[str], vocab_size: int, lowercase: bool, min_frequency: int
) -> tokenizers.Tokenizer:
    normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    splitter = pre_tokenizers.Sequence(
        [pre_tokenizers.BertPreTokenizer(), pre_tokenizers.Digits(individual_digits=True)]
    )
    first, inner = _characters(texts, normalizer, splitter, lowercase)
    _check_vocab_size(vocab_size, len(SPECIAL_TOKENS) + len(first) + len(inner))
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        # The trainer would assign ids to inner characters in the order of a random hash, and break
        # ties between equally frequent merges differently in each run. As "special" tokens they
        # have fixed ids; the vocabulary then moves to a backend where they are ordinary tokens.
        special_tokens=[*SPECIAL_TOKENS, *(_PREFIX + character for character in inner)],
        initial_alphabet=first,
        limit_alphabet=len(first),
        show_progress=False,
    )
    learner = _wordpiece({token: i for i, token in enumerate(SPECIAL_TOKENS)}, normalizer, splitter)
    learner.train_from_iterator(texts, trainer)
    return _wordpiece(learner.get_vocab(), normalizer, splitter)


def _wordpiece(
    vocabulary: dict[str, int],
    normalizer: normalizers.Normalizer,
    splitter: pre_tokenizers.PreTokenizer,
) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizer  # type: ignore[assignment]
    backend.pre_tokenizer = splitter  # type: ignore[assignment]
    backend.decoder = decoders.WordPiece(prefix=_PREFIX)  # type: ignore[assignment]
    return backend


def _characters(
    texts: list[str],
    normalizer: normalizers.Normalizer,
    splitter: pre_tokenizers.PreTokenizer,
    lowercase: bool,
) -> tuple[list[str], list[str]]:
    """Return the characters of the vocabulary, and the subset that occurs inside words."""
    words: Counter[str] = Counter()
    for text in texts:
        pieces = splitter.pre_tokenize_str(normalizer.normalize_str(text))
        words.update(word for word, _ in pieces)
    counts: Counter[str] = Counter()
    for word, count in words.items():
        for character in word:
            counts[character] += count
    frequent = sorted(counts, key=lambda character: (-counts[character], character))
    letters = string.ascii_lowercase if lowercase else string.ascii_letters
    always = set(letters + string.digits + string.punctuation)
    first = always.union(frequent[:_MOST_CHARACTERS])
    inner = {character for word in words for character in word[1:]} & first
    return sorted(first), sorted(inner.union(letters))


def _train_bpe(
    texts: list[str], vocab_size: int, lowercase: bool, min_frequency: int
) -> tokenizers.Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    _check_vocab_size(vocab_size, len(SPECIAL_TOKENS) + len(alphabet))
    backend = tokenizers.Tokenizer(models.BPE())
    steps = [normalizers.NFC(), normalizers.Lowercase()] if lowercase else [normalizers.NFC()]
    backend.normalizer = normalizers.Sequence(steps)  # type: ignore[assignment]
    backend.pre_tokenizer = pre_tokenizers.Sequence(  # type: ignore[assignment]
        [
            # A digit includes the space before it, so that the space costs no token.
            pre_tokenizers.Split(Regex(r" ?\p{N}"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return backend


def _check_vocab_size(vocab_size: int, smallest: int) -> None:
    if vocab_size < smallest:
        raise ValueError(
            f"vocab_size must be at least {smallest} for the special tokens and single "
            f"characters of these texts, got {vocab_size}"
        )
