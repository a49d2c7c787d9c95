import math

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_trainer import AdamW, CheckpointError, Checkpoints, Evaluation, TrainStep, constant, fit


@pytest.fixture
def step(make_network, loss_fn):
    return TrainStep(make_network(dropout=0.1), AdamW(), loss_fn)


@pytest.fixture
def batches(make_batch):
    def updates(epoch, start):
        for update in range(start, 4):
            yield [make_batch(8, update), make_batch(8, update + 4)]

    return updates


def parameters(model):
    return [np.array(value).tolist() for _, value in tree_flatten(model.parameters())]


def scripted(scores):
    """Return an evaluation function that gives these scores, and the weights it was shown."""
    seen = []

    def evaluate(model, epoch):
        assert not model.training
        seen.append(parameters(model))
        return {"score": scores[epoch]}

    return evaluate, seen


def test_training_lowers_the_loss_and_the_history_tells(step, batches):
    result = fit(step, batches, 4, epochs=10, learning_rate=3e-2)
    losses = [entry["train_loss"] for entry in result.history]
    assert losses[-1] < 0.6 * losses[0]
    assert [entry["epoch"] for entry in result.history] == list(range(10))
    assert (result.best_score, result.best_epoch, result.stopped_early) == (None, None, False)
    assert (result.epochs_run, step.updates) == (10, 40)


def test_epoch_loss_is_the_mean_over_all_weight_of_the_epoch(step, batches, loss_fn):
    expected_loss, expected_weight = 0.0, 0.0
    step.model.dropout._p_1 = 1.0
    for update in batches(0, 0):
        for batch in update:
            arrays = {name: mx.array(value) for name, value in batch.items()}
            loss, weight = loss_fn(step.model, arrays)
            expected_loss, expected_weight = (
                expected_loss + float(loss),
                expected_weight + float(weight),
            )
    result = fit(step, batches, 4, epochs=1, learning_rate=0.0)
    assert result.history[0]["train_loss"] == pytest.approx(expected_loss / expected_weight)


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize("greater_is_better", [False, True])
def test_early_stopping_ends_with_the_best_weights(
    step, batches, tmp_path, on_disk, greater_is_better
):
    # Patience counts anew after the improvement in epoch 2.
    scores = [5, 4, 7, 6, 6.5, 9] if greater_is_better else [5, 6, 3, 4, 3.5, 1]
    evaluate, seen = scripted(scores)
    result = fit(
        step,
        batches,
        4,
        epochs=6,
        learning_rate=1e-2,
        evaluation=Evaluation(evaluate, "score", greater_is_better, patience=2),
        checkpoints=Checkpoints(tmp_path) if on_disk else None,
    )
    assert (result.best_epoch, result.best_score) == (2, scores[2])
    assert (result.epochs_run, result.stopped_early) == (5, True)
    assert parameters(step.model) == seen[2] != seen[4]


def test_without_restoring_the_last_weights_stay(step, batches):
    evaluate, seen = scripted([1, 0])
    evaluation = Evaluation(evaluate, "score", greater_is_better=True, restore_best=False)
    fit(step, batches, 4, epochs=2, learning_rate=1e-2, evaluation=evaluation)
    assert parameters(step.model) == seen[1]


def test_nan_is_never_the_best_score(step, batches):
    evaluate, _ = scripted([math.nan, 1, math.nan])
    evaluation = Evaluation(evaluate, "score", greater_is_better=True)
    result = fit(step, batches, 4, epochs=3, learning_rate=1e-2, evaluation=evaluation)
    assert (result.best_epoch, result.best_score) == (1, 1)


def test_evaluation_comes_every_few_epochs_and_at_the_end(step, batches):
    evaluate, seen = scripted([0] * 5)
    evaluation = Evaluation(evaluate, "score", greater_is_better=True, every=2)
    result = fit(step, batches, 4, epochs=5, learning_rate=1e-2, evaluation=evaluation)
    assert ["score" in entry for entry in result.history] == [False, True, False, True, True]
    assert len(seen) == 3


def test_reports_name_every_event_in_order(step, batches, tmp_path):
    events = []
    fit(
        step,
        batches,
        4,
        epochs=1,
        learning_rate=2.0,
        schedule=constant,
        checkpoints=Checkpoints(tmp_path, every=2),
        report=events.append,
    )
    assert [(event["event"], event["updates"]) for event in events] == [
        ("update", 1),
        ("update", 2),
        ("checkpoint", 2),
        ("update", 3),
        ("update", 4),
        ("evaluation", 4),
        ("checkpoint", 4),
        ("end", 4),
    ]
    assert events[0].keys() == {
        "event",
        "epoch",
        "update",
        "updates",
        "loss",
        "learning_rate",
        "grad_norm",
        "examples_per_second",
    }
    assert events[0]["learning_rate"] == 2.0


def test_the_schedule_sees_all_updates_of_all_epochs(step, batches):
    asked = []

    def schedule(update, total):
        asked.append((update, total))
        return 1.0

    fit(step, batches, 4, epochs=2, learning_rate=1e-3, schedule=schedule)
    assert asked == [(update, 8) for update in range(8)]


def test_a_finished_run_resumes_to_its_result_without_training(step, batches, tmp_path):
    evaluate, seen = scripted([2, 1])
    evaluation = Evaluation(evaluate, "score", greater_is_better=True)
    settings = {"epochs": 2, "learning_rate": 1e-2, "evaluation": evaluation}
    first = fit(step, batches, 4, **settings, checkpoints=Checkpoints(tmp_path))
    again = fit(step, batches, 4, **settings, checkpoints=Checkpoints(tmp_path), resume=True)
    assert again == first
    assert parameters(step.model) == seen[0]
    assert len(seen) == 2


@pytest.mark.parametrize("count", [3, 5])
def test_a_wrong_number_of_updates_is_an_error(step, make_batch, count, exactly):
    def batches(epoch, start):
        return iter([[make_batch(4)]] * count)

    given = 3 if count == 3 else "more"
    message = f"batches(0, 0) yielded {given} updates, expected 4: updates_per_epoch is 4"
    with pytest.raises(ValueError, match=exactly(message)):
        fit(step, batches, 4, epochs=1, learning_rate=1e-2)


def test_a_metric_that_is_not_there_is_an_error(step, batches):
    evaluation = Evaluation(lambda model, epoch: {"f1": 1.0}, "auc", greater_is_better=True)
    with pytest.raises(KeyError) as error:
        fit(step, batches, 4, epochs=1, learning_rate=1e-2, evaluation=evaluation)
    assert error.value.args == (
        "evaluate did not return 'auc' to monitor, but ['epoch', 'f1', 'train_loss']",
    )


def test_checkpoints_of_another_run_are_not_overwritten_or_misread(
    step, batches, tmp_path, exactly
):
    checkpoints = Checkpoints(tmp_path)
    fit(step, batches, 4, epochs=1, learning_rate=1e-2, checkpoints=checkpoints)
    latest = checkpoints.latest()
    with pytest.raises(
        ValueError,
        match=exactly(f"{latest} exists; pass resume=True to continue, or another folder"),
    ):
        fit(step, batches, 4, epochs=1, learning_rate=1e-2, checkpoints=checkpoints)
    again = {"epochs": 1, "learning_rate": 1e-2, "checkpoints": checkpoints, "resume": True}
    with pytest.raises(CheckpointError) as error:
        fit(step, batches, 5, **again)
    assert str(error.value) == (
        f"{latest} was saved with 4 updates per epoch, this run has 5: data or batch size differ"
    )
    checkpoints.save(step, {"my": "loop"})
    with pytest.raises(CheckpointError, match="was not saved by fit"):
        fit(step, batches, 4, **again)


def test_resume_without_checkpoints_is_an_error(step, batches, exactly):
    with pytest.raises(ValueError, match=exactly("resume=True needs checkpoints")):
        fit(step, batches, 4, epochs=1, learning_rate=1e-2, resume=True)
    with pytest.raises(ValueError, match=exactly("updates_per_epoch must be at least 1, got 0")):
        fit(step, batches, 0, epochs=1, learning_rate=1e-2)
