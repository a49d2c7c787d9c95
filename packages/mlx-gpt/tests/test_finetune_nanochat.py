"""Fine-tuning of nanochat's models of 2026 and 2025: rows, methods, resume, and all commands."""

import json
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from click.testing import CliRunner
from mlx.utils import tree_flatten

from mlx_gpt.cli import cli
from mlx_gpt.models.files import load, load_model, save_manifest, save_model
from mlx_gpt.models.nanochat import Nanochat
from mlx_gpt.models.nanochat_2025 import Nanochat2025, Nanochat2025Config
from mlx_gpt.training.finetune import build, finetune
from mlx_gpt.training.finetune_plan import plan_run
from mlx_gpt.training.finetune_settings import (
    FinetuneConfig,
    FinetuneData,
    FinetuneMethod,
    FinetuneReport,
    FinetuneTraining,
)
from mlx_lora import merge_and_unload

COLOURS = ["red", "green", "blue", "brown", "black"]
ROWS = [{"prompt": f"The {each} dog?", "completion": f"{each} {each}"} for each in COLOURS] * 4
IDS = mx.array([[5, 9, 7, 30, 300]])


def write_rows(path: Path, rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="module", params=["2026", "2025"])
def base(request, tmp_path_factory, tokenizer) -> str:
    """A model folder, all of whose weights are random."""
    if request.param == "2025":
        sizes = Nanochat2025Config(64, tokenizer.vocab_size, 2, 4, 2, 64)
        model = Nanochat2025(sizes).initialize(mx.random.key(0))
    else:
        model = _nanochat(tokenizer)
    random = np.random.default_rng(0)
    for name, each in tree_flatten(model.parameters()):
        noise = mx.array(random.normal(scale=0.1, size=each.shape).astype(np.float32))
        model.load_weights([(name, each + noise)], strict=False)
    folder = tmp_path_factory.mktemp(f"nanochat{request.param}")
    save_model(model, folder, tokenizer.sha256)
    tokenizer.save(folder)
    save_manifest(folder)
    return str(folder)


def _nanochat(tokenizer) -> Nanochat:
    from mlx_gpt.models.nanochat import NanochatConfig

    sizes = NanochatConfig(64, tokenizer.vocab_size, 2, 4, 2, 64, "SL")
    return Nanochat(sizes).initialize(mx.random.key(0))


@pytest.fixture
def config(base, tmp_path) -> FinetuneConfig:
    train, valid = (write_rows(tmp_path / f"{n}.jsonl", ROWS[:n]) for n in (20, 5))
    return FinetuneConfig(
        base,
        FinetuneData([train], [valid]),
        FinetuneMethod(rank=4, alpha=8),
        training=FinetuneTraining(2, batch_size=4, learning_rate=1e-2),
        report=FinetuneReport(4, checkpoint_every=5),
    )


def with_method(config, **changed):
    return replace(config, method=replace(config.method, **changed))


def with_rows(config, path: Path, *rows, **changed):
    data = replace(config.data, train=[write_rows(path / "rows.jsonl", rows)], valid=[], **changed)
    return replace(config, data=data)


def run(config, folder, resume=False, stop_after=None):
    """Train; return the job and the events. Killed right after `stop_after` updates."""
    job, events = build(config), []

    def report(event):
        events.append(event)
        if event["event"] == "update" and event["updates"] == stop_after:
            raise SystemExit

    try:
        finetune(job, folder, report, resume)
    except SystemExit:
        assert stop_after
    return job, events


def losses(events, kind="update"):
    return [event["loss"] for event in events if event["event"] == kind]


def arrays(tree) -> dict[str, mx.array]:
    return dict(tree_flatten(tree))


METHODS = [
    ("2026", {"name": "lora"}),
    ("2026", {"name": "full"}),
    ("2026", {"targets": "lm_head,c_q"}),
    ("2026", {"modules_to_save": ["lm_head"]}),
    ("2025", {"name": "dora"}),
    ("2025", {"name": "full"}),
    ("2025", {"adapter_format": "mlx-lm", "targets": "re:.*(attn|mlp).c_.*"}),
]


@pytest.mark.parametrize(("base", "changed"), METHODS, ids=str, indirect=["base"])
def test_it_learns_and_leaves_what_loads(config, tmp_path, changed):
    job, events = run(with_method(config, **changed), tmp_path / "run")
    found = losses(events, "evaluate")
    assert found[-1] < found[0] - 0.2
    assert not events[-1]["warning"]
    job.model.eval()
    model, tokenizer = load(tmp_path / "run")
    assert mx.allclose(model(IDS), job.model(IDS), atol=1e-5)
    assert tokenizer.sha256 == job.tokenizer.sha256
    before = load_model(config.model)
    assert not mx.allclose(model(IDS), before(IDS), atol=0.1)
    if changed.get("name") != "full":
        kept = arrays(job.model.parameters())
        for name, each in arrays(before.parameters()).items():
            path, _, last = name.rpartition(".")
            frozen = kept.get(f"{path}.base_layer.{last}", kept.get(name))
            is_saved = "modules_to_save" in changed and path == "lm_head"
            assert is_saved or mx.array_equal(each, frozen), name


RESUMED = [
    ("2026", {"name": "lora", "dropout": 0.1}),
    ("2026", {"name": "full"}),
    ("2025", {"name": "lora"}),
]


@pytest.mark.parametrize(("base", "changed"), RESUMED, ids=str, indirect=["base"])
def test_ten_updates_equal_seven_killed_and_resumed(config, tmp_path, changed):
    config = with_method(config, **changed)
    whole, events = run(config, tmp_path / "whole")
    run(config, tmp_path / "cut", stop_after=7)
    resumed, later = run(config, tmp_path / "cut", resume=True)
    assert losses(later) == losses(events)[5:]
    assert events[-1]["before"] == later[-1]["before"]
    theirs = arrays(resumed.model.trainable_parameters())
    for name, each in arrays(whole.model.trainable_parameters()).items():
        assert mx.array_equal(each, theirs[name]), name


PARTS = [
    {"type": "text", "text": "red "},
    {"type": "python", "text": "1+1"},
    {"type": "python_output", "text": "2"},
    {"type": "text", "text": " two"},
]
TURNS = [("user", "A?"), ("assistant", "red"), ("user", "B?"), ("assistant", PARTS)]
MESSAGES = {"messages": [{"role": role, "content": content} for role, content in TURNS]}
LAST = "red <|python_start|>1+1<|python_end|> two<|assistant_end|>"


@pytest.mark.parametrize(
    ("mask", "learned"),
    [
        ("assistant", f"red<|assistant_end|>{LAST}"),
        ("last", LAST),
        ("completion", LAST),
        ("all", "<|user_start|>A?<|user_end|><|assistant_start|>red<|assistant_end|><|user_start|>"
         "B?<|user_end|><|assistant_start|>red <|python_start|>1+1<|python_end|><|output_start|>2"
         "<|output_end|> two<|assistant_end|>"),
    ],
)  # fmt: skip
def test_masks_of_nanochats_conversations(config, tmp_path, mask, learned):
    """What the calculator wrote is not learned, but by the mask for all tokens."""
    job = build(with_rows(config, tmp_path, MESSAGES, mask=mask))
    (row,) = job.train.rows
    assert job.tokenizer.decode(row.ids[row.trained].tolist()) == learned
    (batch,) = job.batches.next_update()
    assert int((batch["targets"] >= 0).sum()) == row.trained.sum()


def test_texts_and_completions_are_nanochats(config, tmp_path):
    rows = [{"text": "The dog"}, {"text": "The fox"}]
    for row in build(with_rows(config, tmp_path, *rows)).train.rows:
        assert job_text(config, row.ids) in ("<|bos|>The dog<|bos|>", "<|bos|>The fox<|bos|>")
    (row,) = build(with_rows(config, tmp_path, ROWS[0])).train.rows
    assert job_text(config, row.ids) == (
        "<|bos|><|user_start|>The red dog?<|user_end|><|assistant_start|>red red<|assistant_end|>"
    )


def job_text(config, ids) -> str:
    return load(config.model)[1].decode(ids.tolist())


@pytest.mark.parametrize(
    ("method", "data", "message"),
    [
        ({"name": "qlora"}, {}, "nanochat's models are not quantized"),
        ({"quantize": 4}, {}, "nanochat's models are not quantized"),
        ({}, {"pack": True}, "data.pack: nanochat's models do not take packed rows"),
        ({}, {"chat_template": "plain"}, "data.chat_template is for other models than nanochat"),
    ],
)
def test_what_nanochat_has_not_is_refused_before_the_run(config, method, data, message):
    config = with_method(replace(config, data=replace(config.data, **data)), **method)
    for check in (build, plan_run):
        with pytest.raises(ValueError, match=message):
            check(config)


def command(*arguments, code=0):
    result = CliRunner().invoke(cli, [str(each) for each in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result


@pytest.mark.parametrize(
    ("base", "method"), [("2026", "lora"), ("2025", "full")], indirect=["base"]
)
def test_every_command_takes_the_run(config, tmp_path, method):
    finetuning = [
        "finetune",
        "--model",
        config.model,
        "--data",
        config.data.train[0],
        "--method",
        method,
        "--epochs",
        2,
        "--learning-rate",
        1e-2,
        "--output",
        tmp_path / "run",
    ]
    plan = command("estimate", *finetuning[1:-2]).output
    assert "6 updates of up to 8 rows" in plan
    assert "largest micro-batch: 8 rows of 21 tokens" in plan
    command(*finetuning)
    run_folder = tmp_path / "run"
    answer = ["--max-tokens", 6, "--temperature", 0]
    chat = command("chat", "--model", run_folder, "--prompt", "The red dog?", *answer).stdout
    generated = command("generate", "--model", run_folder, "--chat", "--prompt", "The red dog?",
                        *answer).stdout  # fmt: skip
    assert chat.strip() == generated.strip() != ""
    held = command("evaluate", "--model", run_folder, "--perplexity", config.data.valid[0]).output
    assert "perplexity" in held
    command("data", "check", config.data.valid[0], "--model", config.model)
    if method == "full":
        done = CliRunner().invoke(cli, ["fuse", str(run_folder), "--output", str(tmp_path / "f")])
        assert "has no adapter" in str(done.exception)
        return
    with_adapter = command("generate", "--model", config.model, "--adapter", run_folder, "--chat",
                           "--prompt", "The red dog?", *answer).stdout  # fmt: skip
    assert with_adapter == generated
    printed = command("fuse", run_folder, "--output", tmp_path / "fused").output
    assert "100.0% of the adapter's effect survives" in printed
    fused, _ = load(tmp_path / "fused")
    expected, _ = merge_and_unload(load_model(run_folder))
    assert mx.allclose(fused(IDS), expected(IDS), atol=1e-6)
    exported = CliRunner().invoke(
        cli, ["export", str(tmp_path / "fused"), "--output", str(tmp_path / "hf")]
    )
    assert "transformers has no class for" in str(exported.exception)
    assert not (tmp_path / "hf").exists()
