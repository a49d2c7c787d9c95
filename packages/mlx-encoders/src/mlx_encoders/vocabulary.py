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
    built. WordPiece and BPE tokenizers of `tokenizers` are supported. Raises `ValueError` for
    others, and without texts.
    """
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
    kept = _kept_tokens(values, used)
    new_ids = {token: index for index, token in enumerate(kept)}
    old_ids = {
        **values["model"]["vocab"],
        **{t["content"]: t["id"] for t in values["added_tokens"]},
    }
    rows = mx.array([old_ids[token] for token in kept])
    smaller = _trim_model(model, rows, {old_ids[token]: new for token, new in new_ids.items()})
    trimmed = Tokenizer(_trim_tokenizer(values, new_ids), dict(tokenizer.settings))
    before = sum(array.size for array in named_parameters(model).values())
    after = sum(array.size for array in named_parameters(smaller).values())
    return smaller, trimmed, TrimReport(tokenizer.vocab_size, len(kept), before - after)


def _count(tokenizer: Tokenizer, texts: Sequence[str], counts: Counter[int]) -> None:
    for ids in tokenizer.encode(texts, max_length=None) if texts else []:
        counts.update(ids)


def _kept_tokens(values: Mapping[str, Any], used: set[int]) -> list[str]:
    """Return the tokens to keep, in the order of their ids."""
    kind = values["model"]["type"]
    if kind not in ("WordPiece", "BPE"):
        raise ValueError(f"only WordPiece and BPE vocabularies can be trimmed, got {kind}")
    vocabulary: dict[str, int] = values["model"]["vocab"]
    prefix = values["model"].get("continuing_subword_prefix") or ""
    special = {token["content"]: token["id"] for token in values["added_tokens"]}
    unknown = values["model"].get("unk_token")
    kept = {
        token
        for token, index in vocabulary.items()
        if index in used or len(token.removeprefix(prefix)) == 1 or token == unknown
    }
    if kind == "BPE":
        # A token is reached by merges, so the parts of a kept token are kept too.
        for first, second in reversed([_pair(merge) for merge in values["model"]["merges"]]):
            if first + second.removeprefix(prefix) in kept:
                kept |= {first, second}
    ids = {**vocabulary, **special}
    return sorted(kept | set(special), key=lambda token: ids[token])


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
    return tokenizers.Tokenizer.from_str(json.dumps(values))


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
    for name, value in vars(config).items():
        if name.endswith("_token_id") and value is not None:
            changes[name] = new_ids.get(value)
    weights = []
    for path, array in named_parameters(model).items():
        is_per_token = path.endswith(_PER_TOKEN) or array is embedding
        # ModernBERT's and NeoBERT's `decoder` is at the top of the model.
        is_per_token |= path in ("decoder.weight", "decoder.bias")
        weights.append((path, mx.take(array, rows, axis=0) if is_per_token else array))
    smaller = build_model(replace(config, **changes), model_class=type(model))
    smaller.load_weights(weights, strict=True)
    smaller.train(model.training)
    return smaller
