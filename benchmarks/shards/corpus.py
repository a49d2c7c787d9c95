"""The texts of the benchmark, and a tokenizer trained on them."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from mlx_shards import Shard, local_shards, split_last

VOCABULARY = 8192
BOS = 0


def training_shards(data: Path, documents: int) -> list[Shard]:
    """Return the shards but the last; with `documents`, copies that hold only so many each."""
    train, _ = split_last(local_shards(data))
    if not documents:
        return train
    folder = Path(tempfile.mkdtemp(prefix="shards-"))
    for shard in train:
        table = pq.read_table(shard.location).slice(0, documents)
        pq.write_table(table, folder / shard.name, row_group_size=128)
    return local_shards(folder)


Encode = Callable[[list[str]], list[list[int]]]


def train_tokenizer(shards: list[Shard], path: Path | None = None) -> Encode:
    """Return a batch encoder: byte-level BPE trained on all texts of the shards; keep it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|bos|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (text for shard in shards for text in texts_of(shard))
    tokenizer.train_from_iterator(texts, trainer)
    if path:
        tokenizer.save(str(path))
    return encoder(tokenizer)


def encoder(tokenizer: Any) -> Encode:
    def encode(texts: list[str]) -> list[list[int]]:
        return [each.ids for each in tokenizer.encode_batch(texts, add_special_tokens=False)]

    return encode


def remembering(encode: Encode, shards: list[Shard]) -> Encode:
    """Return an encoder that only looks up what was encoded before: what is left is the loader."""
    known: dict[str, list[int]] = {}
    for shard in shards:
        texts = texts_of(shard)
        known |= zip(texts, encode(texts), strict=True)
    return lambda texts: [known[text] for text in texts]


def texts_of(shard: Shard) -> list[str]:
    return pq.read_table(shard.location).column("text").to_pylist()


def copies(shards: list[Shard], folder: Path) -> None:
    """Copy shards into a folder, to be served from there."""
    for shard in shards:
        shutil.copy(shard.location, folder / shard.name)
