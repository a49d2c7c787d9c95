"""Adversarial training of a run: FGM or AWP, from an epoch on."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_encoders.adversarial import awp_loss, fgm_loss
from mlx_kaggle.members.model import TextModel
from mlx_kaggle.members.objective import LossFunction, Sums
from mlx_kaggle.members.optimizer import part_of
from mlx_kaggle.settings.config import RunConfig

DEFAULT_EPSILON = {"fgm": 0.5, "awp": 0.005}
# A key of marked batches. As a key, not a value, it gets a compiled step of its own.
MARK = "adversarial"


def is_adversarial(config: RunConfig, epoch: int) -> bool:
    """Whether the updates of an epoch, counted from 0, are adversarial."""
    training = config.training
    return training.adversarial != "none" and epoch >= training.adversarial_start


def mark(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return a batch of an adversarial update."""
    return batch | {MARK: np.ones(len(batch["input_ids"]), bool)}


def adversarial_loss(config: RunConfig, loss: LossFunction) -> LossFunction:
    """Return `loss` with adversarial training of the batches that `mark` marks."""
    method, epsilon = config.training.adversarial, config.training.adversarial_epsilon
    if method == "none":
        return loss
    epsilon = DEFAULT_EPSILON[method] if epsilon is None else epsilon

    def adversarial(model: nn.Module, batch: dict[str, mx.array]) -> Sums:
        if MARK not in batch:
            return loss(model, batch)
        assert isinstance(model, TextModel)
        batch = {name: array for name, array in batch.items() if name != MARK}
        encoder, ids, mask = model.encoder, batch["input_ids"], batch["attention_mask"]

        def at_embeddings(model: nn.Module, embeddings: mx.array) -> Sums:
            return loss(model, batch | {"input_ids": None, "inputs_embeds": embeddings})

        def is_perturbed(path: str, array: mx.array) -> bool:
            return part_of(path, array, encoder) == "matrices"

        if method == "fgm":
            return fgm_loss(at_embeddings, model, ids, epsilon, mask)
        return awp_loss(lambda model: loss(model, batch), model, epsilon, is_perturbed)

    return adversarial
