"""Masked-language-model training on text, to adapt an encoder to the language of a domain."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import get_args

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np

from mlx_encoders.batching import Batch, plan_batches
from mlx_encoders.build import EncoderConfig
from mlx_encoders.masking import (
    IGNORED,
    Masking,
    mask_tokens,
    masked_lm_loss,
    masked_positions,
    masking_of,
)
from mlx_encoders.pretraining_checkpoint import Checkpoint, fingerprint
from mlx_encoders.pretraining_settings import PretrainingSettings
from mlx_encoders.tasks import BertForMaskedLM, ModernBertForMaskedLM, NeoBertForMaskedLM
from mlx_encoders.tokenizer import Tokenizer
from mlx_encoders.windows import Document, Windows, cut_windows, encode_documents

MaskedLM = BertForMaskedLM | ModernBertForMaskedLM | NeoBertForMaskedLM

# The first number of the seeds of independent random streams
_MASKS, _HELD_OUT_MASKS, _SPLIT, _DROPOUT = range(4)
_BETAS, _EPS = (0.9, 0.98), 1e-6  # RoBERTa (Liu et al. 2019), section 3.1


@dataclass(frozen=True)
class PretrainingStep:
    """What `report` gets after each update; `step` counts from 1, `epoch` from 0."""

    step: int
    steps: int
    epoch: int
    loss: float
    learning_rate: float


@dataclass(frozen=True)
class PretrainingReport:
    """The data and the result; losses are nats a hidden token of the held-out documents.

    `unigram_loss` is the loss of token frequencies in the training documents, without any context.
    """

    documents: int
    held_out_documents: int
    empty_documents: int
    """Without any token, which are left out."""
    tokens: int
    """To train on, special ones not included."""
    steps: int
    loss_before: float
    loss_after: float
    unigram_loss: float


@dataclass(frozen=True)
class _Data:
    """Documents, and how to make batches of them."""

    documents: list[Document]
    tokenizer: Tokenizer
    masking: Masking
    settings: PretrainingSettings

    @cached_property
    def windows(self) -> Windows:
        return cut_windows(self.documents, self.tokenizer, self.settings.length, self.settings.join)

    @cached_property
    def lengths(self) -> np.ndarray:
        return np.array([len(row) for row in self.windows.ids])

    def plan(self, epoch: int, shuffle: bool = True) -> list[Batch]:
        size, seed = self.settings.batch_size, self.settings.seed
        return plan_batches(self.lengths, batch_size=size, seed=seed, epoch=epoch, shuffle=shuffle)

    def arrays(self, batch: Batch, key: Sequence[int]) -> tuple[np.ndarray, ...]:
        """Return ids and mask (B, L), and positions and labels (K,); `key` seeds the masks."""
        # Rounding may exceed the longest sequence of the model.
        length = min(batch.length, self.settings.length)
        padded = self.tokenizer.pad([self.windows.ids[i] for i in batch.indices], length)
        starts = np.ones_like(padded["attention_mask"])
        for row, i in enumerate(batch.indices):
            starts[row, : self.lengths[i]] = self.windows.word_starts[i]
        random = np.random.default_rng([*key])
        ids, labels = mask_tokens(padded["input_ids"], self.tokenizer, self.masking, random, starts)
        return (ids, padded["attention_mask"], *masked_positions(labels))


def pretrain(
    model: MaskedLM,
    tokenizer: Tokenizer,
    texts: Iterable[str],
    settings: PretrainingSettings | None = None,
    *,
    held_out_texts: Iterable[str] | None = None,
    report: Callable[[PretrainingStep], object] | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 500,
) -> PretrainingReport:
    """Train `model`, of a class for masked language modeling, in place on documents.

    No text is cut off; all tokens of `texts` stay in memory, 10 bytes each. The held-out documents
    are `held_out_texts`, or a random share of `texts`. Each epoch hides other tokens. The result
    depends only on the arguments; MLX's global random state is seeded for the dropout.

    `checkpoint` is a file for the weights and the optimizer's state, written every
    `checkpoint_every` updates. If it exists the training goes on from there, to the same result bit
    for bit. Raises `ValueError` if it is of other texts, settings or another model, and
    `FloatingPointError` if the loss is not finite.
    """
    settings = settings or PretrainingSettings()
    _check_model(model, tokenizer)
    documents, held_out, empty = _documents(tokenizer, texts, held_out_texts, settings)
    masking = settings.masking or masking_of(model.config)
    data = _Data(documents, tokenizer, masking, settings)
    held_out_batches = _held_out_batches(_Data(held_out, tokenizer, masking, settings))
    updates_per_epoch = len(data.plan(0))
    steps = settings.steps or settings.epochs * updates_per_epoch
    optimizer = _optimizer(model, settings)
    saved = None
    if checkpoint is not None:
        mark = fingerprint(data.windows.ids, repr((settings, masking, model.config)))
        saved = Checkpoint(Path(checkpoint), mark)
    resumed = saved.load(model, optimizer) if saved and saved.path.exists() else None
    first, before = resumed or (0, held_out_loss(model, held_out_batches))
    update = _compile_update(model, optimizer, settings.max_grad_norm)
    model.train()
    plan: list[Batch] = []
    for step in range(first, steps):
        epoch, number = divmod(step, updates_per_epoch)
        if not plan or number == 0:
            plan = data.plan(epoch)
        mx.random.seed(_seed_of(_DROPOUT, settings.seed, step))
        rate = settings.rate(step, steps)
        optimizer.learning_rate = mx.array(rate)
        loss = update(*map(mx.array, data.arrays(plan[number], (_MASKS, settings.seed, step))))
        mx.eval(loss, model.parameters(), optimizer.state)
        if not mx.isfinite(loss):
            raise FloatingPointError(
                f"the loss of update {step + 1} is {float(loss)}; lower learning_rate ({rate:.3g})"
            )
        if report is not None:
            report(PretrainingStep(step + 1, steps, epoch, float(loss), rate))
        if saved and (step + 1) % checkpoint_every == 0:
            saved.save(model, optimizer, step + 1, before)
    model.eval()
    return PretrainingReport(
        documents=len(documents),
        held_out_documents=len(held_out),
        empty_documents=empty,
        tokens=sum(len(document.ids) for document in documents),
        steps=steps,
        loss_before=before,
        loss_after=held_out_loss(model, held_out_batches),
        unigram_loss=_unigram_loss(documents, held_out_batches, tokenizer.vocab_size),
    )


def _check_model(model: object, tokenizer: Tokenizer) -> None:
    if not isinstance(model, MaskedLM):
        raise TypeError(
            f"pretraining needs a class for masked language modeling, such as BertForMaskedLM; "
            f"got {type(model).__name__}"
        )
    if tokenizer.vocab_size > model.config.vocab_size:
        raise ValueError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, but the model has embeddings for "
            f"{model.config.vocab_size}; use the tokenizer of this model"
        )


def masked_lm_class(config: EncoderConfig) -> type[MaskedLM]:
    """Return the class for masked language modeling of this architecture."""
    return next(each for each in get_args(MaskedLM) if isinstance(config, each.config_class))


def masked_lm_loss_of(
    model: MaskedLM, ids: mx.array, mask: mx.array, positions: mx.array, labels: mx.array
) -> mx.array:
    """Return the loss of ids (B, L) at flat `positions` (K,), without logits elsewhere."""
    hidden = model.encoder_model(ids, mask)
    chosen = hidden.reshape(-1, hidden.shape[-1])[positions]
    return masked_lm_loss(model.logits(chosen), labels)


def held_out_loss(model: MaskedLM, batches: Sequence[tuple[np.ndarray, ...]]) -> float:
    """Return the mean loss over all labels of batches of ids, mask, positions and labels."""
    was_training = model.training
    model.eval()
    total, count = 0.0, 0
    for batch in batches:
        labels = int((batch[-1] != IGNORED).sum())
        total += labels * float(masked_lm_loss_of(model, *map(mx.array, batch)))
        count += labels
    model.train(was_training)
    return total / count


def _documents(
    tokenizer: Tokenizer,
    texts: Iterable[str],
    held_out_texts: Iterable[str] | None,
    settings: PretrainingSettings,
) -> tuple[list[Document], list[Document], int]:
    documents, empty = encode_documents(tokenizer, texts)
    if held_out_texts is not None:
        held_out, held_out_empty = encode_documents(tokenizer, held_out_texts)
        empty += held_out_empty
    else:
        random = np.random.default_rng([_SPLIT, settings.seed])
        count = min(len(documents), max(1, round(settings.held_out_share * len(documents))))
        chosen = set(random.choice(len(documents), count, replace=False)) if count else set()
        held_out = [document for i, document in enumerate(documents) if i in chosen]
        documents = [document for i, document in enumerate(documents) if i not in chosen]
    if not documents or not held_out:
        raise ValueError(
            f"pretraining needs documents to train on and documents held out, got "
            f"{len(documents)} and {len(held_out)}, besides {empty} without any token"
        )
    return documents, held_out, empty


def _held_out_batches(data: _Data) -> list[tuple[np.ndarray, ...]]:
    batches = [
        data.arrays(batch, (_HELD_OUT_MASKS, data.settings.seed, number))
        for number, batch in enumerate(data.plan(0, shuffle=False))
    ]
    if not any((batch[-1] != IGNORED).any() for batch in batches):
        raise ValueError(
            "the documents held out are too short to predict a token of; hold out more"
        )
    return batches


def _optimizer(model: nn.Module, settings: PretrainingSettings) -> optim.Optimizer:
    """AdamW, without weight decay for norms and biases."""
    adamw = partial(optim.AdamW, settings.learning_rate, list(_BETAS), _EPS, bias_correction=True)
    optimizer = optim.MultiOptimizer(
        [adamw(weight_decay=settings.weight_decay), adamw(weight_decay=0.0)],
        [lambda path, array: array.ndim > 1],
    )
    optimizer.init(model.trainable_parameters())
    return optimizer


def _compile_update(
    model: MaskedLM, optimizer: optim.Optimizer, max_grad_norm: float
) -> Callable[..., mx.array]:
    state = [model.state, optimizer.state, mx.random.state]
    loss_and_gradient = nn.value_and_grad(model, partial(masked_lm_loss_of, model))

    @partial(mx.compile, inputs=state, outputs=state)
    def update(*batch: mx.array) -> mx.array:
        loss, gradient = loss_and_gradient(*batch)
        gradient, _ = optim.clip_grad_norm(gradient, max_grad_norm)
        optimizer.update(model, gradient)
        return loss

    return update


def _seed_of(*key: int) -> int:
    return int(np.random.SeedSequence(key).generate_state(1)[0])


def _unigram_loss(
    documents: Sequence[Document], batches: Sequence[tuple[np.ndarray, ...]], vocab_size: int
) -> float:
    """Return the loss of token frequencies, with one more count for each token."""
    counts = np.ones(vocab_size)
    for document in documents:
        counts += np.bincount(document.ids, minlength=vocab_size)
    labels = np.concatenate([batch[-1] for batch in batches])
    return float(-np.log(counts / counts.sum())[labels[labels != IGNORED]].mean())
