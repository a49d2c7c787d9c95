"""The batches that all implementations read: `python -m gpt.data SHARDS SEED ...`.

Prose in tokens of our tokenizer, trained on it, and packed as for our training.
"""

import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from gpt.settings import Settings
from mlx_gpt.tokenizer import Tokenizer
from mlx_gpt.training.settings import (
    PretrainConfig,
    PretrainData,
    PretrainModel,
    PretrainTraining,
)
from mlx_gpt.training.streams import open_streams
from mlx_shards import TokenStream, local_shards, split_last

HELD_OUT = 4  # batches


def main() -> None:
    data, *seeds = sys.argv[1:]
    settings = Settings.load()
    make_tokenizer(Path(data), settings)
    for seed in map(int, seeds):
        make_batches(Path(data), settings, seed)


def make_tokenizer(data: Path, settings: Settings) -> None:
    """Train the tokenizer on all shards but the last, and keep it in the shared folder."""
    train, _ = split_last(local_shards(data))
    texts = (text for shard in train for text in texts_of(shard.location))
    Tokenizer.train(texts, settings.model.vocab).save(settings.path("tokenizer"))


def texts_of(path: str) -> list[str]:
    return pq.read_table(path).column("text").to_pylist()


def make_batches(data: Path, settings: Settings, seed: int) -> None:
    """Write training rows in the order of a seed, (steps, rows, length + 1), and held-out rows."""
    folder = settings.path("tokenizer")
    config = PretrainConfig(
        PretrainData(str(data), str(folder), oversize="crop"),
        PretrainModel(sequence_len=settings.model.length),
        PretrainTraining(device_batch_size=settings.rows, seed=seed),
    )
    train, valid = open_streams(config, Tokenizer.load(folder))
    np.save(settings.path(f"train-{seed}.npy"), first(train, settings.steps))
    np.save(settings.path("held-out.npy"), first(valid, HELD_OUT))


def first(stream: TokenStream, count: int) -> np.ndarray:
    """Return the first batches, int32 (count, rows, length + 1): inputs and the last target."""
    batches = [
        np.concatenate([each.inputs, each.targets[:, -1:]], axis=1)
        for each in islice(stream, count)
    ]
    stream.close()
    if len(batches) < count:
        raise SystemExit(f"the text is too short: {len(batches)} batches of {count}")
    return np.stack(batches)


if __name__ == "__main__":
    main()
