"""Adapters in a run: what is trained, saved, loaded again, and refused."""

import shutil
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_encoders import load_model, save
from mlx_kaggle import RunError
from mlx_kaggle.members.model import REQUIRED, Member
from mlx_kaggle.members.optimizer import make_optimizer, parameter_groups
from mlx_kaggle.members.text import Experiment, predict_member
from mlx_kaggle.settings.config import resolve_config
from mlx_kaggle.tables.files import take
from mlx_kaggle.training.job import prepare_job
from mlx_lora import AdaptedLayer, read_config
from mlx_trainer import ChangedFileError, ConfigError, write_manifest

FLAGS = {"data.train": "train.csv", "data.target": "Survived"}


@pytest.fixture
def experiment(passengers, write_csv, tiny, tiny_modernbert):
    """Prepare an experiment of 60 rows with an adapted encoder and these settings."""

    def make(*overrides: str) -> Experiment:
        flags = FLAGS | {"data.train": write_csv("train.csv", passengers(60))}
        settings = [*tiny, f"encoder.path={tiny_modernbert}", "lora.preset=balanced", *overrides]
        config = resolve_config("quick", flags=flags, overrides=settings)
        job = prepare_job(config)
        return Experiment.prepare(
            config, job.competition, take(job.table, job.splits[0][0]), seed=3
        )

    return make


def trained(experiment: Experiment) -> dict[str, mx.array]:
    return dict(tree_flatten(experiment.member.model.trainable_parameters()))


@pytest.mark.parametrize("settings", [[], ["lora.preset=qlora_quality"]], ids=["float", "4 bits"])
def test_a_run_saves_the_adapter_alone_and_predicts_with_it(
    settings, run_cli, passengers, write_csv, tiny_flags, tiny_modernbert, tmp_path
):
    train = write_csv("train.csv", passengers(60))
    test = passengers(20, seed=1, first_id=100)
    del test["Survived"]
    options = [part for each in settings for part in ("--set", each)]
    done = run_cli(
        *("train", "--train", train, "--target", "Survived", "--output", "run", *tiny_flags),
        *("--encoder", tiny_modernbert, "--lora", "balanced", "--set", "training.epochs=2"),
        *options,
    )
    assert "adapter LoRA r" in done.stdout
    assert "trained: " in done.stdout
    member = tmp_path / "run/members/fold-0-seed-0"
    assert (member / "adapter/adapter_model.safetensors").stat().st_size < 120_000
    assert not (member / "encoder/model.safetensors").exists()
    assert "Wqkv 96x32" in (member / "adapter.txt").read_text()
    assert read_config(member / "adapter").base_model_name_or_path == tiny_modernbert
    # What was predicted when it was trained is predicted again.
    loaded = Member.load(member)
    config = resolve_config(file=tmp_path / "run/config.yaml")
    job = prepare_job(config)
    validation = take(job.table, job.splits[0][1])
    again = predict_member(loaded, job.competition, validation, config, config.text.tta)
    assert np.array_equal(again, np.load(member / "validation.npy"))
    predict = ("predict", "--run", "run", "--test", write_csv("test.csv", test))
    run_cli(*predict, "--output", "submission.csv")
    assert len((tmp_path / "submission.csv").read_text().splitlines()) == 21


def test_the_encoder_itself_is_not_trained(experiment, tiny_modernbert):
    made = experiment()
    base = dict(tree_flatten(load_model(tiny_modernbert)[0].parameters()))
    step = made.step()
    for update in made.batches(0):
        step(update, 1e-2)
    step.close()
    after = {
        path.removeprefix("encoder.").replace(".base_layer", ""): array
        for path, array in tree_flatten(made.member.model.parameters())
    }
    assert all(mx.array_equal(after[path], array) for path, array in base.items())
    moved = [path for path in trained(made) if "lora_B" in path]
    assert len(moved) == 8
    assert all(mx.abs(trained(made)[path]).max() > 0 for path in moved)


def test_presets_and_settings_shape_the_adapter(experiment):
    made = experiment("lora.r=3", "lora.alpha=12", "lora.dora=true", "lora.targets=[Wo]")
    adapters = {path: array.shape for path, array in trained(made).items() if "encoder" in path}
    assert {path.partition(".adapters.")[0].rpartition(".")[2] for path in adapters} == {"Wo"}
    assert {shape for path, shape in adapters.items() if "lora_A" in path} == {(3, 32)}
    assert sum("magnitude" in path for path in adapters) == 4
    layers = [m for m in made.member.model.modules() if isinstance(m, AdaptedLayer)]
    assert {float(each.adapters["default"]._scale) for each in layers} == {4.0}


def test_the_frozen_half_gets_no_adapter(experiment):
    layers = {path.split(".")[2] for path in trained(experiment("encoder.freeze=half"))
              if ".adapters." in path}  # fmt: skip
    assert layers == {"1"}


def test_quantization_leaves_embeddings_and_head(experiment):
    made = experiment("encoder.quantize=8", "lora.preset=qlora_quality")
    encoder = made.member.model.encoder
    layers = [m.base_layer for m in encoder.modules() if isinstance(m, AdaptedLayer)]
    assert {each.bits for each in layers} == {8}
    assert isinstance(encoder.get_input_embeddings(), nn.Embedding)
    quantized = (nn.QuantizedLinear, nn.QuantizedEmbedding)
    assert not any(isinstance(each, quantized) for each in made.member.model.head.modules())


def test_layers_are_computed_again_for_the_preset_that_says_so(experiment):
    presets = ["lora.preset=qlora_memory", "encoder.quantize=8"]
    with pytest.raises(ValueError, match="no layer was quantized"):  # of 32 columns, in 64s
        experiment(*presets)
    assert not experiment().member.model.encoder.gradient_checkpointing


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_rates_of_adapters(experiment, optimizer):
    made = experiment(
        *("lora.rate=8", "lora.plus_ratio=4", "training.head_rate=3"),
        f"training.optimizer={optimizer}",
    )
    group = parameter_groups(made.config, made.member.model.encoder)
    rates = {path: group(path, array).rate for path, array in trained(made).items()}
    assert {rate for path, rate in rates.items() if "lora_A" in path} == {8.0}
    assert {rate for path, rate in rates.items() if "lora_B" in path} == {32.0}
    assert {rate for path, rate in rates.items() if path.startswith("head.")} == {3.0}
    make_optimizer(made.config, made.member.model).init(made.member.model.trainable_parameters())


def test_two_threads_compute_the_update_of_one(experiment):
    found = []
    for threads in (1, 2):
        made = experiment("encoder.dropout=0", "head.dropout=0", f"training.threads={threads}",
                          "training.optimizer=adamw")  # fmt: skip
        step = made.step()
        for update in list(made.batches(0))[:2]:
            step(update, 1e-3)
        step.close()
        found.append(trained(made))
    for path, array in found[0].items():
        np.testing.assert_allclose(found[1][path], array, atol=2e-5, err_msg=path)


def test_the_folder_of_an_encoder_has_no_place_for_adapters(experiment, tmp_path):
    encoder = experiment().member.model.encoder
    with pytest.raises(
        ValueError, match=r"layers\.0\..* has an adapter, which the folder of a model"
    ):
        save(tmp_path / "encoder", encoder)
    assert not (tmp_path / "encoder").exists()


def test_a_member_without_its_adapter_is_damaged(experiment, tmp_path):
    made, folder = experiment(), tmp_path / "member"
    made.member.save(folder)
    write_manifest(folder, REQUIRED)
    with pytest.raises(ChangedFileError, match=r"does not list adapter/adapter_config\.json"):
        Member.load(folder)


def test_an_encoder_that_changed_or_is_gone_is_named(experiment, tiny_modernbert, tmp_path):
    made, folder = experiment(), tmp_path / "member"
    made.member.save(folder)
    weights = Path(tiny_modernbert) / "model.safetensors"
    tensors = mx.load(str(weights))
    mx.save_safetensors(str(weights), {key: 2 * array for key, array in tensors.items()})
    with pytest.raises(RunError, match="whose weights have changed since the training"):
        Member.load(folder)
    shutil.rmtree(tiny_modernbert)
    with pytest.raises(RunError, match=r"has an adapter of the encoder .*modernbert, which cannot"):
        Member.load(folder)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["lora.preset=balanced"],
         "lora: preset is balanced, which adapts a pretrained encoder, and this one is made from "
         "scratch; name a folder or hub id with --encoder"),
        (["lora.r=4"], "lora: r is given without adapters; add --lora balanced"),
        (["encoder.quantize=4"],
         "encoder: quantize is given without adapters, and quantized weights are not trained; add "
         "--lora balanced"),
        (["encoder.quantize=7"], "must be 2, 3, 4, 5, 6 or 8 bits, got 7"),
        (["lora.preset=balanced", "encoder.path=x", "encoder.freeze=all"],
         "encoder: freeze=all leaves no layer for adapters; use half (upper layers) or none"),
        (["lora.preset=balanced", "encoder.path=x", "training.adversarial=awp"],
         "training: adversarial=awp perturbs the encoder's matrices, which are frozen with --lora"),
        (["lora.preset=balance"], "did you mean 'balanced'?"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_are_refused(overrides, message):
    with pytest.raises(ConfigError) as caught:
        resolve_config("quick", flags=FLAGS, overrides=overrides)
    assert message in str(caught.value)
