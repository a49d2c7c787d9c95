"""What one model is made of, on small tables."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_kaggle import RunError
from mlx_kaggle.members.batches import drop_tokens
from mlx_kaggle.members.model import Member, freeze
from mlx_kaggle.members.text import Experiment, predict_member
from mlx_kaggle.settings.config import resolve_config
from mlx_kaggle.training.job import prepare_job

pytestmark = pytest.mark.usefixtures("compiled")


@pytest.fixture
def prepare(passengers, write_csv, tiny):
    def make(rows=60, *overrides):
        flags = {"data.train": write_csv("train.csv", passengers(rows)), "data.target": "Survived"}
        job = prepare_job(resolve_config("quick", flags=flags, overrides=[*tiny, *overrides]))
        return job, Experiment.prepare(job.config, job.competition, job.table, seed=3)

    return make


def test_a_network_that_says_nothing_leaves_the_linear_model(prepare):
    job, experiment = prepare()
    member = experiment.member
    output = member.model.head.output
    output.weight, output.bias = mx.zeros_like(output.weight), mx.zeros_like(output.bias)
    prediction = predict_member(member, job.competition, job.table, job.config, tta=2)
    logits = member.linear.outputs(job.table)
    np.testing.assert_allclose(prediction[:, 1], 1 / (1 + np.exp(-logits)), atol=1e-6)
    batch = next(experiment.batches(0))[0]
    assert set(batch["linear"]) <= set(experiment.linear)  # trained beside the held-out outputs
    assert not np.allclose(experiment.linear, member.linear.outputs(experiment.train))


@pytest.mark.parametrize(("optimizer", "rate"), [("adamw", "3e-3"), ("muon", "1e-2")])
def test_training_lowers_the_loss_and_beats_the_majority(optimizer, rate, prepare, tmp_path):
    overrides = ["training.epochs=12", f"training.learning_rate={rate}", "training.batch_size=16"]
    overrides.append(f"training.optimizer={optimizer}")
    plain = ["text.drop_token=0", "text.drop_column=0", "text.shuffle_columns=0"]
    plain += ["head.numeric_features=false", "head.words=false", "encoder.dropout=0"]
    job, experiment = prepare(200, *overrides, *plain)
    result = experiment.train_model(job.table, tmp_path, lambda event: None, resume=False)
    losses = [entry["train_loss"] for entry in result.history]
    assert losses[-1] < 0.7 * losses[0]
    majority = max(job.encoded.mean(), 1 - job.encoded.mean())
    assert result.history[-1]["accuracy"] > majority + 0.1


def test_a_diverged_training_names_model_epoch_and_remedy(prepare, tmp_path):
    _, experiment = prepare(60, "training.learning_rate=1e30", "training.warmup=0")
    folder = tmp_path / "fold-0-seed-0" / "checkpoints"
    with pytest.raises(RunError) as caught:
        experiment.train_model(None, folder, lambda event: None, resume=False)
    assert str(caught.value) == (
        "fold-0-seed-0, epoch 1, update 2: loss nan, gradient norm nan: the training diverged; "
        "train again with a lower rate: --overwrite --set training.learning_rate=1e+29 (it was "
        "1e+30)"
    )


def test_a_saved_member_predicts_the_same(prepare, tmp_path):
    job, experiment = prepare()
    member = experiment.member
    member.save(tmp_path / "member")
    again = Member.load(tmp_path / "member")
    ours, theirs = (
        predict_member(each, job.competition, job.table, job.config, tta=2)
        for each in (member, again)
    )
    np.testing.assert_array_equal(ours, theirs)


def test_prediction_does_not_depend_on_the_rows_beside(prepare):
    job, experiment = prepare()
    few = {name: cells[10:13] for name, cells in job.table.items()}
    whole, part = (
        predict_member(experiment.member, job.competition, table, job.config, tta=1)
        for table in (job.table, few)
    )
    np.testing.assert_allclose(whole[10:13], part, atol=1e-5)  # other padding, other sums


def test_dropped_tokens_are_seeded_and_spare_the_special_ones(prepare):
    _, experiment = prepare()
    tokenizer = experiment.member.tokenizer
    ids = tokenizer.encode(experiment.member.text.transform(experiment.train), max_length=64)
    once, twice = (drop_tokens(ids, tokenizer, 0.5, seed=1) for _ in range(2))
    assert once == twice != drop_tokens(ids, tokenizer, 0.5, seed=2)
    assert all(a[0] == b[0] and a[-1] == b[-1] for a, b in zip(ids, once, strict=True))
    unknown = tokenizer.backend.token_to_id("[UNK]")
    share = np.mean([new == unknown for row in once for new in row])
    assert 0.4 < share < 0.55


@pytest.mark.parametrize(("part", "trained"), [("none", {0, 1}), ("half", {1}), ("all", set())])
def test_freezing_leaves_the_layers_it_says(part, trained, tiny_modernbert):
    from mlx.utils import tree_flatten

    from mlx_encoders import load_model

    encoder, _ = load_model(tiny_modernbert)
    freeze(encoder, part)
    paths = [path for path, _ in tree_flatten(encoder.trainable_parameters())]
    assert {int(path.split(".")[1]) for path in paths if path.startswith("layers.")} == trained
    assert any(path.startswith("embeddings.") for path in paths) == (part == "none")
