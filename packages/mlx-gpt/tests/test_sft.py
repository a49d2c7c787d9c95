"""Supervised fine-tuning: it learns answers only, never divides by 0, and resumes bit for bit."""

import json
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_map

from mlx_gpt.data.conversation import render_conversation
from mlx_gpt.evaluate.metrics import bits_per_byte
from mlx_gpt.models.files import load_model, save_model
from mlx_gpt.models.nanochat import Nanochat, NanochatConfig
from mlx_gpt.tokenizer import Tokenizer
from mlx_gpt.training import sft
from mlx_gpt.training.base_model import finetuning_optimizer
from mlx_gpt.training.losses import IGNORE, batch_loss
from mlx_gpt.training.settings import SftConfig, SftData, SftReport, SftTraining
from mlx_gpt.training.sft import build, finetune
from mlx_muon import nanochat
from mlx_trainer import Checkpoints, RunFolder, TrainStep

COLOURS = ["red", "green", "blue", "brown", "black"]


def exchange(*texts):
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]
    return {"messages": messages}


def write(path: Path, rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def base(tmp_path_factory, tokenizer) -> str:
    """A folder of a model of two layers of 64 dimensions, none of whose weights is zero."""
    config = NanochatConfig(
        sequence_len=64, vocab_size=tokenizer.vocab_size, n_layer=2, n_head=4, n_kv_head=2,
        n_embd=64, window_pattern="SL",
    )  # fmt: skip
    model = Nanochat(config).initialize(mx.random.key(0))
    random = np.random.default_rng(0)
    noise = tree_map(
        lambda p: mx.array(random.normal(scale=0.1, size=p.shape).astype(np.float32)),
        model.parameters(),
    )
    model.update(tree_map(mx.add, model.parameters(), noise))
    folder = tmp_path_factory.mktemp("base")
    save_model(model, folder)
    tokenizer.save(folder)
    return str(folder)


@pytest.fixture
def model(base) -> Nanochat:
    return load_model(base, training=True)


@pytest.fixture(scope="module")
def config(tmp_path_factory, base) -> SftConfig:
    """Ten updates of two micro-batches on easy questions."""
    folder = tmp_path_factory.mktemp("data")
    rows = [exchange(f"The {each} dog?", f"{each} {each}") for each in COLOURS] * 12
    train = write(folder / "train.jsonl", rows)
    valid = write(folder / "valid.jsonl", rows[:5])
    return SftConfig(
        base,
        SftData([train], [valid]),
        SftTraining(2, batch_tokens=256, device_batch_size=2, learning_rate=0.1, threads=1),
        SftReport(4, sample_every=0, prompts=["The red dog?"], checkpoint_every=5),
    )


def run(config, folder, resume=False, stop_after=None):
    """Train; return the job and the events. Killed right after `stop_after` updates."""
    job = build(config)
    events = []

    def report(event):
        events.append(event)
        if event["event"] == "update" and event["updates"] == stop_after:
            raise SystemExit  # nothing is saved any more, as after a kill

    try:
        finetune(job, folder, report, resume)
    except SystemExit:
        assert stop_after
    return job, events


@pytest.fixture(scope="module")
def done(config, tmp_path_factory):
    """The folder, the job and the events of a run."""
    folder = tmp_path_factory.mktemp("runs") / "done"
    RunFolder.create(folder, build(config).config)
    return folder, *run(config, folder)


def of(kind, events, name):
    return [event[name] for event in events if event["event"] == kind]


def arrays(tree):
    return dict(tree_flatten(tree))


def test_it_learns_the_answers_and_leaves_a_model(config, compiled, tmp_path):
    training = replace(config.training, epochs=6, rate_scale=40.0)
    job, events = run(replace(config, training=training), tmp_path / "run")
    losses = of("evaluate", events, "loss")
    assert losses[-1] < 0.5 * losses[0]
    assert of("evaluate", events, "updates")[-1] == of("update", events, "updates")[-1]
    assert of("update", events, "progress")[-1] == 1.0
    assert [event["event"] for event in events][-2:] == ["sample", "end"]
    saved = arrays(load_model(tmp_path / "run" / "model").parameters())
    assert all(mx.array_equal(each, saved[name]) for name, each in arrays(job.model).items())
    assert Tokenizer.load(tmp_path / "run" / "model").vocab_size == job.tokenizer.vocab_size


def test_twenty_updates_equal_ten_and_ten_resumed(config, tmp_path):
    config = replace(config, training=replace(config.training, epochs=4))
    config = replace(config, report=replace(config.report, checkpoint_every=10))
    whole, events = run(config, tmp_path / "whole")
    assert of("update", events, "updates") == list(range(1, 21))
    run(config, tmp_path / "cut", stop_after=13)
    resumed, later = run(config, tmp_path / "cut", resume=True)
    assert of("update", later, "updates") == list(range(11, 21))
    for name in ("loss", "progress", "rate_scale", "used"):
        assert of("update", later, name) == of("update", events, name)[10:]
    for tree in (lambda job: job.model, lambda job: job.step.optimizer.state):
        ours, theirs = (arrays(tree(job)) for job in (whole, resumed))
        assert ours.keys() == theirs.keys()
        assert all(mx.array_equal(each, theirs[name]) for name, each in ours.items())
    assert resumed.train.counts == whole.train.counts


def test_an_interrupt_finishes_the_update_and_leaves_a_checkpoint(config, done, tmp_path):
    job = build(config)
    seen = []

    def interrupt(event):
        seen.append(event)
        if event["event"] == "update" and event["updates"] == 3:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        finetune(job, tmp_path / "cut", interrupt)
    assert Checkpoints(tmp_path / "cut" / "checkpoints").latest().name == "step-00000003"
    assert load_model(tmp_path / "cut" / "model")
    _, later = run(config, tmp_path / "cut", resume=True)
    assert of("update", seen + later, "loss") == of("update", done[2], "loss")


def test_a_run_that_is_done_is_not_trained_again(config, done):
    _, events = run(config, done[0], resume=True)
    assert [event["event"] for event in events] == ["start", "end"]


def test_the_loss_is_the_mean_over_all_targets_of_an_update(config, tmp_path, model):
    """Not the mean of the means of micro-batches, whose numbers of targets differ."""
    texts = ["Yes", "The dog jumps over it.", "Three of them.", "It is late, and she said so."]
    rows = [exchange("The lazy dog jumps?", each) for each in texts] * 3
    config = replace(config, data=SftData([write(tmp_path / "rows.jsonl", rows)]))
    _, events = run(config, tmp_path / "run", stop_after=1)
    batch = build(config).train.next_batch()
    logits = model(mx.array(batch.inputs))
    chances = np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))
    rows, columns = np.nonzero(batch.targets != IGNORE)
    losses = -chances[rows, columns, batch.targets[rows, columns]]
    assert of("update", events, "loss")[0] == pytest.approx(losses.mean(), rel=1e-5)
    assert of("update", events, "targets")[0] == len(losses)
    assert (rows < 2).sum() != (rows >= 2).sum()


def test_micro_batches_and_threads_change_nothing_but_rounding(config, done, tmp_path):
    for name, changed in (("one", {"device_batch_size": 1}), ("threads", {"threads": 2})):
        training = replace(config.training, **changed)
        _, events = run(replace(config, training=training), tmp_path / name)
        losses = of("update", events, "loss")
        np.testing.assert_allclose(losses, of("update", done[2], "loss"), rtol=1e-5)


def test_all_turns_of_the_assistant_are_learned_and_nothing_else(config, tmp_path, tokenizer):
    rows = [exchange("The dog?", "over there", "How many?", "three of them")]
    config = replace(config, data=SftData([write(tmp_path / "rows.jsonl", rows)]))
    targets = build(config).train.next_batch().targets
    end = tokenizer.special("<|assistant_end|>")
    learned = [*tokenizer.encode("over there"), end, *tokenizer.encode("three of them"), end]
    assert targets[targets != IGNORE].tolist() == learned


def test_questions_longer_than_a_row_are_left_out_and_counted(config, tmp_path):
    long = [exchange("The lazy dog jumps. " * 40, "Yes")]
    some = write(tmp_path / "some.jsonl", [exchange("The dog?", "Yes"), *long * 3])
    _, events = run(replace(config, data=SftData([some])), tmp_path / "run")
    assert np.isfinite(of("update", events, "loss")).all()
    assert events[-1]["without_target"] == 2 * 3
    assert of("update", events, "progress")[-1] == 1.0
    none = write(tmp_path / "none.jsonl", long)
    with pytest.raises(ValueError, match="can be learned from") as error:
        build(replace(config, data=SftData([none])))
    assert str(error.value) == (
        f"{none}: none of the 1 conversations can be learned from: 1 have no answer within the "
        "first 65 tokens, 0 are longer than a row and dropped; use a larger sequence_len"
    )


def test_conversations_longer_than_a_row_neither_clog_nor_spoil(config, tmp_path, tokenizer):
    """T = 64 and 40 % too long: nanochat's loss becomes NaN, and its epoch does not end."""
    random = np.random.default_rng(0)
    rows = [
        exchange("The dog?", "The quick brown fox jumps. " * (20 if each < 0.4 else 1))
        for each in random.random(60)
    ]
    lengths = [len(render_conversation(tokenizer, row)[0]) for row in rows]
    long = sum(length > 65 for length in lengths)
    assert long > 20
    config = replace(config, data=SftData([write(tmp_path / "rows.jsonl", rows)]))
    _, events = run(replace(config, training=replace(config.training, epochs=1)), tmp_path / "run")
    assert np.isfinite(of("update", events, "loss")).all()
    assert np.isfinite(of("update", events, "gradient_norm")).all()
    assert of("update", events, "progress")[-1] == 1.0
    assert events[-1] | {"truncated": long, "dropped": 0, "without_target": 0} == events[-1]


def test_micro_batches_without_a_target_are_left_out_but_for_one(config, tmp_path):
    rows = [exchange("The dog?", "Yes")]
    config = replace(config, data=SftData([write(tmp_path / "rows.jsonl", rows)]))
    batch = build(config).train.next_batch()
    assert batch.inputs.shape == (4, 64)
    [kept] = sft.shard_batch(batch, 2)
    assert (kept["targets"] != IGNORE).any()
    nothing = batch._replace(targets=np.full((4, 64), IGNORE))
    assert len(sft.shard_batch(nothing, 2)) == 1


def test_rates_stay_and_fall_to_zero_over_the_second_half(done):
    events = done[2]
    before = [0.0, *of("update", events, "progress")[:-1]]
    expected = [0.8 * min(1.0, (1 - progress) / 0.5) for progress in before]
    np.testing.assert_allclose(of("update", events, "rate_scale"), expected)


def test_the_first_update_is_that_of_nanochats_recipe(config, tmp_path, model):
    """At 0.8 of all rates, with a momentum of 0.85, without decay of the matrices."""
    job, _ = run(config, tmp_path / "run", stop_after=1)
    recipe = nanochat(
        64, 1000, batch_tokens=256, learning_rate=0.1, weight_decay=0.0,
        schedule=lambda step: mx.array(0.8),
    )  # fmt: skip
    step = TrainStep(model, recipe, batch_loss, max_grad_norm=None)
    step(sft.shard_batch(build(config).train.next_batch(), 2), recipe.base_rate)
    ours, theirs = arrays(job.model), arrays(model)
    for name, each in theirs.items():
        np.testing.assert_allclose(ours[name], each, rtol=1e-6, atol=1e-7, err_msg=name)


def test_the_momentum_rises_in_300_updates_and_matrices_do_not_decay(model):
    optimizer = finetuning_optimizer(model, 2**19, 0.02, sft.muon_momentum)
    found = [float(optimizer.muon.momentum(mx.array(step))) for step in (0, 150, 300, 900)]
    np.testing.assert_allclose(found, [0.85, 0.9, 0.95, 0.95], rtol=1e-6)
    assert optimizer.muon.weight_decay == 0


def test_the_momentum_of_the_base_run_is_taken_over(config, done):
    folder, first, _ = done
    second = build(replace(config, model=str(folder)))
    assert second.kept_momentum
    assert int(second.step.optimizer.state["step"]) == 0
    ours, theirs = (arrays(job.step.optimizer.state["parameters"]) for job in (second, first))
    assert ours.keys() == theirs.keys()
    assert all(mx.array_equal(each, theirs[name]) for name, each in ours.items())
    training = replace(config.training, keep_optimizer_state=False)
    third = build(replace(config, model=str(folder), training=training))
    assert not third.kept_momentum
    assert not build(config).kept_momentum  # a model folder has none


def test_momentum_that_does_not_fit_is_refused(config, done, tmp_path):
    shutil.copytree(done[0], tmp_path / "run")
    file = Checkpoints(tmp_path / "run" / "checkpoints").latest() / "optimizer.safetensors"
    state = dict(mx.load(str(file)))
    name = "parameters.transformer.h.0.attn.c_q.weight.momentum"
    state[name] = mx.zeros((2, 2))
    mx.save_safetensors(str(file), state)
    with pytest.raises(ValueError, match="keep_optimizer_state=false") as error:
        build(replace(config, model=str(tmp_path / "run")))
    assert str(file) in str(error.value)


def test_validation_is_the_mean_loss_and_the_bits_per_byte_of_answers(config, model):
    job = build(config)
    sizes = job.tokenizer.token_bytes()
    sizes[-1] = 5  # padding has the target -1
    found = sft.measure(model, job.valid, sizes)
    job.valid.reset()
    batches = list(iter(job.valid.next_batch, None))
    expected = bits_per_byte(model, batches, sizes)
    assert found["bits_per_byte"] == pytest.approx(expected, rel=1e-6)
    total = sum(float(batch_loss(model, _arrays(each))[0]) for each in batches)
    count = sum(float(batch_loss(model, _arrays(each))[1]) for each in batches)
    assert found["loss"] == pytest.approx(total / count, rel=1e-6)


def _arrays(batch):
    return {name: mx.array(each) for name, each in batch._asdict().items()}


def test_settings_come_from_the_base_run(config, done):
    data = config.data
    second = build(SftConfig(str(done[0]), data)).config.training
    ours = (second.sequence_len, second.batch_tokens, second.device_batch_size)
    assert ours == (64, 256, 2)
    assert (second.learning_rate, second.rate_scale) == (0.1, 1.0)
    plain = build(SftConfig(config.model, data)).config.training
    assert (plain.batch_tokens, plain.device_batch_size, plain.learning_rate) == (2**19, 32, 0.02)


def test_a_row_longer_than_the_model_is_refused(config):
    training = replace(config.training, sequence_len=128)
    with pytest.raises(ValueError, match="sequence_len") as error:
        build(replace(config, training=training))
    assert str(error.value) == (
        "training.sequence_len: got 128, more than the 64 tokens that the model was made for"
    )


def command(*arguments):
    start = "from mlx_gpt.commands.sft import sft; sft()"
    return [sys.executable, "-c", start, *map(str, arguments)]


def test_two_processes_equal_one_on_the_same_global_batches(config, tmp_path, alone_and_in_a_ring):
    shared = ["--model", config.model, "--data", config.data.train[0], "--batch-tokens", 256,
              "--valid", config.data.valid[0], "--threads", 1]  # fmt: skip

    def made(output, processes):
        return command(*shared, "--device-batch-size", 2 // processes, "--output", output)

    outputs = alone_and_in_a_ring(made)
    alone, together = (RunFolder.open(tmp_path / name).metrics() for name in ("one", "two"))
    for kind, name in (("update", "loss"), ("evaluate", "loss"), ("evaluate", "bits_per_byte")):
        ours, theirs = of(kind, together, name), of(kind, alone, name)
        assert ours
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    assert "60 conversations x 1" in outputs[1]
    assert f"next: mlx-gpt chat --model {tmp_path / 'two'}" in outputs[1]
    assert outputs[2] == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "run"], "Missing option '--model'."),
        (["--output", "run", "--model", "base"], "Missing option '--data'."),
        (["--output", "run", "--resume", "--seed", "1"], "--resume takes everything from"),
    ],
)
def test_wrong_usage_is_told_before_anything_is_loaded(arguments, message):
    from click.testing import CliRunner

    from mlx_gpt.commands.sft import sft as sft_command

    result = CliRunner().invoke(sft_command, arguments)
    assert result.exit_code == 2
    assert message in result.stderr
