import json
import re
import shutil
import statistics
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_gpt.commands.report import report as command
from mlx_gpt.report import curves, make_report, numbers, write_report_card
from mlx_gpt.report.page import page
from mlx_gpt.report.runs import read_events, read_runs
from mlx_gpt.training import settings as stages
from mlx_gpt.training.plan import make_plan
from mlx_trainer import RunFolder

NOW = datetime(2026, 11, 21, 21, 30, tzinfo=UTC)
START = 1_795_000_000.0  # 2026-11-18 11:06:40 UTC
PRETRAIN = stages.PretrainConfig(
    stages.PretrainData("shards", "tokenizer"),
    stages.PretrainModel(depth=2, sequence_len=64, head_dim=64),
    stages.PretrainTraining(steps=4, batch_tokens=512, device_batch_size=4),
)
SFT = stages.SftConfig("runs/pretrain", stages.SftData(["dolly.jsonl"], ["held.jsonl"]))
RL = stages.RlConfig("runs/sft", stages.RlData("gsm8k.jsonl"))
TASK = {"type": "multiple_choice", "examples": 40, "accuracy": 0.4, "baseline": 0.25,
        "centered": 0.2}  # fmt: skip


def log(folder: Path, events: list[dict]) -> None:
    """Write events as `RunFolder.log` does, but each 10 seconds after the one before it."""
    lines = [json.dumps(each | {"time": START + 10 * i}) for i, each in enumerate(events)]
    (folder / "metrics.jsonl").write_text("".join(line + "\n" for line in lines), "utf-8")


def pretraining_events(steps: int = 4) -> list[dict]:
    events = [{"event": "evaluate", "updates": 0, "bits_per_byte": 3.5, "evaluation_seconds": 2.0}]
    for step in range(1, steps + 1):
        events.append({
            "event": "update", "updates": step, "loss": 6.0 - step, "smooth_loss": 6.5 - step,
            "gradient_norm": 1.0, "rate_scale": 1 / step, "tokens_per_second": 100.0 * step**2,
            "seconds": 5.0 * step, "peak_memory": 10**9 + step,
        })  # fmt: skip
    events.append(
        {"event": "evaluate", "updates": steps, "bits_per_byte": 1.25, "evaluation_seconds": 3.0}
    )
    samples = [["Once upon", " a time\nthere was"], ["2 + 2 =", " ```five``` | six"]]
    events.append({"event": "sample", "updates": steps, "samples": samples})
    return events


END = {"event": "end", "updates": 4, "seconds": 20.0}


@pytest.fixture
def base(tmp_path: Path, tokenizer) -> Path:
    """A finished run of pretraining."""
    folder = tmp_path / "runs" / "pretrain"
    RunFolder.create(folder, PRETRAIN)
    tokenizer.save(folder / "model")
    log(folder, [*pretraining_events(), END])
    return folder


@pytest.fixture
def tuned(tmp_path: Path) -> Path:
    """A finished run of fine-tuning."""
    folder = tmp_path / "runs" / "sft"
    RunFolder.create(folder, SFT)
    update = {"event": "update", "smooth_loss": 2.0, "tokens_per_second": 50.0, "peak_memory": 7,
              "rate_scale": 0.8}  # fmt: skip
    evaluation = {"event": "evaluate", "evaluation_seconds": 1.0}
    log(folder, [
        evaluation | {"updates": 0, "loss": 3.0, "bits_per_byte": 1.5},
        update | {"updates": 1, "loss": 2.5, "targets": 30, "used": 6, "progress": 0.5,
                  "seconds": 4.0},
        update | {"updates": 2, "loss": 2.0, "targets": 20, "used": 12, "progress": 1.0,
                  "seconds": 8.0},
        evaluation | {"updates": 2, "loss": 2.25, "bits_per_byte": 1.125},
        {"event": "end", "updates": 2, "seconds": 8.0, "truncated": 1, "dropped": 2,
         "without_target": 3, "padding": 44},
    ])  # fmt: skip
    return folder


@pytest.fixture
def reinforced(tmp_path: Path) -> Path:
    """A run of reinforcement learning that goes on."""
    folder = tmp_path / "runs" / "rl"
    RunFolder.create(folder, RL)
    rounds = [
        {"event": "update", "updates": i, "loss": -0.1, "smooth_loss": -0.1, "reward": i / 100,
         "answer_tokens": 20.0, "questions_learned": 0.5, "tokens": 80, "rate_scale": 0.05,
         "tokens_per_second": 40.0, "seconds": 2.0 * i, "peak_memory": 9}
        for i in range(1, 21)
    ]  # fmt: skip
    log(folder, [
        {"event": "evaluate", "updates": 0, "pass@1": 0.0, "pass@2": 0.125,
         "evaluation_seconds": 1.0},
        *rounds,
    ])  # fmt: skip
    return folder


def report_of(*paths: Path) -> dict:
    return make_report(read_runs(paths), NOW)


def test_numbers_of_pretraining_follow_from_its_log_and_its_plan(base, tokenizer):
    (run,) = report_of(base)["runs"]
    plan = make_plan(2, tokenizer.vocab_size, 64, head_dim=64, batch_tokens=512, steps=4)
    assert run["asked"]["parameters"] == plan.parameters.total
    assert run["asked"]["tokens"] == plan.tokens == 2048
    assert run["asked"]["operations"] == plan.flops_per_token * 2048
    median = statistics.median([100.0, 400.0, 900.0, 1600.0])
    assert run["training"] == {
        "steps": 4, "tokens": 2048,
        "first_loss_nats_per_token": 5.0, "last_loss_nats_per_token": 2.0,
        "last_smooth_loss_nats_per_token": 2.5,
        "median_tokens_per_second": median, "mean_tokens_per_second": 2048 / 20,
        "operations_per_second": plan.flops_per_token * median,
        "training_seconds": 20.0, "validation_seconds": 5.0,
        "wall_clock_seconds": 72.0,  # 8 events, and 2 seconds until the first was written
        "peak_memory_bytes": 10**9 + 4, "last_logged_utc": "2026-11-18T11:07:50+00:00",
    }  # fmt: skip
    assert run["validation"] == [
        {"step": 0, "bits_per_byte": 3.5, "seconds": 2.0},
        {"step": 4, "bits_per_byte": 1.25, "seconds": 3.0},
    ]
    assert run["state"] == "finished"


def test_numbers_of_fine_tuning_follow_from_its_log(tuned):
    (run,) = report_of(tuned)["runs"]
    found = run["training"]
    assert found["target_tokens"] == 50
    assert found["conversations"] == 12
    assert found["padding_tokens"] == 44
    assert [each["loss_nats_per_token"] for each in run["validation"]] == [3.0, 2.25]
    text = page(report_of(tuned))
    assert "- validation loss: 3.0000 (step 0) to 2.2500 (step 2)" in text
    assert "1 conversations truncated, 2 dropped as too long, 3 without a target" in text


def test_reward_is_the_mean_of_the_first_and_last_tenth_of_the_rounds(reinforced):
    (run,) = report_of(reinforced)["runs"]
    assert run["training"]["mean_reward_first_tenth"] == pytest.approx(0.015)
    assert run["training"]["mean_reward_last_tenth"] == pytest.approx(0.195)
    assert run["training"]["answer_tokens"] == 1600
    assert run["validation"][0]["pass@2"] == 0.125


def test_the_settings_reported_are_those_that_the_commands_write():
    """A setting that is renamed would be reported as missing for ever."""

    def has(config: object, key: str) -> bool:
        name, _, rest = key.partition(".")
        return hasattr(config, name) and (not rest or has(getattr(config, name), rest))

    for config, names in zip((PRETRAIN, SFT, RL), numbers._SETTINGS.values(), strict=True):
        assert [key for key in names.values() if not has(config, key)] == []


def test_a_parent_folder_stands_for_its_runs_in_the_order_of_the_stages(base, tuned, reinforced):
    (base.parent / "tokenizer").mkdir()
    report = report_of(base.parent)
    assert [run["name"] for run in report["runs"]] == ["pretrain", "sft", "rl"]
    assert report == report_of(reinforced, base, tuned, base.parent)


def test_the_summary_has_a_column_for_each_stage(base, tuned, reinforced):
    chat = {"score": 0.1, "tasks": {"arc": TASK, "gsm8k": TASK | {"accuracy": 0.05}}}
    core = {"score": 0.2, "tasks": {"piqa": TASK}}
    (base / "evaluation.json").write_text(
        json.dumps({"bits_per_byte": 1.2, "core": core, "seconds": 9.5})
    )
    (tuned / "evaluation.json").write_text(json.dumps({"chat": chat}))
    report = report_of(base.parent)
    rows = {row.pop("metric"): row for row in report["summary"]}
    assert rows == {
        "bits_per_byte": {"BASE": 1.2, "SFT": None, "RL": None},
        "validation_bits_per_byte": {"BASE": 1.25, "SFT": 1.125, "RL": None},
        "core": {"BASE": 0.2, "SFT": None, "RL": None},
        "arc": {"BASE": None, "SFT": 0.4, "RL": None},
        "gsm8k": {"BASE": None, "SFT": 0.05, "RL": None},
        "validation_pass@1": {"BASE": None, "SFT": None, "RL": 0.0},
        "chatcore": {"BASE": None, "SFT": 0.1, "RL": None},
    }
    assert list(rows)[-1] == "chatcore"
    assert report["runs"][0]["evaluation"]["core"]["tasks"]["piqa"] == TASK
    assert report["total"]["wall_clock_seconds"] == pytest.approx(72 + 41 + 201 + 9.5)


def test_several_runs_of_a_stage_have_a_column_each(base, tmp_path):
    other = tmp_path / "runs" / "d6"
    RunFolder.create(other, PRETRAIN)
    columns = list(report_of(base, other)["summary"][0])
    assert columns == ["metric", "BASE d6", "BASE pretrain", "SFT", "RL"]


def test_runs_of_one_name_are_told_apart_by_the_folders_above(tmp_path):
    for parent in ("a", "b"):
        RunFolder.create(tmp_path / parent / "run", PRETRAIN)
    runs = read_runs([tmp_path / "a" / "run", tmp_path / "b"])
    assert [run.name for run in runs] == ["a/run", "b/run"]


def test_what_was_not_measured_is_said_to_be_missing(tmp_path):
    folder = tmp_path / "run"
    RunFolder.create(folder, PRETRAIN)
    (folder / "env.json").unlink()
    report = write_report_card([folder], folder, NOW)
    (run,) = report["runs"]
    assert run["state"] == "not started"
    assert (run["training"], run["evaluation"], run["samples"]) == (None, None, None)
    assert run["asked"]["parameters"] is None
    assert report["tokenizers"] == []
    assert [set(row.values()) for row in report["summary"]] == [
        {row["metric"], None} for row in report["summary"]
    ]
    text = (folder / "report.md").read_text()
    assert "**run has made no step yet.**" in text
    assert "- parameters: unknown" in text
    assert "- git commit: not recorded" in text
    assert "| CORE | - | - | - |" in text
    assert "## Fine-tuning\n\nNo run." in text
    assert not (folder / "curves.png").exists()


def test_a_run_without_its_end_is_marked_as_unfinished(base):
    log(base, pretraining_events(steps=3))
    report = report_of(base)
    assert report["runs"][0]["state"] == "unfinished"
    assert (
        "**pretrain is unfinished: 3 of 4 steps, last logged 2026-11-18 11:07 UTC. "
        "It was interrupted, or is still running.**"
    ) in page(report)
    log(base, [*pretraining_events(), END])
    assert "unfinished" not in page(report_of(base))


def test_a_run_resumed_after_its_end_is_unfinished_again(base):
    log(base, [*pretraining_events(), END, *pretraining_events()[1:2]])
    assert report_of(base)["runs"][0]["state"] == "unfinished"


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_a_log_cut_off_anywhere_has_the_events_before_the_cut(tmp_path, data):
    path = tmp_path / "metrics.jsonl"
    log(tmp_path, [*pretraining_events(), END])
    whole, content = read_events(path), path.read_bytes()
    cut = data.draw(st.integers(0, len(content)))
    path.write_bytes(content[:cut])
    events = read_events(path)
    assert events == whole[: len(events)]
    assert len(events) >= content[:cut].count(b"\n")


def test_the_report_depends_on_the_folders_alone(base, tuned, reinforced, tmp_path):
    outputs = [tmp_path / "one", tmp_path / "two"]
    for output in outputs:
        write_report_card([base.parent], output, NOW)
    for name in ("report.json", "report.md", "curves.png"):
        first, second = ((output / name).read_bytes() for output in outputs)
        assert first == second
    later = write_report_card([base.parent], outputs[0], NOW.replace(year=2027))
    earlier = json.loads((outputs[1] / "report.json").read_text())
    assert later["date_utc"] == "2027-11-21T21:30:00+00:00"
    assert later | {"date_utc": earlier["date_utc"]} == earlier
    assert sorted(path.name for path in outputs[0].iterdir()) == [
        "curves.png", "report.json", "report.md",
    ]  # fmt: skip


def test_bytes_per_token_are_those_of_the_same_tokenizer(base, tokenizer):
    rows = [{"source": "prose", "tokenizer": "this", "bytes": 8, "tokens": 4,
             "bytes_per_token": 2.0, "more_tokens": 0.0}]  # fmt: skip
    beside = base.parent / "tokenizer"
    tokenizer.save(beside)
    (beside / "tokenizer_report.json").write_text(json.dumps(rows))
    report = report_of(base)
    assert report["tokenizers"] == [
        {"runs": ["pretrain"], "vocabulary_tokens": tokenizer.vocab_size, "special_tokens": 9,
         "compression": rows}
    ]  # fmt: skip
    (beside / "tokenizer.json").write_text("that of another run")
    assert report_of(base)["tokenizers"][0]["compression"] is None


def test_runs_on_different_machines_are_listed_apart(base, tuned):
    environment = json.loads((tuned / "env.json").read_text())
    assert len(report_of(base.parent)["environments"]) == 1
    changed = environment | {"cpu_count": 96, "memory_bytes": 64 * 10**9}
    (tuned / "env.json").write_text(json.dumps(changed))
    del environment["memory_bytes"]  # as runs of earlier versions
    (base / "env.json").write_text(json.dumps(environment))
    report = report_of(base.parent)
    first, second = report["environments"]
    assert first["packages"]["mlx-trainer"] == environment["packages"]["mlx-trainer"]
    assert (second["runs"], second["cores"]) == (["sft"], 96)
    text = page(report)
    assert "\nsft:\n" in text
    assert "- memory: 64.00 GB" in text
    assert "- memory: not recorded" in text


def test_samples_cannot_break_the_page(base):
    said = "````text\n> Once upon\na time\nthere was\n\n> 2 + 2 =\n```five``` | six\n````\n"
    assert said in page(report_of(base))


def test_a_loss_that_was_not_finite_is_left_out(base):
    events = pretraining_events()
    events[-3] |= {"loss": None, "smooth_loss": None}
    log(base, events)
    report = report_of(base)
    assert report["runs"][0]["training"]["last_loss_nats_per_token"] is None
    assert "5.0000 at first, - at last" in page(report)
    figure = curves.draw(read_runs([base]))
    assert len(figure.axes[0].lines[0].get_xdata()) == 3


def test_curves_show_what_was_logged_against_tokens(base, tuned, reinforced):
    figure = curves.draw(read_runs([base.parent]))
    loss, bits, rate, tuning, reward = figure.axes[:5]
    assert loss.lines[0].get_xydata().tolist() == [
        [512, 5.0], [1024, 4.0], [1536, 3.0], [2048, 2.0],
    ]  # fmt: skip
    assert bits.lines[0].get_xydata().tolist() == [[0, 3.5], [2048, 1.25]]
    assert rate.lines[0].get_ydata().tolist() == [1, 1 / 2, 1 / 3, 1 / 4]
    assert tuning.lines[1].get_xydata().tolist() == [[0, 3.0], [2, 2.25]]
    assert len(reward.lines[0].get_xydata()) == 20


def test_names_of_runs_are_drawn_as_they_are_spelled(base, tmp_path):
    names = ["$10_$20", "_a_b^c", "$\\frac{1", "\U0001f600 " + 60 * "long"]
    for name in names:
        shutil.copytree(base, tmp_path / "odd" / name)
    write_report_card([tmp_path / "odd"], tmp_path / "card", NOW)
    assert (tmp_path / "card" / "curves.png").read_bytes().startswith(b"\x89PNG")
    (legend,) = [axes.get_legend() for axes in curves.draw(read_runs([tmp_path / "odd"])).axes[:1]]
    shown = {text.get_text() for text in legend.get_texts()}
    long = "\U0001f600 longlonglonglo…onglonglonglong"
    assert shown == {"$10_$20", " _a_b^c", "$\\frac{1", long}


def test_curves_that_cannot_be_drawn_leave_the_numbers(base, caplog):
    (base / "curves.png").mkdir()
    write_report_card([base], base, NOW)
    (line,) = [each for each in (base / "report.md").read_text().splitlines() if "figure" in each]
    assert line.startswith("the figure curves.png could not be drawn (IsADirectoryError: ")
    assert caplog.messages == [line]
    assert (base / "report.json").exists()


@dataclass(frozen=True)
class OtherConfig:
    data: dict = field(default_factory=dict)


def test_folders_that_are_no_runs_are_refused_in_one_line(tmp_path):
    def fails(path: Path, message: str) -> None:
        with pytest.raises(ValueError, match=f"^{re.escape(message.format(path=path))}$"):
            read_runs([path])

    fails(tmp_path / "no", "{path}: no such folder")
    fails(tmp_path, "{path}: neither a run (it has no config.yaml) nor a folder of runs")
    foreign = tmp_path / "foreign"
    RunFolder.create(foreign, OtherConfig())
    fails(foreign, "{path}: its config.yaml is not that of mlx-gpt train, sft or rl")
    lacking = tmp_path / "lacking"
    RunFolder.create(lacking, replace(PRETRAIN, training=stages.PretrainTraining()))
    fails(lacking, "{path}: its config.yaml has no training.steps")


def test_damaged_files_are_refused_with_their_names(base):
    def fails(message: str) -> None:
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            report_of(base)

    path = base / "evaluation.json"
    path.write_text('{"core": {"tasks": {}}}')
    fails(f"{base}: 'core' of evaluation.json is not from `mlx-gpt evaluate`: KeyError('score')")
    path.write_text("[]")
    fails(f"{path}: expected a JSON object, got list")
    log(base, pretraining_events())
    path.unlink()
    path = base / "metrics.jsonl"
    path.write_text('{"event": "upd\n' + path.read_text())
    fails(f"{path}:1: not JSON: Unterminated string starting at: line 1 column 11 (char 10)")
    path.write_text('{"fold": 1}\n')
    fails(f"{path}:1: not an event of a run of mlx-gpt: {{'fold': 1}}")
    path.unlink()
    path = base / "model" / "tokenizer_report.json"
    path.write_text("[3]")
    fails(
        f"{path}: not the output of `mlx-gpt tokenizer report --json`: "
        "TypeError(\"'int' object is not subscriptable\")"
    )


def test_the_command_writes_beside_the_run_and_prints_the_summary(base):
    result = CliRunner().invoke(command, [str(base)])
    assert result.exit_code == 0
    assert "| bits per byte, validation while training | 1.2500 | - | - |" in result.stdout
    assert result.stderr.strip() == str(base / "report.md")
    assert json.loads((base / "report.json").read_text())["format"] == 1
    assert (base / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_prints_the_report_as_json(base, tmp_path):
    result = CliRunner().invoke(command, [str(base), "--output", str(tmp_path / "out"), "--json"])
    assert json.loads(result.stdout) == json.loads((tmp_path / "out" / "report.json").read_text())


def test_several_runs_need_an_output(base, tuned):
    result = CliRunner().invoke(command, [str(base), str(tuned)])
    assert result.exit_code == 2
    assert "several runs need --output, the folder for their report" in result.stderr
