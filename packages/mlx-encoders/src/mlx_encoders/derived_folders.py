"""What commands that write a changed model share: small files, and the distance to before."""

import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_encoders._atomic import write_atomic
from mlx_encoders.pretrained import PretrainedModel
from mlx_encoders.tokenizer import Tokenizer

BATCH = 16
MOST_TOKENS = 128


def encode_batches(
    model: PretrainedModel, tokenizer: Tokenizer, texts: Sequence[str]
) -> list[dict[str, mx.array]]:
    """Return padded batches of the first tokens of texts, as many as the model takes."""
    limit = getattr(model.config, "max_position_embeddings", MOST_TOKENS)
    rows = tokenizer.encode(texts, min(MOST_TOKENS, limit))
    batches = (tokenizer.pad(rows[i : i + BATCH]) for i in range(0, len(rows), BATCH))
    return [{name: mx.array(array) for name, array in batch.items()} for batch in batches]


def mean_states(model: PretrainedModel, batch: Mapping[str, Any]) -> mx.array:
    """Return the means (B, hidden_size) of the hidden states of each row's tokens, in float32."""
    hidden = model.encoder_model(batch["input_ids"], batch["attention_mask"]).astype(mx.float32)
    valid = mx.array(batch["attention_mask"])[..., None]
    return mx.where(valid, hidden, 0).sum(axis=1) / mx.maximum(valid.sum(axis=1), 1)


def embeddings(
    model: PretrainedModel, tokenizer: Tokenizer, texts: Sequence[str]
) -> list[mx.array]:
    """Return the normalized means of the texts' hidden states, a batch each."""
    means = []
    for batch in encode_batches(model, tokenizer, texts):
        mean = mean_states(model, batch)
        means.append(mean / mx.linalg.norm(mean, axis=-1, keepdims=True))
        mx.eval(means[-1])
    return means


def cosines(before: Sequence[mx.array], after: Sequence[mx.array]) -> dict[str, float]:
    """Return the mean and the lowest cosine of the embeddings of the same texts."""
    found = mx.concatenate([(a * b).sum(-1) for a, b in zip(before, after, strict=True)])
    return {"cosine_mean": float(found.mean()), "cosine_min": float(found.min())}


def copy_files(
    folder: Path, output: Path, patterns: Iterable[str], excluded: Sequence[str] = ()
) -> None:
    """Copy the files of `folder` that match, except those of these names."""
    for path in sorted({path for pattern in patterns for path in folder.glob(pattern)}):
        name = path.relative_to(folder)
        if str(name) in excluded:
            continue
        target = output / name
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(target, lambda temporary, path=path: shutil.copyfile(path, temporary))
