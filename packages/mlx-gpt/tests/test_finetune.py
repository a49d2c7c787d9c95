"""Fine-tuning: every method learns, resumes bit for bit, and leaves a model that loads.

T1 to T7 are the defects of mlx-lm's trainer that we measured; each is a test here.
"""

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from mlx.utils import tree_flatten

from mlx_gpt.commands.data import data as data_command
from mlx_gpt.commands.finetune import finetune as finetune_command
from mlx_gpt.data import IGNORE
from mlx_gpt.models.files import load, load_model
from mlx_gpt.training.finetune import (
    build,
    describe,
    evaluate,
    finetune,
    rate_share,
    run_finetune,
)
from mlx_gpt.training.finetune_model import make_optimizer
from mlx_gpt.training.finetune_settings import (
    PROFILES,
    FinetuneConfig,
    FinetuneData,
    FinetuneMethod,
    FinetuneReport,
    FinetuneTraining,
    check_given,
    read_profile,
)
from mlx_gpt.training.losses import target_losses, target_states
from mlx_gpt.training.outcome import judge, rows_to_compare
from mlx_lora import adapter_configs, load_mlx_lm_adapter, merge_and_unload
from mlx_trainer import (
    Checkpoints,
    ConfigError,
    RunFolder,
    TrainingError,
    config_sources,
    dump_config,
    load_config,
)

COLOURS = ["red", "green", "blue", "brown", "black"]


def write_rows(path: Path, rows) -> str:
    """Write JSON lines; return the path."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def chat(*texts: str) -> dict:
    """Return a conversation that begins with the user."""
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]}


def easy_config(base: str, folder: Path) -> FinetuneConfig:
    """Return ten updates on easy questions."""
    rows = [chat(f"The {each} dog?", f"{each} {each}") for each in COLOURS] * 4
    return FinetuneConfig(
        base,
        FinetuneData([write_rows(folder / "train.jsonl", rows)],
                     [write_rows(folder / "valid.jsonl", rows[:5])]),
        FinetuneMethod(rank=4, alpha=8),
        training=FinetuneTraining(2, batch_size=4, learning_rate=1e-2),
        report=FinetuneReport(4, checkpoint_every=5),
    )  # fmt: skip


def run(config, folder, resume=False, stop_after=None):
    """Train; return the job and the events. Killed right after `stop_after` updates."""
    job, events = build(config), []

    def report(event):
        events.append(event)
        if event["event"] == "update" and event["updates"] == stop_after:
            raise SystemExit  # nothing is saved any more, as after a kill

    try:
        finetune(job, folder, report, resume)
    except SystemExit:
        assert stop_after
    return job, events


def of(kind: str, events: list[dict], name: str) -> list:
    """Return a value of each event of a kind."""
    return [event[name] for event in events if event["event"] == kind]


def arrays(tree) -> dict[str, mx.array]:
    """Return the arrays of a tree by dotted name."""
    return dict(tree_flatten(tree))


def equal(ours, theirs) -> bool:
    """Return whether two trees have the same arrays, bit for bit."""
    ours, theirs = arrays(ours), arrays(theirs)
    return ours.keys() == theirs.keys() and all(
        mx.array_equal(each, theirs[name]) for name, each in ours.items()
    )


IDS = mx.array([[5, 9, 7, 30]])


@pytest.fixture(scope="module")
def config(tmp_path_factory, llama_folder):
    return easy_config(llama_folder, tmp_path_factory.mktemp("data"))


def with_method(config, **changed):
    return replace(config, method=replace(config.method, **changed))


def with_training(config, **changed):
    return replace(config, training=replace(config.training, **changed))


def with_report(config, **changed):
    return replace(config, report=replace(config.report, **changed))


def with_rows(config, path: Path, rows, **changed):
    data = replace(config.data, train=[write_rows(path / "rows.jsonl", rows)], **changed)
    return replace(config, data=data)


@pytest.mark.parametrize("name", ["lora", "dora", "qlora", "full"])
def test_it_learns_and_leaves_what_loads(config, tmp_path, name):
    config = with_method(config, name=name)
    job, events = run(config, tmp_path / name)
    losses = of("evaluate", events, "loss")
    assert losses[-1] < losses[0] - 0.7
    assert (events[-1]["before"], events[-1]["after"]) == (losses[0], min(losses[1:]))
    assert events[-1]["warning"] == ""
    job.model.eval()
    model, tokenizer = load(tmp_path / name)
    assert mx.allclose(model(IDS), job.model(IDS), atol=1e-6)
    assert tokenizer.sha256 == job.tokenizer.sha256
    untrained = load_model(config.model)
    assert not mx.allclose(model(IDS), untrained(IDS), atol=0.1)


def test_an_adapter_leaves_the_model_as_it_is(config):
    job, before = build(config), load_model(config.model)
    for name, each in arrays(before.parameters()).items():
        path, _, last = name.rpartition(".")
        kept = arrays(job.model.parameters())
        assert mx.array_equal(each, kept.get(name, kept.get(f"{path}.base_layer.{last}")))
    assert mx.allclose(job.model(IDS), before(IDS), atol=1e-6)  # before the first update


def test_t1_rows_of_about_one_length_share_a_batch(config, tmp_path):
    lengths = np.random.default_rng(0).lognormal(2.5, 0.8, 80).astype(int).clip(1, 90)
    rows = [{"text": " ".join(["red"] * n)} for n in lengths]
    job = build(with_rows(config, tmp_path, rows))
    real, padded = 0, 0
    for _ in range(job.batches.per_epoch):
        padded += sum(each["inputs"].size for each in job.batches.next_update())
        real += job.batches.tokens
    assert padded / real <= 1.3


def test_t2_a_row_of_five_tokens_has_four_targets(config, tmp_path):
    job = build(with_rows(config, tmp_path, [{"text": "red"}], mask="all"))
    (row,) = job.train.rows
    (batch,) = job.batches.next_update()
    targets = batch["targets"][batch["targets"] != IGNORE]
    assert targets.tolist() == row.ids[1:].tolist()
    assert targets[-1] == job.tokenizer.eos_id


def test_t3_a_row_without_a_target_is_dropped_and_told(config, tmp_path):
    rows = [chat("The dog? " * 40, "red"), chat("The dog?", "red")]
    job = build(with_rows(config, tmp_path, rows, max_tokens=40))
    assert len(job.train.rows) == 1
    assert "dropped 1 of 2 rows without a token to train on" in "".join(job.train.notes)
    _, events = run(with_rows(config, tmp_path, rows, max_tokens=40), tmp_path / "run")
    assert np.isfinite(of("update", events, "loss")).all()


def test_t4_all_turns_of_the_assistant_are_learned(config, tmp_path):
    rows = [chat("The dog?", "red one", "And?", "green one")]
    (row,) = build(with_rows(config, tmp_path, rows)).train.rows
    tokenizer = build(config).tokenizer
    learned = tokenizer.decode(row.ids[row.trained].tolist())
    assert learned == "red one<|im_end|>green one<|im_end|>"


def test_t5_an_adapter_fused_into_a_quantized_model_keeps_its_effect(config, tmp_path):
    config = with_training(with_method(config, name="qlora"), learning_rate=1e-3)
    run(config, tmp_path / "run")
    model = load_model(tmp_path / "run")
    adapted = model(IDS)
    fused, report = merge_and_unload(model)
    before = load_model(config.model)
    effect = float(mx.linalg.norm(adapted - _quantized(before)(IDS)))
    error = float(mx.linalg.norm(fused(IDS) - adapted))
    assert error <= 1e-3 * effect, str(report)


def _quantized(model):
    from mlx_gpt.models.adapters import quantize_layers

    quantize_layers(model, 4)
    return model


def test_t6_an_update_weighs_tokens_and_not_micro_batches(config, tmp_path):
    texts = ["red", "the lazy dog jumps over it", "brown", "three of them are in strawberry"]
    config = with_rows(config, tmp_path, [chat("The dog?", each) for each in texts])
    losses, weights = [], []
    for tokens in (10**6, 1):  # one micro-batch, and four of a row each
        job = build(with_training(config, micro_batch_tokens=tokens))
        batches = job.batches.next_update()
        losses.append(float(job.step(batches, 1e-2)[0]))
        weights.append(arrays(job.model.trainable_parameters()))
    assert len(batches) == 4
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    for name, each in weights[0].items():
        assert mx.allclose(each, weights[1][name], atol=1e-5), name


def test_t6_the_rest_of_an_epoch_is_an_update_too(config, tmp_path):
    rows = [chat("The dog?", each) for each in COLOURS]
    _, events = run(with_rows(config, tmp_path, rows), tmp_path / "run")  # 4 rows an update
    assert of("update", events, "epoch") == [0, 0, 1, 1]
    assert sum(of("update", events, "targets")[:2]) == sum(of("update", events, "targets")[2:])


def test_t7_the_last_evaluation_follows_the_last_update(config, tmp_path):
    config = with_report(config, keep_best=False)
    job, events = run(config, tmp_path / "run")
    assert of("evaluate", events, "updates")[-1] == of("update", events, "updates")[-1] == 10
    assert of("evaluate", events, "loss")[-1] == evaluate(job, job.valid)["loss"]


def test_the_loss_is_that_of_the_logits(config, compiled):
    for name in ("lora", "qlora", "full"):
        job = build(with_method(config, name=name))
        (batch, *_) = job.batches.next_update()
        batch = {key: mx.array(each) for key, each in batch.items()}
        hidden = target_states(job.model, batch)
        found = target_losses(job.model, hidden, batch["targets"])
        logits = job.model.logits(hidden)
        known = mx.maximum(batch["targets"], 0)[..., None]
        losses = mx.logsumexp(logits, -1) - mx.take_along_axis(logits, known, -1)[..., 0]
        assert mx.allclose(found, mx.where(batch["targets"] == IGNORE, 0, losses), atol=1e-5)


@pytest.mark.parametrize("changed", [{}, {"name": "full"}, {"dropout": 0.2}, {"lora_plus": 8.0}])
def test_ten_updates_equal_seven_killed_and_resumed(config, tmp_path, changed):
    config = with_method(config, **changed)
    whole, events = run(config, tmp_path / "whole")
    run(config, tmp_path / "cut", stop_after=7)
    resumed, later = run(config, tmp_path / "cut", resume=True)
    assert of("update", later, "updates") == list(range(6, 11))
    assert of("update", later, "loss") == of("update", events, "loss")[5:]
    assert of("evaluate", later, "loss") == of("evaluate", events, "loss")[2:]
    assert equal(whole.model.trainable_parameters(), resumed.model.trainable_parameters())
    assert equal(whole.step.optimizer.state, resumed.step.optimizer.state)


def test_a_process_killed_at_any_moment_resumes_bit_for_bit(config, tmp_path):
    config = with_training(with_report(config, checkpoint_every=3), epochs=3)
    run_finetune(config, tmp_path / "whole")
    code = (
        "import mlx.core as mx; mx.disable_compile()\n"
        "import sys; from mlx_gpt.training.finetune import run_finetune\n"
        "from mlx_gpt.training.finetune_settings import FinetuneConfig\n"
        "from mlx_trainer import load_config\n"
        "run_finetune(load_config(FinetuneConfig, file=sys.argv[1]), sys.argv[2])\n"
    ).replace("sys.argv[2])", "__import__('pathlib').Path(sys.argv[2]))")
    file = tmp_path / "whole" / "config.yaml"
    process = subprocess.Popen([sys.executable, "-c", code, file, tmp_path / "cut"],
                               stderr=subprocess.DEVNULL)  # fmt: skip
    log = tmp_path / "cut" / "metrics.jsonl"
    while process.poll() is None:
        if log.exists() and log.read_text().count('"update"') >= 7:
            process.send_signal(signal.SIGKILL)
            break
    assert process.wait() == -signal.SIGKILL
    run_finetune(config, tmp_path / "cut", resume=True)
    ours, theirs = (load_model(tmp_path / name) for name in ("whole", "cut"))
    assert equal(ours.parameters(), theirs.parameters())
    losses = [of("update", RunFolder.open(tmp_path / name).metrics(), "loss")
              for name in ("whole", "cut")]  # fmt: skip
    assert losses[0] == losses[1]


def test_checkpoints_of_an_adapter_have_no_frozen_weights(config, tmp_path):
    run(config, tmp_path / "run", stop_after=7)
    saved = mx.load(str(Checkpoints(tmp_path / "run/checkpoints").latest() / "model.safetensors"))
    assert all("lora_" in name for name in saved)


def test_an_interrupt_leaves_a_checkpoint_and_a_model(config, tmp_path):
    job, seen = build(config), []

    def interrupt(event):
        seen.append(event)
        if event["event"] == "update" and event["updates"] == 3:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        finetune(job, tmp_path / "cut", interrupt)
    assert Checkpoints(tmp_path / "cut/checkpoints").latest().name == "step-00000003"
    assert load_model(tmp_path / "cut")
    _, later = run(config, tmp_path / "cut", resume=True)
    _, events = run(config, tmp_path / "whole")
    assert of("update", seen + later, "loss") == of("update", events, "loss")


def test_the_best_weights_are_restored_and_training_stops_early(config, tmp_path):
    config = with_training(config, epochs=20, learning_rate=0.5, schedule="constant")
    config = with_report(config, evaluate_every=1, patience=3)
    job, events = run(config, tmp_path / "run")
    losses, (end,) = of("evaluate", events, "loss"), events[-1:]
    assert end["stopped_early"]
    assert end["updates"] == end["best_update"] + 3 < 100
    assert end["best"] == min(losses[1:]) == evaluate(job, job.valid)["loss"] < losses[-1]
    _, again = run(config, tmp_path / "run", resume=True)
    assert [event["event"] for event in again] == ["start", "end"]


@pytest.mark.parametrize("held_out", [True, False])
@pytest.mark.parametrize(("name", "rate"), [("lora", 1e3), ("full", 10.0), ("full", 0.5)])
def test_a_rate_far_too_high_is_told_with_the_losses(config, tmp_path, name, rate, held_out):
    config = with_training(with_method(config, name=name), learning_rate=rate, steps=6)
    if not held_out:
        config = replace(config, data=replace(config.data, valid=[]))
    job, events = run(config, tmp_path / "run")
    before, after, warning = (events[-1][name] for name in ("before", "after", "warning"))
    assert after > (before + 1 if name == "full" else 0.9999 * np.log(320))
    rows = "held-out rows" if held_out else "rows that it was trained on"
    assert warning == (
        f"training failed: the loss on {rows} is {after:.4g} and was {before:.4g} before training; "
        f"with all tokens equally likely it would be {np.log(320):.4g}; lower "
        f"training.learning_rate={rate:g}"
    )
    assert after == evaluate(job, rows_to_compare(job.train, job.valid))["loss"]


def test_a_warning_needs_a_clearly_higher_loss():
    assert judge(2.0, 2.03, 5.0, held_out=True) == ""
    assert judge(0.001, 0.015, 5.0, held_out=False) == ""
    assert "is 2.05 and was 2 before" in judge(2.0, 2.05, 5.0, held_out=True)
    assert "is 5.1; with all tokens equally likely it would be 5" in judge(None, 5.1, 5.0, True)
    assert judge(5.9, 5.8, 5.0, held_out=True) == ""  # an untrained model that learns
    assert "is 5 and was 5.9 before" in judge(5.9, 5.0, 5.0, held_out=True)  # all logits are equal
    assert judge(np.log(2), 0.6, None, held_out=True) == ""  # of pairs


def test_few_rows_are_compared_if_none_are_held_out(config, tmp_path):
    rows = [{"text": "red " * 60} for _ in range(400)]
    job = build(with_rows(config, tmp_path, rows, valid=[]))
    compared = rows_to_compare(job.train, None)
    assert compared.tokens <= 8192 < job.train.tokens
    assert compared.rows[1] is job.train.rows[len(job.train.rows) // len(compared.rows) + 1]


@pytest.mark.parametrize("name", ["lora", "dora", "full"])
def test_a_rate_of_a_million_ends_the_run_with_an_error(config, tmp_path, name):
    config = with_training(with_method(config, name=name), learning_rate=1e6)
    with pytest.raises(TrainingError, match=r"update [3-5]: .*nan"):
        run(config, tmp_path / "run")


def test_a_loss_that_is_no_number_ends_the_run_and_names_the_update(config, tmp_path):
    for broken, expected in ((3, r"update 4: loss nan"), (10, r"update 10: the loss of an eval")):
        job = build(config)

        def spoil(event, job=job, broken=broken):
            if event["event"] == "update" and event["updates"] == broken:
                job.model.model["norm"].weight = mx.full((64,), mx.nan)

        with pytest.raises(TrainingError, match=expected):
            finetune(job, tmp_path / str(broken), spoil)
        assert not (tmp_path / str(broken) / "model").exists()
    job.model.model["norm"].weight = mx.full((64,), mx.nan)
    job.step.updates = 0
    with pytest.raises(ValueError, match="the loss is nan before the first update"):
        evaluate(job, job.valid)


def test_packed_rows_are_learned_as_well(config, tmp_path):
    config = replace(config, data=replace(config.data, pack=True, max_tokens=64))
    job, events = run(config, tmp_path / "run")
    assert "segments" in job.batches.next_update()[0]
    assert of("evaluate", events, "loss")[-1] < of("evaluate", events, "loss")[0] - 0.3


def test_training_goes_on_from_an_adapter(config, tmp_path):
    first, _ = run(config, tmp_path / "first")
    second = build(with_method(config, init_from=str(tmp_path / "first"), rank=2))
    assert equal(first.model.trainable_parameters(), second.model.trainable_parameters())
    _, events = run(with_method(config, init_from=str(tmp_path / "first")), tmp_path / "second")
    assert of("evaluate", events, "loss")[0] < 5


def test_an_adapter_in_the_files_of_mlx_lm(config, tmp_path):
    job, _ = run(with_method(config, adapter_format="mlx-lm"), tmp_path / "run")
    model = load_model(config.model)
    load_mlx_lm_adapter(model, tmp_path / "run" / "model")
    job.model.eval()
    assert mx.allclose(model(IDS), job.model(IDS), atol=1e-6)
    assert mx.allclose(load_model(tmp_path / "run")(IDS), job.model(IDS), atol=1e-6)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"targets": "q_proj,v_proj"}, 4),
        ({"targets": "re:.*mlp.*"}, 6),
        ({"last_layers": 1}, 7),
        ({"targets": "lm_head"}, 1),
        ({"modules_to_save": ["lm_head"]}, 15),
    ],
)
def test_what_is_trained(config, tmp_path, changed, expected):
    config = with_method(config, **changed)
    job, events = run(with_training(config, steps=2), tmp_path / "run")
    paths = {name.partition(".adapters")[0] for name in arrays(job.model.trainable_parameters())}
    assert len(paths) == expected
    assert of("update", events, "loss")[1] < of("update", events, "loss")[0]
    job.model.eval()
    assert mx.allclose(load_model(tmp_path / "run")(IDS), job.model(IDS), atol=1e-6)


def test_only_the_last_layers_of_a_model_are_trained(config):
    job = build(with_method(config, name="full", last_layers=1))
    assert all(".layers.1." in name for name in arrays(job.model.trainable_parameters()))


def test_lora_plus_and_decay_are_per_parameter(config):
    config = with_method(config, lora_plus=16.0)
    job = build(config)
    optimizer = make_optimizer(config, job.model)
    optimizer.init(job.model.trainable_parameters())
    rates = {name.rpartition(".lora_")[2]: each.rate for name, each in optimizer._groups.items()}
    assert rates == {"A.weight": 1.0, "B.weight": 16.0}


def test_muon_and_gradient_checkpointing_train_too(config, tmp_path):
    config = with_training(config, optimizer="muon", checkpoint_blocks=True, steps=6)
    _, events = run(config, tmp_path / "run")
    assert of("update", events, "loss")[-1] < of("update", events, "loss")[0] - 0.1
    plain = run(with_training(config, checkpoint_blocks=False), tmp_path / "plain")[1]
    np.testing.assert_allclose(of("update", events, "loss"), of("update", plain, "loss"), rtol=1e-4)


def test_threads_change_nothing_but_rounding(config, tmp_path):
    one, two = (
        of("update", run(with_training(config, threads=n, steps=4), tmp_path / str(n))[1], "loss")
        for n in (1, 2)
    )
    np.testing.assert_allclose(one, two, rtol=1e-5)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.5, 1, 1, 1, 1]),
        ("linear", [0.5, 1, 7 / 8, 4 / 8, 1 / 8]),
        ("cosine", [0.5, 1, 0.96194, 0.5, 0.03806]),
        ("wsd", [0.5, 1, 1, 1, 0.5]),
    ],
)
def test_schedules(schedule, expected):
    training = FinetuneTraining(schedule=schedule, warmup=0.2, decay=0.2)
    found = [rate_share(training, update, 10) for update in (0, 2, 3, 6, 9)]
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("name", PROFILES)
def test_profiles_are_valid_settings(name):
    needed = {"model": "m", "data.train": ["x"]}
    assert load_config(FinetuneConfig, read_profile(name), flags=needed).model == "m"


WITHOUT_EFFECT = [
    ({"method": {"name": "full", "rank": 4}}, "method.rank is for adapters, and method.name is"),
    ({"method": {"name": "full", "dropout": 0.1}}, "method.dropout is for adapters"),
    ({"method": {"init_from": "a", "alpha": 4}}, "method.alpha is that of the adapter in"),
    ({"objective": {"beta": 0.5}}, "objective.beta is for objective.name=dpo"),
    ({"objective": {"name": "dpo", "orpo_lambda": 0.5}}, "orpo_lambda is for objective.name=orpo"),
    ({"objective": {"name": "orpo"}, "data": {"mask": "last"}}, "data.mask is for objective.name"),
    ({"training": {"decay": 0.5}}, "training.decay is for training.schedule=wsd"),
    ({"report": {"patience": 3}}, "report.patience needs held-out rows"),
]


@pytest.mark.parametrize(("settings", "message"), WITHOUT_EFFECT)
def test_a_given_setting_without_effect_is_refused(tmp_path, settings, message):
    """By flag, by --set and by the keys of a --config file alike."""
    needed = {"model": "m", "data.train": ["x"]}
    given = {f"{section}.{name}": value for section, values in settings.items()
             for name, value in values.items()}  # fmt: skip
    file = tmp_path / "settings.yaml"
    file.write_text(yaml.safe_dump(settings))
    overrides = [f"{key}={value}" for key, value in given.items()]
    for source in ({"flags": given}, {"overrides": overrides}, {"file": file}):
        flags = needed | source.get("flags", {})
        arguments = {**source, "flags": flags}
        chosen = load_config(FinetuneConfig, read_profile("code"), **arguments)
        with pytest.raises(ConfigError, match=message) as error:
            check_given(chosen, config_sources(**arguments))
        assert str(error.value).startswith(f"{file}:") == ("file" in source)
    # The profile's settings are no mistake, and without effect they are not saved.
    names = ("method.name", "method.init_from", "objective.name")
    used = {key: value for key, value in given.items() if key in names}
    chosen = load_config(FinetuneConfig, read_profile("code"), flags=needed | used)
    settled = check_given(chosen, config_sources(flags=needed | used))
    assert settled.method.rank == (16 if used.keys() & {*names[:2]} else 32)


def test_the_saved_settings_of_a_run_are_settings_for_another(tmp_path):
    needed = {"model": "m", "data.train": ["x"], "method.name": "full"}
    chosen = load_config(FinetuneConfig, read_profile("code"), flags=needed)
    file = tmp_path / "config.yaml"
    file.write_text(dump_config(check_given(chosen, config_sources(flags=needed))))
    again = load_config(FinetuneConfig, file=file)
    assert check_given(again, config_sources(file=file)) == again


def command(*arguments, code=0) -> str:
    """Run the command in this process; return what it printed."""
    result = CliRunner().invoke(finetune_command, [str(each) for each in arguments])
    assert result.exit_code == code, result.output
    return result.output


def test_the_command_trains_and_tells_what_it_kept(config, tmp_path):
    rows = [chat(f"The {each} dog?", each) for each in COLOURS] * 2
    file = tmp_path / "rows.jsonl"
    write_rows(file, rows)
    file.write_text(file.read_text() + '{"messages": 5}\n')
    shared = ["--model", config.model, "--data", file, "--valid", config.data.valid[0],
              "--quantize", 8, "--on-bad-row", "skip", "--profile", "chat", "--epochs", 3,
              "--batch-size", 5, "--output", tmp_path / "run"]  # fmt: skip
    plan = command(*shared, "--dry-run")
    assert "skipped 1 of 11 rows as malformed" in plan
    assert "6 updates of 5 rows, 3 epochs" in plan
    assert "largest micro-batch: 5 rows" in plan
    assert not (tmp_path / "run").exists()
    printed = command(*shared)
    assert "restored the weights of update 6, which had the lowest loss" in printed
    assert "lora: " in printed
    assert "\ncompiling for the first updates, which may take a minute ...\n" in printed
    assert "warning" not in printed
    saved = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert (saved["data"]["mask"], saved["training"]["epochs"]) == ("assistant", 3)
    assert json.loads((tmp_path / "run/model/base.json").read_text())["bits"] == 8
    assert load_model(tmp_path / "run")
    command("--output", tmp_path / "run", "--resume")


def test_the_plan_counts_rows_and_tokens_as_data_check_does(config, tmp_path):
    rows = [chat(f"The {each} dog?", each) | {"id": 1} for each in COLOURS]
    rows[0]["messages"][0]["content"] = "The fox? " * 40
    files = [write_rows(tmp_path / name, some) for name, some in (("a", rows), ("b", rows[3:]))]
    limit = ["--model", config.model, "--max-tokens", "40"]
    checked = CliRunner().invoke(data_command, ["check", *files, *limit, "--json"])
    found = json.loads(checked.stdout)["splits"][files[0]]
    assert found["truncated"] == 1
    shared = [*limit, "--data", files[0], "--dry-run"]
    plan = command(*shared, "--valid", files[1], "--batch-size", 1000).splitlines()
    assert f"{files[0]}: truncated 1 of 5 rows, which lost {found['lost_tokens']} tokens" in plan
    assert f"{files[0]}: ignored keys: id in 5 rows" in plan
    assert f"{files[1]}: ignored keys: id in 2 rows" in plan
    line = f"{found['rows']} rows of {found['tokens']} tokens, {found['trained_tokens']} of them"
    assert any(each.startswith(line) for each in plan)
    assert f"1 updates of {found['rows']} rows, 1 epochs" in plan
    overlap = "2 of 2 held-out rows are trained on too, and of 2 the question: "
    assert any(each.startswith(overlap) for each in plan)
    plan = command(*shared, "--batch-size", 3)
    assert "2 updates of up to 3 rows" in plan
    assert "held-out" not in plan


def test_parameters_are_those_of_the_model_and_the_trained_ones(config):
    job = build(config)
    numbers = [sum(each.size for each in arrays(tree).values()) for tree in (
        load_model(config.model).parameters(), job.model.trainable_parameters())]  # fmt: skip
    line = f"lora: {numbers[1]:,} of {sum(numbers):,} parameters are trained"
    assert describe(job)[-1].startswith(line)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "run"], "Missing option '--model'."),
        (["--model", "m", "--data", "d"], "Missing option '--output'."),
        (["--output", "run", "--resume", "--profile", "chat"], "--resume takes everything from"),
        (["--model", "m", "--data", "d", "--output", "r", "--method", "lara"], "'lara' is not one"),
    ],
)
def test_wrong_usage_is_told_before_anything_is_loaded(arguments, message):
    assert message in command(*arguments, code=2)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"name": "full", "quantize": 4}, "method.quantize is for adapters, and method.name is"),
        ({"name": "full", "init_from": "x"}, "method.init_from is for adapters"),
        ({"targets": "q_prj"}, "target_modules has 'q_prj', which is no module"),
        ({"last_layers": 3}, "method.last_layers: got 3, and the model has 2 layers"),
        ({"init_from": "nowhere"}, "method.init_from: nowhere is not the folder of an adapter"),
    ],
)
def test_what_does_not_fit_is_refused(config, changed, message):
    with pytest.raises(ValueError, match=r"method|target") as error:
        build(with_method(config, **changed))
    assert message in str(error.value)


def test_an_adapter_is_no_model_to_start_from(config, tmp_path):
    run(with_training(config, steps=1), tmp_path / "run")
    with pytest.raises(ConfigError, match="is an adapter; give its model"):
        build(replace(config, model=str(tmp_path / "run")))
    assert adapter_configs(load_model(tmp_path / "run"))


def test_a_moved_model_is_named(config, tmp_path):
    run(with_training(config, steps=1), tmp_path / "run")
    file = tmp_path / "run/model/base.json"
    file.write_text(file.read_text().replace(config.model, "/nowhere"))
    (tmp_path / "run/model/manifest.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"/nowhere: no such folder.*base\.json"):
        load_model(tmp_path / "run")
