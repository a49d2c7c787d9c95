"""The rows of `finetune` as batches: examples, or pairs with log probabilities of a reference."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

import mlx.core as mx
import numpy as np

from mlx_gpt.data.batching import (
    Arrays,
    EpochBatches,
    MicroBatch,
    example_arrays,
    pair_arrays,
    plan_epoch,
)
from mlx_gpt.data.examples import Example, Examples, Pair, read_examples, read_pairs
from mlx_gpt.models.decoder import Decoder
from mlx_gpt.tokenizer.loading import AnyTokenizer
from mlx_gpt.training.finetune_settings import FinetuneConfig
from mlx_gpt.training.preferences import answer_log_probs
from mlx_lora import active_adapters, disable_adapters
from mlx_trainer import ConfigError

Rows = Sequence[Example] | Sequence[Pair]


@dataclass
class Dataset:
    """Rows, and what their batches are made of.

    `reference` (N, 2) are log p of pairs by the model before training, for DPO.
    """

    rows: Rows
    pad_id: int
    most_tokens: int
    reference: np.ndarray | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def lengths(self) -> list[int]:
        """Inputs of each row; of a pair those of the longer answer."""
        return [_length(row) for row in self.rows]

    @property
    def targets(self) -> int:
        """Tokens that are learned, in all rows."""
        return sum(int(side.trained[1:].sum()) for row in self.rows for side in row.sides)

    @property
    def tokens(self) -> int:
        """Tokens of all rows, the last one of each included, which is only a target."""
        return sum(len(side) for row in self.rows for side in row.sides)

    def arrays(self, batch: MicroBatch) -> Arrays:
        """Return the arrays of a micro-batch."""
        if not isinstance(self.rows[0], Pair):
            return example_arrays(self.rows, batch, self.pad_id)  # type: ignore[arg-type]
        arrays = pair_arrays(self.rows, batch, self.pad_id)  # type: ignore[arg-type]
        indices = arrays.pop("pairs")
        return arrays | ({} if self.reference is None else {"reference": self.reference[indices]})

    def once(self) -> Iterator[tuple[MicroBatch, dict[str, mx.array]]]:
        """Yield the batches of all rows, sorted by length, for an evaluation."""
        for update in plan_epoch(self.lengths, 64, self._row_tokens, shuffle=False):
            for batch in update:
                arrays = self.arrays(batch)
                yield batch, {name: mx.array(each) for name, each in arrays.items()}

    def epochs(self, batch_size: int, capacity: int | None, seed: int) -> EpochBatches:
        """Return the batches to train on; `capacity` is that of packed rows."""
        return EpochBatches(self.lengths, self.arrays, batch_size, self._row_tokens,
                            capacity=capacity, seed=seed)  # fmt: skip

    @property
    def _row_tokens(self) -> int:
        return self.most_tokens // (2 if isinstance(self.rows[0], Pair) else 1)


def read_dataset(
    config: FinetuneConfig, files: Sequence[str], tokenizer: AnyTokenizer, sequence_len: int
) -> Dataset:
    """Return the rows of files; `sequence_len` is the model's longest context.

    Raises `ValueError` with file and line for a malformed row, if the settings do not skip it.
    """
    data = config.data
    if not files:
        raise ConfigError("data.train: name at least one file")
    # The last token is only a target, so that rows have one more token than the model sees.
    longest = min(data.max_tokens, sequence_len) + 1
    options = {"max_tokens": longest, "on_bad_row": data.on_bad_row,
               "train_on_eos": data.train_on_eos}  # fmt: skip
    found: Examples
    if config.objective.name == "sft":
        found = read_examples(files, tokenizer, data.mask, **options)  # type: ignore[arg-type]
    else:
        found = read_pairs(files, tokenizer, **options)  # type: ignore[arg-type]
    pad_id = min(tokenizer.end_ids, default=0)
    notes = [f"{', '.join(files)}: {line}" for line in found.notes()]
    return Dataset(found.rows, pad_id, config.training.micro_batch_tokens, notes=notes)


def add_reference(data: Dataset, model: Decoder) -> None:
    """Set log p of all pairs by the model without its adapter, or as it is if it has none."""
    reference = np.zeros((len(data.rows), 2), np.float32)
    training = model.training
    model.eval()
    with disable_adapters(model) if active_adapters(model) else nullcontext():
        for batch, arrays in data.once():
            log_probs, _ = answer_log_probs(model, arrays)
            reference[[index for (index,) in batch.rows]] = np.array(log_probs)
    model.train(training)
    data.reference = reference


def _length(row: Example | Pair) -> int:
    return max(len(side) for side in row.sides) - 1
