"""Pretraining: it learns, it is deterministic, it resumes bit for bit, processes share a batch."""

import json
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import yaml
from mlx.utils import tree_flatten

from mlx_gpt.cli import main
from mlx_gpt.models.files import load_model
from mlx_gpt.tokenizer import Tokenizer
from mlx_gpt.tokenizer.training import split_text
from mlx_gpt.training import pretrain as pretraining
from mlx_gpt.training.plan import accumulation_steps, fit_batch
from mlx_gpt.training.pretrain import build, pretrain
from mlx_gpt.training.runs import extend_run
from mlx_gpt.training.settings import (
    PretrainConfig,
    PretrainData,
    PretrainModel,
    PretrainReport,
    PretrainTraining,
)
from mlx_gpt.training.streams import count_tokens, open_streams
from mlx_shards import write_shards
from mlx_trainer import Checkpoints, RunFolder, load_config

SMALL = ["--depth", "2", "--sequence-len", "32", "--device-batch-size", "4",
         "--batch-tokens", "256", "--threads", "1", "--set", "model.width_per_layer=16",
         "--set", "model.head_dim=16", "--set", "training.rate_scale=8"]  # fmt: skip


@pytest.fixture(scope="session")
def data(tmp_path_factory, texts, tokenizer) -> Path:
    """A folder with shards/ and tokenizer/."""
    folder = tmp_path_factory.mktemp("data")
    write_shards(texts, folder / "shards", shard_chars=20_000, group=32)
    tokenizer.save(folder / "tokenizer")
    return folder


@pytest.fixture
def config(data) -> PretrainConfig:
    return PretrainConfig(
        PretrainData(str(data / "shards"), str(data / "tokenizer"), buffer_size=20),
        PretrainModel(2, 32, width_per_layer=16, head_dim=16),
        PretrainTraining(8, batch_tokens=256, device_batch_size=4, threads=1, warmup_steps=2),
        PretrainReport(4, 512, checkpoint_every=3, prompts=["The quick"]),
    )


def run_in_process(config, folder, resume=False, stop_after=None):
    """Train; return the job and the events. Killed right after `stop_after` updates."""
    job = build(config)
    run = RunFolder.open(folder) if resume else RunFolder.create(folder, job.config)
    events = []

    def report(event):
        events.append(event)
        run.log(event)
        if event["event"] == "update" and event["updates"] == stop_after:
            raise SystemExit  # nothing is saved any more, as after a kill

    try:
        pretrain(job, folder, report, resume)
    except SystemExit:
        job.train.close()
    return job, events


def losses(events):
    return [event["loss"] for event in events if event["event"] == "update"]


def bits(events):
    return [event["bits_per_byte"] for event in events if event["event"] == "evaluate"]


def command(data, output, *more):
    paths = ["--data", str(data / "shards"), "--tokenizer", str(data / "tokenizer")]
    resume = ["--output", str(output), *more]
    chosen = resume if "--resume" in more else [*paths, *SMALL, *resume]
    return [sys.executable, "-m", "mlx_gpt.cli", "train", *chosen]


@pytest.fixture
def trained(data, capsys):
    """Return a function that runs the command in this process, and returns what it said."""

    def run(output, *more) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(command(data, output, *more)[3:])
        said = capsys.readouterr().err
        assert not ended.value.code, said
        return said

    return run


@pytest.mark.slow
def test_the_command_lowers_the_loss_and_the_same_seed_gives_the_same_losses(
    data, trained, tmp_path
):
    steps = ["--steps", "60", "--evaluate-every", "20"]
    done = subprocess.run(command(data, tmp_path / "one", *steps), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    trained(tmp_path / "two", *steps)
    seen = []
    for name in ("one", "two"):
        lines = RunFolder.open(tmp_path / name).metrics()
        seen.append(losses(lines))
    assert seen[0] == seen[1]
    assert len(seen[0]) == 60
    assert np.mean(seen[0][-3:]) < 0.8 * seen[0][0]
    assert len(bits(lines)) == 4  # before, at 20 and 40, at the end
    assert bits(lines)[-1] < 0.8 * bits(lines)[0]
    model = load_model(tmp_path / "one" / "model")
    assert model.config.n_layer == 2
    numbers = r"step 60: bits per byte [\d.]+ over ([\d,]+) of \1 held-out tokens \("
    assert re.search(numbers, done.stderr)
    assert "The opposite of hot is |" in done.stderr


def test_resume_goes_on_bit_for_bit(config, compiled, tmp_path):
    whole, events = run_in_process(config, tmp_path / "whole")
    run_in_process(config, tmp_path / "cut", stop_after=5)
    resumed, later = run_in_process(config, tmp_path / "cut", resume=True)
    assert losses(later) == losses(events)[3:]  # the last checkpoint was after 3
    left, right = (dict(tree_flatten(job.model.parameters())) for job in (whole, resumed))
    for name, array in left.items():
        assert mx.array_equal(array, right[name]), name
    left, right = (dict(tree_flatten(job.step.optimizer.state)) for job in (whole, resumed))
    for name, array in left.items():
        assert mx.array_equal(array, right[name]), name
    logged = [RunFolder.open(tmp_path / name).metrics() for name in ("whole", "cut")]
    kept = [[line["updates"] for line in lines if line["event"] == "update"] for lines in logged]
    assert kept == [list(range(1, 9))] * 2


def test_a_run_without_a_checkpoint_begins_again_and_logs_nothing_twice(config, tmp_path):
    run_in_process(config, tmp_path / "run", stop_after=1)
    run_in_process(config, tmp_path / "run", resume=True)
    lines = RunFolder.open(tmp_path / "run").metrics()
    assert [line["updates"] for line in lines if line["event"] == "evaluate"] == [0, 4, 8]


def test_a_killed_run_resumes_from_its_last_checkpoint(data, trained, tmp_path, start):
    made = command(data, tmp_path / "run", "--steps", "400", "--checkpoint-every", "5")
    process = start(made, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints")
    while process.poll() is None and not checkpoints.latest():
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    settings = (tmp_path / "run" / "config.yaml").read_text().replace("steps: 400", "steps: 12")
    RunFolder.open(tmp_path / "run").replace_config(yaml.safe_load(settings))
    latest = int(checkpoints.latest().name.removeprefix("step-"))
    trained(tmp_path / "run", "--resume")
    lines = RunFolder.open(tmp_path / "run").metrics()
    updates = [line["updates"] for line in lines if line["event"] == "update"]
    assert updates == list(range(1, max(latest, 12) + 1))
    assert load_model(tmp_path / "run" / "model").config.n_layer == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_run_saves_between_two_updates(data, tmp_path, start, number):
    made = command(data, tmp_path / "run", "--steps", "4000")
    process = start(made, stderr=subprocess.PIPE)
    metrics = tmp_path / "run" / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and '"update"' in metrics.read_text()):
        time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate()
    assert process.returncode == 128 + number, errors
    done = RunFolder.open(tmp_path / "run").metrics()[-1]["updates"]
    assert errors.splitlines()[-1] == (
        f"Interrupted; --resume continues the run. ({signal.Signals(number).name}; a checkpoint of "
        f"update {done} is in {tmp_path / 'run'})"
    )
    latest = Checkpoints(tmp_path / "run" / "checkpoints").latest()
    assert latest.name == f"step-{done:08d}"
    assert load_model(tmp_path / "run" / "model").config.n_layer == 2


def test_a_training_outlives_its_reader(data, tmp_path, start):
    made = command(data, tmp_path / "run", "--steps", "2")
    process = start(made, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    process.stderr.close()
    assert process.wait() == 0
    assert load_model(tmp_path / "run" / "model").config.n_layer == 2


def test_two_processes_equal_one_on_the_same_global_batches(data, tmp_path, alone_and_in_a_ring):
    def made(output, processes):
        arguments = command(data, output, "--steps", "6", "--evaluate-every", "3")
        arguments[arguments.index("--device-batch-size") + 1] = 8 // processes
        return arguments

    alone_and_in_a_ring(made)
    alone, shared = (RunFolder.open(tmp_path / name).metrics() for name in ("one", "two"))
    np.testing.assert_allclose(losses(shared), losses(alone), rtol=1e-5)
    np.testing.assert_allclose(bits(shared), bits(alone), rtol=1e-5)


def test_core_is_measured_now_and_then_and_at_the_end(config, tmp_path):
    folder = tmp_path / "core"
    folder.mkdir()
    row = {"query": "The quick brown", "choices": ["fox", "home"], "gold": 0}
    (folder / "foxes.jsonl").write_text(f"{json.dumps(row)}\n" * 3)
    chosen = replace(config.report, core=str(folder), core_every=5)
    _, events = run_in_process(replace(config, report=chosen), tmp_path / "run")
    found = [event for event in events if event["event"] == "core"]
    assert [event["updates"] for event in found] == [5, 8]
    for event in found:
        assert event["core"] == 2 * event["tasks"]["foxes"] - 1


def test_accumulated_micro_batches_equal_one_large_batch(config, tmp_path):
    large = replace(config.training, device_batch_size=8)
    _, one = run_in_process(replace(config, training=large), tmp_path / "one")
    _, several = run_in_process(config, tmp_path / "several")
    np.testing.assert_allclose(losses(several), losses(one), rtol=1e-5)


def test_threads_and_recomputed_blocks_change_nothing_but_rounding(config, tmp_path):
    _, plain = run_in_process(config, tmp_path / "plain")
    changed = replace(
        config,
        model=replace(config.model, checkpoint_blocks=True),
        training=replace(config.training, threads=2),
    )
    _, other = run_in_process(changed, tmp_path / "other")
    np.testing.assert_allclose(losses(other), losses(plain), rtol=1e-5)


def test_throughput_counts_every_token_of_a_step(config, tmp_path, monkeypatch):
    ticks = iter(range(10_000))
    monkeypatch.setattr(pretraining.time, "perf_counter", lambda: float(next(ticks)))
    _, events = run_in_process(config, tmp_path / "run")
    first = next(event for event in events if event["event"] == "update")
    assert first["tokens_per_second"] * first["seconds"] == 256  # of two micro-batches of 128


@pytest.fixture
def plain_text(tmp_path, texts) -> Path:
    """A folder of one long document without blank lines, another, and an empty file."""
    folder = tmp_path / "plain"
    folder.mkdir()
    (folder / "a.txt").write_text("\n".join(texts[:200]))
    (folder / "b.MD").write_text("\n".join(texts[200:260]))
    (folder / "z.txt").write_bytes(b"")
    (folder / "notes.pdf").write_bytes(b"x")
    return folder


def test_all_tokens_of_own_text_are_used_and_the_end_reads_all_that_is_held_out(
    config, plain_text, tokenizer, tmp_path
):
    def tokens(name):
        documents = split_text((plain_text / name).read_text())
        return sum(len(tokenizer.encode(text)) + 1 for text in documents)

    train, held = tokens("a.txt"), tokens("b.MD")
    config = replace(config, data=PretrainData(str(plain_text), config.data.tokenizer))
    job, events = run_in_process(config, tmp_path / "run")
    assert job.notes == [
        f"{plain_text}: ignored 1 file: notes.pdf",
        f"skipped, because there is no text in 1 file: {plain_text / 'z.txt'}",
        f"an epoch of training uses 100 % of the tokens ({train:,} of {train:,})",
        f"validation uses 100 % of the tokens ({held:,} of {held:,})",
    ]
    read = [event["tokens"] for event in events if event["event"] == "evaluate"]
    assert read == [528, 528, held]  # 512 asked for are 16 rows, each with a last target
    assert events[1]["held_out_tokens"] == f"{held:,}"
    once, _ = open_streams(config, tokenizer, epochs=1)
    placed = sum(int((batch.document_ids > 0).sum()) for batch in once)
    assert placed > 0.96 * train  # all but the last of each row, which is a target only


def test_nanochats_crop_says_how_little_it_uses(config, plain_text):
    data = PretrainData(str(plain_text), config.data.tokenizer, oversize="crop")
    job = build(replace(config, data=data))
    shares = [re.search(r"uses ([\d.]+) %", note) for note in job.notes[2:]]
    assert all(share and float(share[1]) < 20 for share in shares), job.notes


def test_of_a_long_text_the_beginning_is_counted(config, data, tokenizer):
    once, _ = open_streams(config, tokenizer, epochs=1)
    usage = count_tokens(once, limit=1000)
    assert str(usage) == "uses 100 % of the tokens (1,056 of the first 1,056)"
    assert usage.size == "more than 1,056"


def test_a_batch_that_cannot_be_cut_is_refused_with_one_that_can():
    with pytest.raises(ValueError, match="take 512 or another device_batch_size"):
        accumulation_steps(600, 4, 32)
    assert accumulation_steps(512, 4, 32) == 4


def test_wrong_usage_is_one_line(data, tmp_path, capsys):
    one = str(data / "shards" / "shard_00000.parquet")
    for arguments, code, message in (
        (["--depth", "0"], 2, "0 is not in the range x>=1"),
        (["--set", "training.step=3"], 2, "training.step: unknown key; did you mean 'steps'?"),
        (["--set", "training.learning_rate=nan"], 2,
         "training.learning_rate: must be a finite number, got nan"),
        (["--set", "training.rate_scale=-1"], 2, "training.rate_scale: must be above 0"),
        (["--set", "training.device_batch_size=0"], 2,
         "training.device_batch_size: must be at least 1, got 0"),
        (["--set", "training.warmdown_ratio=3"], 2, "training.warmdown_ratio: must be from 0 to 1"),
        (["--set", f"training.seed={2**80}"], 2, "training.seed: must be below 2^63"),
        (["--tokens-per-parameter", "nan"], 2, "nan is not a finite number"),
        (["--batch-tokens", "100"], 2, "batch_tokens 100 is not a multiple of 128"),
        (["--data", str(tmp_path / "nothing")], 1, "nothing: no such file or folder"),
        (["--data", one], 1, f"{one} is one shard, but the last one is for validation"),
        (["--resume"], 1, "is not a run: it has no run.json"),
    ):  # fmt: skip
        steps = [] if arguments == ["--resume"] else ["--steps", "1"]
        made = command(data, tmp_path / "run", *steps, *arguments)
        with pytest.raises(SystemExit) as stopped:
            main(made[3:])
        lines = capsys.readouterr().err.splitlines()
        assert stopped.value.code == code, lines
        assert message in lines[-1]


def test_a_full_disk_is_named_and_leaves_no_half_of_a_model(data, tmp_path):
    made = command(data, tmp_path / "run", "--steps", "1", "--evaluate-every", "0")
    # A limit on the size of files stands for the disk.
    limited = ["sh", "-c", 'ulimit -f 60; exec "$@"', "sh", *made]
    done = subprocess.run(limited, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "model.safetensors cannot be written; is the disk full? ([write]" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run" / "model").exists()
    assert not Checkpoints(tmp_path / "run" / "checkpoints").latest()


def test_a_dry_run_prints_the_plan_and_writes_nothing(data, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(command(data, tmp_path / "run", "--steps", "30", "--dry-run")[3:])
    assert not ended.value.code
    assert "7,680 = 30 steps of 256" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


def models(*folders):
    return [dict(mx.load(str(folder / "model" / "model.safetensors"))) for folder in folders]


def the_same(left, right):
    return left.keys() == right.keys() and all(mx.array_equal(left[k], right[k]) for k in left)


def test_a_finished_run_goes_on_for_more_steps_and_equals_one_long_run(trained, tmp_path):
    constant = ["--schedule", "constant"]
    trained(tmp_path / "long", "--steps", "7", *constant)
    trained(tmp_path / "short", "--steps", "4", *constant)
    said = trained(tmp_path / "short", "--resume", "--steps", "7")
    assert ("after update 4 the run continues to 7 steps instead of 4: equal to one run of 7 "
            "steps, bit for bit") in said  # fmt: skip
    assert the_same(*models(tmp_path / "long", tmp_path / "short"))
    states = [
        Checkpoints(tmp_path / name / "checkpoints").latest() / "optimizer.safetensors"
        for name in ("long", "short")
    ]
    assert the_same(*(dict(mx.load(str(file))) for file in states))
    assert "steps: 7" in (tmp_path / "short" / "config.yaml").read_text()
    lines = RunFolder.open(tmp_path / "short").metrics()
    assert [each["updates"] for each in lines if each["event"] == "update"] == list(range(1, 8))
    assert [each["updates"] for each in lines if each["event"] == "end"] == [7]
    [extended] = [each for each in lines if each["event"] == "extended"]
    expected = {"updates": 4, "from_steps": 4, "steps": 7, "decay_differs_from": None}
    assert extended | expected | {"rates_differ_from": None} == extended


@pytest.mark.parametrize(("done", "decay", "rates"), [(1, None, None), (4, 2, None), (9, 2, 6)])
def test_nanochats_schedule_differs_where_the_event_says(config, done, decay, rates, tmp_path):
    """With 10 steps rates fall after the fifth update; with 20 of them later."""
    training = replace(config.training, warmup_steps=1, warmdown_ratio=0.6)
    jobs = [build(replace(config, training=replace(training, steps=steps))) for steps in (10, 20)]
    RunFolder.create(tmp_path / "run", jobs[0].config)
    found = extend_run(tmp_path / "run", jobs[1].config, 10, done)
    assert (found["decay_differs_from"], found["rates_differ_from"]) == (decay, rates)
    optimizers = [job.step.optimizer for job in jobs]
    for name, function in (("decay_differs", lambda each: each.muon.weight_decay),
                           ("rates_differ", lambda each: each.schedule)):  # fmt: skip
        pairs = [[float(function(each)(mx.array(i))) for each in optimizers] for i in range(done)]
        differing = [i + 1 for i, (left, right) in enumerate(pairs) if left != right]
        assert (differing or [None])[0] == found[f"{name}_from"], name


def test_more_steps_must_be_more(data, trained, tmp_path, capsys):
    trained(tmp_path / "run", "--steps", "2")
    with pytest.raises(SystemExit) as stopped:
        main(command(data, tmp_path / "run", "--resume", "--steps", "2")[3:])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "Error: --steps 2 with --resume: the run has 2 already; give more steps, or omit --steps"
    )


def test_a_run_begins_with_a_model_and_its_tokenizer(trained, tmp_path, texts, capsys):
    trained(tmp_path / "base", "--steps", "2")
    write_shards([text.upper() for text in texts], tmp_path / "other", 20_000, group=32)
    begin = ["--init-from", str(tmp_path / "base"), "--output", str(tmp_path / "next"),
             "--data", str(tmp_path / "other"), "--steps", "3"]  # fmt: skip
    small = ["--device-batch-size", "4", "--batch-tokens", "256", "--threads", "1"]
    with pytest.raises(SystemExit) as ended:
        main(["train", *begin, *small])
    assert not ended.value.code, capsys.readouterr().err
    before = load_model(tmp_path / "base" / "model").config
    assert load_model(tmp_path / "next" / "model").config == before
    job = build(load_config(PretrainConfig, file=tmp_path / "next" / "config.yaml"))
    assert the_same(dict(tree_flatten(job.model.parameters())), dict(
        tree_flatten(load_model(tmp_path / "base", training=True).parameters())))  # fmt: skip
    assert int(job.step.optimizer.state["step"]) == 0
    trained(tmp_path / "next", "--resume", "--steps", "4")
    Tokenizer.train([text.upper() for text in texts], 384).save(tmp_path / "tokenizer")
    for wrong, message in (
        (["--depth", "3"], f"model.depth is 3, but {tmp_path / 'base'} has 2; remove the"),
        (["--sequence-len", "16"], "model.sequence_len is 16, but"),
        (["--tokenizer", str(tmp_path / "tokenizer")], "is not the tokenizer of"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["train", *begin, *small, *wrong, "--overwrite"])
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err.splitlines()[-1]


def test_a_resumed_run_refuses_another_tokenizer(config, tmp_path, texts):
    run_in_process(config, tmp_path / "run", stop_after=5)
    Tokenizer.train([text.upper() for text in texts], 384).save(tmp_path / "other")
    other = replace(config, data=replace(config.data, tokenizer=str(tmp_path / "other")))
    with pytest.raises(ValueError, match="is not the one that the model was trained with"):
        run_in_process(other, tmp_path / "run", resume=True)


def test_training_that_diverged_says_in_which_update_and_what_to_try(data, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(command(data, tmp_path / "run", "--steps", "9", "--set", "training.rate_scale=1e9",
                     "--set", "training.warmup_steps=0")[3:])  # fmt: skip
    line = capsys.readouterr().err.splitlines()[-1]
    assert stopped.value.code == 1
    assert line.startswith("Error: training diverged in update ")
    assert line.endswith("as with --set training.rate_scale=2.5e+08 (it was 1e+09)")
    assert not (tmp_path / "run" / "model").exists()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((None, None, 2048, 2**19), (2**19, 32)),  # nanochat's own
        ((16_384, None, 2048, 2**19), (16_384, 8)),
        ((None, 24, 2048, 2**19), (540_672, 24)),
        ((None, None, 1000, 2**19), (512_000, 32)),
        ((None, None, 2048, 10_000), (10_240, 5)),
        ((None, None, 256, 8192), (8192, 32)),  # of a speedrun
        ((None, None, 512, 8192), (8192, 16)),
    ],
)
def test_a_batch_is_found_for_what_was_given(given, expected):
    batch, rows = fit_batch(*given)
    assert (batch, rows) == expected
    assert accumulation_steps(batch, rows, given[2]) * rows * given[2] == batch
