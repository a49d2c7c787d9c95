"""The text member: prepare on the training rows, train encoder and head, predict."""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_heads import Objective, get_metric
from mlx_kaggle import RunError
from mlx_kaggle.machine import sharing_cores, step_threads
from mlx_kaggle.members.adapters import Base
from mlx_kaggle.members.adversarial import adversarial_loss, is_adversarial, mark
from mlx_kaggle.members.batches import (
    Rows,
    augmentation_of,
    drop_tokens,
    fit_text,
    pad_batch,
    prediction_batches,
    training_updates,
)
from mlx_kaggle.members.linear import fit_linear
from mlx_kaggle.members.model import Member, make_encoder, make_model
from mlx_kaggle.members.objective import (
    class_weights,
    head_arguments,
    linear_kind,
    loss_function,
    objective_of,
    offset,
    predicted,
    spread_of,
    start_from_linear,
)
from mlx_kaggle.members.optimizer import make_optimizer
from mlx_kaggle.members.soup import Soup
from mlx_kaggle.settings.config import RunConfig
from mlx_kaggle.tables.competition import Competition
from mlx_kaggle.tables.dependence import Dependence
from mlx_kaggle.tables.targets import Target
from mlx_kaggle.tables.windows import past_values
from mlx_tabtext import Table
from mlx_trainer import (
    Checkpoints,
    Evaluation,
    FitResult,
    TrainingError,
    TrainStep,
    fit,
    rank,
    stop_requested,
    warmup_cosine,
)

Report = Callable[[dict[str, Any]], None]
# In the history of a training: the score of the rows that a greedy soup is mixed by.
RANK_SEEDS = 1_000_003
HELD_OUT = "score of held-out training rows"


@dataclass
class Experiment:
    """A member fitted to the training rows of one fold, ready to train."""

    config: RunConfig
    competition: Competition
    train: Table
    seed: int
    member: Member
    objective: Objective
    targets: np.ndarray
    weights: np.ndarray
    """(N,), of the training rows: ones, or balanced by class."""
    linear: np.ndarray | None
    """Cross-fitted outputs of the linear model for the training rows, as added to the head's."""

    @classmethod
    def prepare(
        cls,
        config: RunConfig,
        competition: Competition,
        train: Table,
        seed: int,
        dependence: Dependence | None = None,
    ) -> "Experiment":
        """Fit tokenizer, serializer, linear model and target scaling; build the model."""
        target = Target(competition, config.data.train)
        encoded = target.encode(train)
        scaler = target.fit_scaler(encoded)
        tokenizer, text = fit_text(config, competition, train, encoded)
        values = scaler.transform(encoded, train) if scaler else encoded
        objective = objective_of(config, competition)
        kind = linear_kind(competition, objective)
        parts = {"numeric_features": config.head.numeric_features, "words": config.head.words}
        how = {**parts, "seed": seed, "dependence": dependence}
        linear, cross_fitted = fit_linear(competition, train, values, kind, **how)
        mx.random.seed(seed)
        encoder = make_encoder(config, tokenizer, seed)
        count = linear.features.count if linear and linear.features else 0
        arguments = head_arguments(config, competition, encoder.config.hidden_size, count, seed)
        model = make_model(encoder, arguments)
        if cross_fitted is not None:
            start_from_linear(model.head, spread_of(values, cross_fitted) if scaler else None)
            cross_fitted = offset(cross_fitted, objective, model.head)
        mx.eval(model.parameters())
        integers = kind in ("classes", "ordered") and competition.task != "binary"
        targets = values.astype(np.int32 if integers else np.float32)
        weights = class_weights(config, competition, encoded)
        base = Base.of(config) if config.lora.preset != "none" else None
        member = Member(model, tokenizer, text, linear, scaler, arguments, base)
        return cls(
            config, competition, train, seed, member, objective, targets, weights, cross_fitted
        )

    def updates_per_epoch(self) -> int:
        """Optimizer updates in one pass over the training rows."""
        return -(-len(self.targets) // self.config.training.batch_size)

    def rows(self, epoch: int) -> Rows:
        """Return the training rows as token ids, with new augmentation for each epoch."""
        member, settings = self.member, self.config.text
        seed = self.seed * 100_003 + epoch
        augmentation = augmentation_of(self.config)
        if augmentation is None:
            texts = member.text.transform(self.train)
        else:
            texts = member.text.augment(self.train, seed=seed, augmentation=augmentation)
        ids = member.tokenizer.encode(texts, max_length=settings.max_tokens)
        if settings.drop_token:
            ids = drop_tokens(ids, member.tokenizer, settings.drop_token, seed)
        features = member.features.transform(self.train) if member.features else None
        history = _history(self.competition, self.train)
        return Rows(ids, features, self.linear, history, self.targets, self.weights)

    def batches(self, epoch: int, start: int = 0) -> Iterator[list[dict[str, np.ndarray]]]:
        """Yield the updates of one epoch from `start` on, each a list of padded micro-batches."""
        training, pad = self.config.training, self.member.tokenizer.pad_token_id
        rows = self.rows(epoch)
        plan = training_updates(
            rows, training.batch_size, training.micro_batch_tokens, self.seed, epoch
        )
        adversarial = is_adversarial(self.config, epoch)
        for update in plan[start:]:
            batches = [pad_batch(rows, planned, pad) for planned in update]
            yield [mark(batch) for batch in batches] if adversarial else batches

    def step(self) -> TrainStep:
        """Return a compiled training step with a new optimizer."""
        config, model = self.config, self.member.model
        loss = loss_function(config, self.objective, model.head, self.targets)
        return TrainStep(
            model,
            make_optimizer(config, model),
            adversarial_loss(config, loss),
            max_grad_norm=self.config.training.max_grad_norm,
            threads=step_threads(self.config.training.threads),
        )

    def train_model(
        self,
        validation: Table | None,
        folder: Path,
        report: Report,
        resume: bool,
        held_out: Table | None = None,
    ) -> FitResult:
        """Train with checkpoints in `folder`; score the validation rows after each epoch.

        A greedy soup is mixed by its score of `held_out`, rows that are not trained on.
        """
        training = self.config.training
        mx.random.seed(self.seed + RANK_SEEDS * rank())  # each process has its own dropout
        step = self.step()
        soup = Soup(folder, self.member.model) if training.soup != "none" else None
        with closing(step), sharing_cores(step.threads), stop_requested() as stopping:
            try:
                result = fit(
                    step,
                    self.batches,
                    self.updates_per_epoch(),
                    epochs=training.epochs,
                    learning_rate=training.learning_rate,
                    schedule=warmup_cosine(training.warmup),
                    evaluation=self._evaluation(validation, soup, held_out),
                    checkpoints=Checkpoints(folder, seconds=training.checkpoint_seconds),
                    resume=resume,
                    report=report,
                    stopping=stopping,
                )
                if soup:
                    self._mix(soup, result, held_out, report)
                return result
            except TrainingError as error:
                epoch = (step.updates - 1) // self.updates_per_epoch() + 1
                raise RunError(
                    f"{folder.parent.name}, epoch {epoch}, {str(error).partition(';')[0]}: the "
                    f"training diverged; train again with a lower rate: --overwrite --set "
                    f"training.learning_rate={training.learning_rate / 10:.2g} (it was "
                    f"{training.learning_rate:.2g})"
                ) from error

    def _evaluation(
        self, validation: Table | None, soup: Soup | None, held_out: Table | None
    ) -> Evaluation | None:
        if validation is None and soup is None:
            return None
        metric = self.competition.metric

        def evaluate(model: nn.Module, epoch: int) -> dict[str, float]:
            if soup:
                soup.keep(epoch)
            scores = {metric: self._score(validation)} if validation else {metric: float("nan")}
            return scores | ({HELD_OUT: self._score(held_out)} if held_out else {})

        return Evaluation(
            evaluate,
            monitor=metric,
            greater_is_better=get_metric(metric).greater_is_better,
            patience=self.config.training.patience,
            restore_best=self.config.training.patience > 0,
        )

    def _score(self, table: Table) -> float:
        target = Target(self.competition)
        truth, scale = target.encode(table), target.naive_errors(table)
        prediction = predict_member(self.member, self.competition, table, self.config, tta=1)
        return target.score(truth, prediction, scale=scale)

    def _mix(self, soup: Soup, result: FitResult, held_out: Table | None, report: Report) -> None:
        """Replace the weights by a soup, and say which epochs are in it."""
        epochs = len(result.history)
        if held_out is None:
            chosen = list(range(max(epochs - self.config.training.soup_epochs, 0), epochs))
            soup.mix(chosen)
        else:
            greater = get_metric(self.competition.metric).greater_is_better
            scores = [entry[HELD_OUT] for entry in result.history]
            chosen = soup.mix_greedily(scores, greater, lambda: self._score(held_out))
        soup.delete()
        listed = ", ".join(str(epoch + 1) for epoch in chosen)
        report({"event": "text", "report": f"soup: the mean of the weights after epochs {listed}"})


def predict_member(
    member: Member, competition: Competition, table: Table, config: RunConfig, tta: int
) -> np.ndarray:
    """Return a prediction (see tables/targets.py), values in the unit of the target.

    Test-time augmentation averages the predictions of `tta` texts of each row.
    """
    head, objective = member.model.head, objective_of(config, competition)
    features = member.features.transform(table) if member.features else None
    linear = offset(member.linear.outputs(table), objective, head) if member.linear else None
    history = _history(competition, table)
    texts = (
        [member.text.transform(table)]
        if tta == 1
        else member.text.transform_tta(table, count=tta, seed=config.seed)
    )
    predictions = []
    for text in texts:
        ids = member.tokenizer.encode(text, max_length=config.text.max_tokens)
        rows = Rows(ids, features, linear, history)
        outputs = _outputs(member, rows, config.training.micro_batch_tokens)
        found = predicted(head, mx.array(outputs), config)
        predictions.append(member.scaler.inverse(found, table) if member.scaler else found)
    return Target(competition).combine(predictions)


def _history(competition: Competition, table: Table) -> np.ndarray | None:
    return past_values(table, competition.forecast) if competition.forecast else None


def check_finite(prediction: np.ndarray, member: Path, file: str) -> None:
    """Refuse a prediction, (N,) or (N, classes), that is NaN or infinite."""
    rows = np.flatnonzero(~np.isfinite(prediction.reshape(len(prediction), -1)).all(1))
    if len(rows):
        raise RunError(
            f"{member}: its prediction of row {rows[0] + 2} of {file} is not a finite number"
            + (f" ({len(rows)} such rows)" if len(rows) > 1 else "")
            + "; nothing was written. Train this model again, at a lower rate if it diverged"
        )


def _outputs(member: Member, rows: Rows, max_tokens: int) -> np.ndarray:
    """Return the outputs of the model in row order."""
    member.model.eval()
    found: np.ndarray | None = None
    forward = mx.compile(lambda arrays: member.model(**arrays), inputs=[member.model.state])
    with sharing_cores(1):
        for indices, batch in prediction_batches(rows, member.tokenizer.pad_token_id, max_tokens):
            arrays = {name: mx.array(array) for name, array in batch.items()}
            outputs = np.array(forward(arrays), np.float32)[: len(indices)]
            if found is None:
                found = np.zeros((len(rows.ids), *outputs.shape[1:]), np.float32)
            found[indices] = outputs
    return found if found is not None else np.zeros((0,), np.float32)
