"""Rows to padded batches: NumPy only, few shapes, deterministic by (seed, epoch)."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mlx_trainer import PlannedBatch, plan_batches

BUCKETS = (16, 24, 32, 48, 64, 80, 96, 128, 160, 192, 256, 384, 512, 768, 1024, 2048, 4096, 8192)


@dataclass
class Rows:
    """Token ids of each row, and what goes beside them."""

    ids: list[list[int]]
    features: np.ndarray | None = None
    linear: np.ndarray | None = None
    targets: np.ndarray | None = None

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row, special tokens included."""
        return [len(row) for row in self.ids]


def pad_batch(rows: Rows, planned: PlannedBatch, pad_token_id: int) -> dict[str, np.ndarray]:
    """Pad to `planned.rows` by `planned.length`; rows added to fill the shape weigh nothing."""
    count = len(planned.indices)
    input_ids = np.full((planned.rows, planned.length), pad_token_id, np.int32)
    mask = np.zeros((planned.rows, planned.length), bool)
    for row, index in enumerate(planned.indices):
        ids = rows.ids[index]
        input_ids[row, : len(ids)] = ids
        mask[row, : len(ids)] = True
    batch = {"input_ids": input_ids, "attention_mask": mask}
    if rows.features is not None:
        batch["features"] = _filled(rows.features, planned, count)
    if rows.linear is not None:
        batch["linear"] = _filled(rows.linear, planned, count)
    if rows.targets is not None:
        batch["targets"] = _filled(rows.targets, planned, count)
        batch["weights"] = (np.arange(planned.rows) < count).astype(np.float32)
    return batch


def training_updates(
    rows: Rows, batch_size: int, max_tokens: int, seed: int, epoch: int
) -> list[list[PlannedBatch]]:
    """The plan of one epoch: updates of `batch_size` rows, each in one or more micro-batches."""
    return plan_batches(
        rows.lengths,
        batch_size=batch_size,
        buckets=BUCKETS,
        max_tokens=max_tokens,
        seed=seed,
        epoch=epoch,
    )


def prediction_batches(
    rows: Rows, pad_token_id: int, max_tokens: int
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Every row once, longest neighbours together; yields (row positions, batch)."""
    plan = plan_batches(
        rows.lengths, batch_size=64, buckets=BUCKETS, max_tokens=max_tokens, shuffle=False
    )
    for update in plan:
        for planned in update:
            yield planned.indices, pad_batch(rows, planned, pad_token_id)


def _filled(values: np.ndarray, planned: PlannedBatch, count: int) -> np.ndarray:
    filled = np.zeros((planned.rows, *values.shape[1:]), values.dtype)
    filled[:count] = values[planned.indices]
    return filled
