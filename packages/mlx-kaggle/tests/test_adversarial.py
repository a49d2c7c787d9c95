"""Adversarial training and R-Drop in a run, and NeoBERT as its encoder."""

import re
from contextlib import closing

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_encoders import (
    NeoBertConfig,
    NeoBertModel,
    build_model,
    load_model,
    save,
    train_tokenizer,
)
from mlx_encoders.adversarial import fgm_perturbation
from mlx_kaggle.cli import main
from mlx_kaggle.members.adversarial import adversarial_loss
from mlx_kaggle.members.model import freeze
from mlx_kaggle.members.objective import loss_function
from mlx_kaggle.members.optimizer import muon_groups, parameter_groups
from mlx_kaggle.members.text import Experiment
from mlx_kaggle.settings.config import resolve_config
from mlx_kaggle.tables.files import take
from mlx_kaggle.training.job import prepare_job
from mlx_muon import MuonRule
from mlx_trainer import ConfigError
from mlx_trainer.gradients import gradient_function

NO_DROPOUT = ["encoder.dropout=0", "head.dropout=0"]


@pytest.fixture
def experiment(passengers, write_csv, tiny):
    """Prepare an experiment of 60 rows with these settings."""

    def make(*overrides: str, target: str = "Survived", rows: int = 60) -> Experiment:
        table = write_csv("train.csv", passengers(rows))
        flags = {"data.train": table, "data.target": target}
        config = resolve_config("quick", flags=flags, overrides=[*tiny, *overrides])
        job = prepare_job(config)
        return Experiment.prepare(
            config, job.competition, take(job.table, job.splits[0][0]), seed=3
        )

    return make


def gradients_of(experiment: Experiment, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    model = experiment.member.model
    loss = loss_function(experiment.config, experiment.objective, model.head, experiment.targets)
    arrays = {name: mx.array(array) for name, array in batch.items()}
    loss = adversarial_loss(experiment.config, loss)
    _, gradients = gradient_function(model, loss, compile=False)(arrays)
    return {path: np.array(array) for path, array in tree_flatten(gradients)}


@pytest.mark.parametrize("encoder", [[], ["head.layer_mix=true"]])
def test_fgm_adds_the_gradient_at_perturbed_embeddings(encoder, experiment):
    fgm = ["training.adversarial=fgm", "training.adversarial_epsilon=2"]
    made = experiment(*NO_DROPOUT, *fgm, *encoder)
    model = made.member.model
    ordinary, marked = next(made.batches(0))[0], next(made.batches(1))[0]
    assert "adversarial" not in ordinary
    assert marked["adversarial"].all()
    plain = {name: array for name, array in marked.items() if name != "adversarial"}
    loss = loss_function(made.config, made.objective, model.head, made.targets)
    arrays = {name: mx.array(array) for name, array in plain.items()}

    def at(embeddings):
        return loss(model, arrays | {"input_ids": None, "inputs_embeds": embeddings})[0]

    words = model.encoder.get_input_embeddings()
    noise = fgm_perturbation(mx.grad(at)(words(arrays["input_ids"])), 2, arrays["attention_mask"])

    def shifted(model, batch):
        embeddings = words(batch["input_ids"]) + noise
        return loss(model, batch | {"input_ids": None, "inputs_embeds": embeddings})

    _, at_noise = gradient_function(model, shifted, compile=False)(arrays)
    clean = gradients_of(made, plain)
    for path, found in gradients_of(made, marked).items():
        expected = (clean[path] + np.array(dict(tree_flatten(at_noise))[path])) / 2
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
        assert path.startswith("encoder.embed") or (found != clean[path]).any()


def test_awp_perturbs_the_matrices_of_the_encoder_alone(experiment):
    made = experiment(*NO_DROPOUT, "training.adversarial=awp", "training.adversarial_epsilon=0.1")
    model, batch = made.member.model, next(made.batches(1))[0]
    before = {path: np.array(array) for path, array in tree_flatten(model.parameters())}
    plain = {name: array for name, array in batch.items() if name != "adversarial"}
    clean, found = gradients_of(made, plain), gradients_of(made, batch)
    assert all((found[path] != clean[path]).any() for path in clean if clean[path].any())
    after = {path: np.array(array) for path, array in tree_flatten(model.parameters())}
    assert all((after[path] == array).all() for path, array in before.items())
    for layer in model.encoder.encoder.layer:
        layer.freeze()
    with pytest.raises(ValueError, match="select chose no trainable parameter"):
        gradients_of(made, batch)


@pytest.mark.parametrize("setting", ["fgm", "awp"])
def test_a_stopped_run_resumes_with_the_same_weights(setting, experiment, tmp_path):
    settings = [
        *(f"training.adversarial={setting}", "training.epochs=2", "training.batch_size=16"),
        *("loss.r_drop=0.5", "training.checkpoint_seconds=0.001"),
    ]

    def stop(event):
        if event["event"] == "update" and event["updates"] == 5:  # the second adversarial update
            raise KeyboardInterrupt

    weights = []
    for folder, resumed in (("whole", False), ("stopped", True)):
        made = experiment(*settings)
        if resumed:
            with pytest.raises(KeyboardInterrupt):
                made.train_model(None, tmp_path / folder / "checkpoints", stop, False)
            made = experiment(*settings)
        made.train_model(None, tmp_path / folder / "checkpoints", lambda event: None, resumed)
        weights.append(dict(tree_flatten(made.member.model.parameters())))
    for path, array in weights[0].items():
        np.testing.assert_array_equal(np.array(array), np.array(weights[1][path]), path)


def test_threads_compute_the_same_fgm_update(experiment):
    found = []
    for threads in (1, 2):
        made = experiment(*NO_DROPOUT, "training.adversarial=fgm", f"training.threads={threads}")
        step = made.step()
        with closing(step):
            found.append([float(each) for each in step(next(made.batches(1)), 0.0)])
    assert found[0] == pytest.approx(found[1], rel=1e-4)


@pytest.mark.parametrize(
    ("target", "loss"), [("Survived", None), ("Pclass", None), ("Fare", "mse"), ("Fare", "huber")]
)
def test_r_drop_is_zero_without_dropout_and_not_with_it(target, loss, experiment):
    name = [f"loss.name={loss}"] if loss else []
    losses = []
    for dropout, weight in ((0, 0), (0, 9), (0.5, 0), (0.5, 9)):
        made = experiment(
            *(f"encoder.dropout={dropout}", f"head.dropout={dropout}", *name),
            f"loss.r_drop={weight}",
            target=target,
        )
        made.member.model.train()
        for layer in made.member.model.head.leaf_modules().values():
            if not isinstance(layer, dict | list) and "weight" in layer:
                layer["weight"] = mx.random.normal(layer["weight"].shape, key=mx.random.key(1))
        mx.random.seed(5)
        loss = loss_function(made.config, made.objective, made.member.model.head, made.targets)
        batch = {name: mx.array(array) for name, array in next(made.batches(0))[0].items()}
        losses.append(loss(made.member.model, batch)[0].item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[3] > losses[2] + 0.001


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["training.adversarial_epsilon=1"],
         "override 'training.adversarial_epsilon=1': training: adversarial_epsilon is given, but "
         "adversarial is none; choose fgm or awp"),
        (["training.adversarial=fgm", "training.adversarial_start=6"],
         "override 'training.adversarial_start=6': training: adversarial_start must be below "
         "epochs (6), or fgm never starts, got 6"),
        (["encoder.freeze=all", "training.adversarial=awp"],
         "override 'training.adversarial=awp': training: adversarial=awp perturbs the trained "
         "matrices of the encoder, and encoder.freeze=all trains none; use fgm, or freeze less"),
        (["training.adversarial=fgm", "training.adversarial_epsilon=0"],
         "override 'training.adversarial_epsilon=0': training.adversarial_epsilon: must be above "
         "0, got 0.0"),
    ],
)  # fmt: skip
def test_settings_that_cannot_apply_are_refused(overrides, message):
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        resolve_config("quick", overrides=overrides)


@pytest.fixture
def tiny_neobert(tmp_path) -> str:
    """A Hugging Face folder of a NeoBERT of two narrow layers, with a tokenizer."""
    words = ["sex male female", "age 1 2 3 4 5 6 7 8 9 0", "fare high low pclass embarked"] * 4
    tokenizer = train_tokenizer(words, vocab_size=200)
    config = NeoBertConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        pad_token_id=tokenizer.pad_token_id,
    )
    save(tmp_path / "neobert", build_model(config), tokenizer)
    return str(tmp_path / "neobert")


def test_neobert_trains_and_predicts(
    tiny_neobert, passengers, write_csv, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    train = write_csv("train.csv", passengers(60))
    test = passengers(20, seed=1, first_id=100)
    del test["Survived"]
    command = [
        *("train", "--train", train, "--target", "Survived", "--encoder", tiny_neobert),
        *("--set", "training.epochs=2", "--set", "encoder.freeze=half", "--output", "run"),
        *("--set", "training.layer_decay=0.9", "--set", "training.adversarial=fgm"),
        *("--set", "text.tta=1", "--set", "text.max_tokens=64", "--set", "head.feature_size=8"),
        *("--members", "text", "--folds", "0"),
    ]
    for arguments in (
        command,
        [*("predict", "--run", "run", "--output", "out.csv"),
         *("--test", write_csv("test.csv", test))],
    ):  # fmt: skip
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert not ended.value.code
    shown = " ".join("".join(capsys.readouterr()).split())
    assert "; fgm makes all updates" in shown
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 21
    before, _ = load_model(tiny_neobert)
    after, _ = load_model(tmp_path / "run" / "members" / "fold-0-seed-0" / "encoder")
    assert isinstance(after, NeoBertModel)
    start = {path: np.array(array) for path, array in tree_flatten(before.parameters())}
    trained = {path: np.array(array) for path, array in tree_flatten(after.parameters())}
    changed = {path for path, array in start.items() if (trained[path] != array).any()}
    assert changed == {
        path for path in trained if not path.startswith(("encoder.", "transformer_encoder.0."))
    }


def test_neobert_has_frozen_parts_layer_wise_rates_and_fused_matrices(experiment, tiny_neobert):
    settings = ["training.layer_decay=0.5", "training.optimizer=muon"]
    made = experiment(f"encoder.path={tiny_neobert}", *settings)
    encoder = made.member.model.encoder
    group = parameter_groups(made.config, encoder)
    parameters: dict[str, mx.array] = dict(tree_flatten(encoder.parameters()))
    rates = {path: group(f"encoder.{path}", array).rate for path, array in parameters.items()}
    assert rates["encoder.weight"] == 0.125
    assert rates["transformer_encoder.0.qkv.weight"] == 0.25
    assert rates["transformer_encoder.1.ffn.w3.weight"] == 0.5
    assert rates["layer_norm.weight"] == 1
    rules = [each.rule for each in muon_groups(made.config, made.member.model)]
    splits = {rule.split for rule in rules if isinstance(rule, MuonRule)}
    assert splits == {None, (32, 32)}  # the gated network has two matrices of 32 rows in one
    for part, frozen in (
        ("none", ()),
        ("embeddings", ("encoder.",)),
        ("half", ("encoder.", "transformer_encoder.0.")),
        ("all", ("",)),
    ):
        encoder.unfreeze()
        freeze(encoder, part)
        trained = {path for path, _ in tree_flatten(encoder.trainable_parameters())}
        assert trained == {path for path in rates if not path.startswith(frozen)}
