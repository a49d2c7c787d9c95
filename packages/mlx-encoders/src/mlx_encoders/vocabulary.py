"""Trim a vocabulary to the tokens of some texts; word embeddings are half of a small model."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import mlx.core as mx
import tokenizers

from mlx_encoders.build import build_model, named_parameters
from mlx_encoders.pretrained import PretrainedModel
from mlx_encoders.tokenizer import Tokenizer

M = TypeVar("M", bound=PretrainedModel)
_BATCH = 1000
# Tensors with a row for each token, by the ends of their names.
_PER_TOKEN = (
    "embeddings.word_embeddings.weight",
    "embeddings.tok_embeddings.weight",
    "cls.predictions.bias",
    "cls.predictions.decoder.weight",
    "cls.predictions.decoder.bias",
)


@dataclass(frozen=True)
class TrimReport:
    """The result of `trim_vocabulary`."""

    tokens_before: int
    tokens_after: int
    parameters_removed: int


def trim_vocabulary(
    model: M, tokenizer: Tokenizer, texts: Iterable[str], min_count: int = 1
) -> tuple[M, Tokenizer, TrimReport]:
    """Return a model and tokenizer without the tokens that occur less than `min_count` times.

    These texts get the same tokens, and so the same hidden states, if `min_count` is 1. Special
    tokens stay, and so do tokens of one character or byte, from which other words can still be
    built: `compare_tokens` shows what that costs on other texts. Ids change, so encode again. Rows
    of the model without a token, such as those up to a multiple of 64, are removed. WordPiece and
    BPE tokenizers of `tokenizers` are supported. Raises `ValueError` for others, without texts, and
    if the tokenizer is not that of the model.
    """
    if isinstance(texts, str):
        raise TypeError("texts must be an iterable of strings, got one string")
    _check_sizes(model, tokenizer)
    counts: Counter[int] = Counter()
    batch: list[str] = []
    total = 0
    for text in texts:
        batch.append(text)
        total += 1
        if len(batch) == _BATCH:
            _count(tokenizer, batch, counts)
            batch = []
    _count(tokenizer, batch, counts)
    if not total:
        raise ValueError("trim_vocabulary needs texts, got none")
    values = json.loads(tokenizer.backend.to_str())
    used = {token for token, each in counts.items() if each >= min_count}
    kept = _kept_tokens(values, used | set(_config_ids(model).values()))
    new_ids = {token: index for index, token in enumerate(kept)}
    old_ids = {
        **values["model"]["vocab"],
        **{t["content"]: t["id"] for t in values["added_tokens"]},
    }
    rows = mx.array([old_ids[token] for token in kept])
    smaller = _trim_model(model, rows, {old_ids[token]: new for token, new in new_ids.items()})
    trimmed = Tokenizer(
        _trim_tokenizer(values, new_ids), _trim_settings(tokenizer.settings, new_ids)
    )
    before = sum(array.size for array in named_parameters(model).values())
    after = sum(array.size for array in named_parameters(smaller).values())
    return smaller, trimmed, TrimReport(tokenizer.vocab_size, len(kept), before - after)


@dataclass(frozen=True)
class TokenComparison:
    """How two tokenizers with the same special tokens encode `texts` texts.

    Special tokens do not count, except unknown ones.
    """

    texts: int
    changed: int
    """Number of texts with other tokens."""
    length_before: float
    """Mean number of tokens of a text."""
    length_after: float
    unknown_before: float
    """Share of the tokens that are unknown."""
    unknown_after: float


def compare_tokens(before: Tokenizer, after: Tokenizer, texts: Sequence[str]) -> TokenComparison:
    """Compare a tokenizer and its trimmed one on texts that trimming has not seen."""
    if not texts:
        raise ValueError("compare_tokens needs texts, got none")
    rows: list[list[list[str]]] = []
    lengths, shares = [], []
    for tokenizer in (before, after):
        names = {token_id: token for token, token_id in tokenizer.backend.get_vocab().items()}
        ids = tokenizer.encode(texts, max_length=None)
        rows.append([[names[token_id] for token_id in row] for row in ids])
        length = sum(len(row) - tokenizer.num_special_tokens for row in ids)
        unknown_id = tokenizer.special_id("unk_token")
        unknown = 0 if unknown_id is None else sum(row.count(unknown_id) for row in ids)
        lengths.append(length / len(texts))
        shares.append(unknown / max(length, 1))
    changed = sum(one != other for one, other in zip(*rows, strict=True))
    return TokenComparison(len(texts), changed, *lengths, *shares)


def _check_sizes(model: PretrainedModel, tokenizer: Tokenizer) -> None:
    size = model.encoder_model.config.vocab_size
    largest = max(tokenizer.backend.get_vocab().values())
    if largest >= size:
        raise ValueError(
            f"the tokenizer has ids up to {largest}, but the model has embeddings for {size}; "
            f"use the tokenizer of this model"
        )
    ids = set(tokenizer.backend.get_vocab().values())
    for name, value in _config_ids(model).items():
        if value not in ids:
            raise ValueError(
                f"the config has {name}={value}, which is no token of the tokenizer; "
                f"correct config.json, or use the tokenizer of this model"
            )


def _config_ids(model: PretrainedModel) -> dict[str, int]:
    return {
        name: value
        for name, value in vars(model.encoder_model.config).items()
        if name.endswith("_token_id") and value is not None
    }


def _count(tokenizer: Tokenizer, texts: Sequence[str], counts: Counter[int]) -> None:
    for ids in tokenizer.encode(texts, max_length=None) if texts else []:
        counts.update(ids)


def _kept_tokens(values: Mapping[str, Any], used: set[int]) -> list[str]:
    """Return the tokens to keep, in the order of their ids; added ones of no vocabulary last.

    `tokenizers` gives these the ids after the vocabulary when it reads a file.
    """
    kind = values["model"]["type"]
    if kind not in ("WordPiece", "BPE"):
        raise ValueError(f"only WordPiece and BPE vocabularies can be trimmed, got {kind}")
    vocabulary: dict[str, int] = values["model"]["vocab"]
    prefix = values["model"].get("continuing_subword_prefix") or ""
    suffix = values["model"].get("end_of_word_suffix") or ""
    special = {token["content"]: token["id"] for token in values["added_tokens"]}
    unknown = values["model"].get("unk_token")
    kept = {
        token
        for token, index in vocabulary.items()
        if index in used or token == unknown or _is_single(token, prefix, suffix)
    }
    if kind == "BPE":
        # A token is reached by merges, so the parts of a kept token are kept too. Several merges
        # may make one token, so one pass is not always enough.
        merges = [_pair(merge) for merge in reversed(values["model"]["merges"])]
        size = 0
        while size < len(kept):
            size = len(kept)
            for first, second in merges:
                if first + second.removeprefix(prefix) in kept:
                    kept |= {first, second}
    ids = {**vocabulary, **special}
    return sorted(kept | set(special), key=lambda token: (token not in vocabulary, ids[token]))


def _is_single(token: str, prefix: str, suffix: str) -> bool:
    """Tell tokens of one character or one byte, at any place of a word."""
    is_byte = len(token) == 6 and token.startswith("<0x") and token.endswith(">")
    return is_byte or len(token.removeprefix(prefix).removesuffix(suffix)) == 1


def _pair(merge: str | list[str]) -> tuple[str, str]:
    first, second = merge.split(" ") if isinstance(merge, str) else merge
    return first, second


def _trim_tokenizer(values: dict[str, Any], new_ids: Mapping[str, int]) -> tokenizers.Tokenizer:
    model = values["model"]
    vocabulary = {token: new_ids[token] for token in model["vocab"] if token in new_ids}
    model["vocab"] = dict(sorted(vocabulary.items(), key=lambda item: item[1]))
    if "merges" in model:
        prefix = model.get("continuing_subword_prefix") or ""
        model["merges"] = [
            merge
            for merge in model["merges"]
            if (pair := _pair(merge))[0] + pair[1].removeprefix(prefix) in vocabulary
        ]
    for token in values["added_tokens"]:
        token["id"] = new_ids[token["content"]]
    _renumber(values.get("post_processor"), new_ids)
    trimmed = tokenizers.Tokenizer.from_str(json.dumps(values))
    assert trimmed.get_vocab() == new_ids  # else rows would belong to other tokens
    return trimmed


def _trim_settings(settings: Mapping[str, Any], new_ids: Mapping[str, int]) -> dict[str, Any]:
    """Renumber the special tokens in a `tokenizer_config.json` of transformers 4."""
    decoder = settings.get("added_tokens_decoder")
    if not isinstance(decoder, dict):
        return dict(settings)
    entries = {new_ids[entry["content"]]: entry for entry in decoder.values()
               if entry["content"] in new_ids}  # fmt: skip
    ordered = {str(index): entries[index] for index in sorted(entries)}
    return {**settings, "added_tokens_decoder": ordered}


def _renumber(part: Any, new_ids: Mapping[str, int]) -> None:
    """Give special tokens in a post-processor their new ids, in every form it stores them."""
    if isinstance(part, dict):
        if "ids" in part and "tokens" in part:
            part["ids"] = [new_ids[token] for token in part["tokens"]]
        for key, each in part.items():
            if key in ("cls", "sep") and isinstance(each, list):
                part[key] = [each[0], new_ids[each[0]]]
            else:
                _renumber(each, new_ids)
    elif isinstance(part, list):
        for each in part:
            _renumber(each, new_ids)


def _trim_model(model: M, rows: mx.array, new_ids: Mapping[int, int]) -> M:
    config = model.encoder_model.config
    embedding = model.encoder_model.get_input_embeddings().weight
    changes: dict[str, Any] = {"vocab_size": rows.size}
    changes |= {name: new_ids[value] for name, value in _config_ids(model).items()}
    weights = []
    for path, array in named_parameters(model).items():
        is_per_token = path.endswith(_PER_TOKEN) or array is embedding
        # ModernBERT's and NeoBERT's `decoder` is at the top of the model.
        is_per_token |= path in ("decoder.weight", "decoder.bias")
        weights.append((path, mx.take(array, rows, axis=0) if is_per_token else mx.array(array)))
    smaller = build_model(replace(config, **changes), model_class=type(model))
    smaller.load_weights(weights, strict=True)
    smaller.train(model.training)
    return smaller
