"""Losses of preferences: DPO (Rafailov et al. 2023) and ORPO (Hong et al. 2024).

A batch has pairs of answers to one question, the chosen one first. log p is the sum of the log
probabilities of an answer's tokens, given the question.
"""

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_gpt.data import IGNORE
from mlx_gpt.training.finetune_settings import FinetuneObjective
from mlx_gpt.training.losses import target_losses, target_states

Arrays = dict[str, mx.array]
Loss = Callable[[nn.Module, Arrays], tuple[mx.array, mx.array]]


def answer_log_probs(model: nn.Module, batch: Arrays) -> tuple[mx.array, mx.array]:
    """Return log p and the number of tokens of both answers, each (B, 2), float32."""
    rows = {
        name: each.reshape(-1, each.shape[-1])
        for name, each in batch.items()
        if name in ("inputs", "targets", "positions")
    }
    losses = target_losses(model, target_states(model, rows), rows["targets"])
    counts = (rows["targets"] != IGNORE).sum(axis=1)
    return -losses.sum(axis=1).reshape(-1, 2), counts.reshape(-1, 2).astype(mx.float32)


def dpo_losses(
    log_probs: mx.array, reference: mx.array, beta: float, label_smoothing: float = 0.0
) -> tuple[mx.array, mx.array]:
    """Return the losses (B,) and the rewards (B, 2) of pairs; both arguments are log p (B, 2).

    TRL's `loss_type="sigmoid"`, with label smoothing s as in its version 0.24: with
    r = beta (log p - log p_reference) of an answer,
    loss = -(1 - s) log sigmoid(r_chosen - r_rejected) - s log sigmoid(r_rejected - r_chosen).
    """
    rewards = beta * (log_probs - reference)
    margin = rewards[:, 0] - rewards[:, 1]
    losses = -(1 - label_smoothing) * _log_sigmoid(margin)
    return losses - label_smoothing * _log_sigmoid(-margin), rewards


def orpo_losses(log_probs: mx.array, counts: mx.array, weight: float) -> tuple[mx.array, mx.array]:
    """Return the losses (B,) and the rewards (B, 2) of pairs.

    As TRL's `ORPOTrainer`, with p the mean log probability of an answer's tokens and
    odds = p - log(1 - exp p): loss = -p_chosen - weight log sigmoid(odds_chosen - odds_rejected).
    The rewards are weight p. In TRL -p_chosen is the mean over all tokens of the chosen rows of a
    batch, with their questions; here it is that of each answer, as in the paper (equation 6).
    """
    means = log_probs / counts
    odds = means - mx.log(-mx.expm1(means))
    losses = -means[:, 0] - weight * _log_sigmoid(odds[:, 0] - odds[:, 1])
    return losses, weight * means


def pair_losses(
    model: nn.Module, batch: Arrays, objective: FinetuneObjective
) -> tuple[mx.array, mx.array]:
    """Return the losses (B,) and the rewards (B, 2) of a batch of pairs.

    DPO needs `reference` (B, 2), log p of the model before training.
    """
    log_probs, counts = answer_log_probs(model, batch)
    if objective.name == "orpo":
        return orpo_losses(log_probs, counts, objective.orpo_lambda)
    smoothing = objective.label_smoothing
    return dpo_losses(log_probs, batch["reference"], objective.beta, smoothing)


def preference_loss(objective: FinetuneObjective) -> Loss:
    """Return the loss function of a step: the sum of the losses of pairs, and their number."""

    def loss(model: nn.Module, batch: Arrays) -> tuple[mx.array, mx.array]:
        losses, _ = pair_losses(model, batch, objective)
        return losses.sum(), mx.array(float(losses.size))

    return loss


def score_pairs(rewards: np.ndarray) -> dict[str, float]:
    """Return the share of rewards (N, 2) whose first is higher, and the mean difference."""
    margins = rewards[:, 0] - rewards[:, 1]
    return {"accuracy": float((margins > 0).mean()), "margin": float(margins.mean())}


def _log_sigmoid(x: mx.array) -> mx.array:
    return -mx.logaddexp(-x, mx.array(0.0))
