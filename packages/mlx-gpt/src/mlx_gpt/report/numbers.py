"""The settings of a run and the results in its log; units are in the names.

A number that a run did not log is None, or its key is missing.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from statistics import fmean, median
from typing import Any

from mlx_gpt.report.runs import Json, Run
from mlx_gpt.training.plan import Plan, make_plan

# The reported settings: name in the report, key in the configuration.
_SETTINGS = {
    "pretrain": {
        "depth_layers": "model.depth",
        "sequence_tokens": "model.sequence_len",
        "window_pattern": "model.window_pattern",
        "batch_tokens": "training.batch_tokens",
        "steps": "training.steps",
        "train_data": "data.train",
        "validation_data": "data.valid",
        "learning_rate": "training.learning_rate",
        "dtype": "model.dtype",
        "seed": "training.seed",
    },
    "sft": {
        "base_model": "model",
        "train_data": "data.train",
        "validation_data": "data.valid",
        "epochs": "training.epochs",
        "sequence_tokens": "training.sequence_len",
        "batch_tokens": "training.batch_tokens",
        "learning_rate": "training.learning_rate",
        "dtype": "training.dtype",
        "seed": "training.seed",
    },
    "rl": {
        "base_model": "model",
        "train_data": "data.train",
        "validation_data": "data.valid",
        "epochs": "training.epochs",
        "questions_per_step": "answers.questions",
        "answers_per_question": "answers.samples",
        "most_tokens_per_answer": "answers.max_tokens",
        "temperature": "answers.temperature",
        "top_k": "answers.top_k",
        "learning_rate": "training.learning_rate",
        "dtype": "training.dtype",
        "seed": "training.seed",
    },
}


def settings(run: Run, vocabulary: int | None) -> Json:
    """Return the settings of a run; for pretraining also the sizes of its plan.

    The sizes need the number of tokens in the `vocabulary`; without it they are None.
    """
    found = {name: run.setting(key) for name, key in _SETTINGS[run.stage].items()}
    if run.stage != "pretrain":
        return found
    plan = _plan(run, vocabulary) if vocabulary else None
    return found | {
        "tokens": found["steps"] * found["batch_tokens"],
        "width": plan and plan.config.n_embd,
        "vocabulary_tokens": vocabulary,
        "parameters": plan and plan.parameters.total,
        "scaling_parameters": plan and plan.parameters.scaling,
        "tokens_per_scaling_parameter": plan and plan.tokens_per_parameter,
        "operations_per_token": plan and plan.flops_per_token,
        "operations": plan and plan.flops_per_token * plan.tokens,
    }


def _plan(run: Run, vocabulary: int) -> Plan:
    model, training = run.config["model"], run.config["training"]
    sizes = ("depth", "sequence_len", "window_pattern", "width_per_layer", "head_dim")
    lengths = ("tokens_per_parameter", "batch_tokens", "steps")
    return make_plan(
        **{name: model[name] for name in sizes},
        **{name: training[name] for name in lengths},
        vocab_size=vocabulary,
        n_kv_head=model.get("n_kv_head"),
    )


def training(run: Run, asked: Json) -> Json | None:
    """Return the results of training, None before the first update."""
    updates = run.of("update")
    if not updates:
        return None
    last = updates[-1]
    speeds = _numbers(updates, "tokens_per_second")
    found = {
        "steps": last["updates"],
        "training_seconds": last.get("seconds"),
        "validation_seconds": sum(_numbers(run.of("evaluate"), "evaluation_seconds")),
        "wall_clock_seconds": wall_clock_seconds(run.events),
        "last_logged_utc": utc(run.events[-1]["time"]),
        "median_tokens_per_second": median(speeds) if speeds else None,
        "peak_memory_bytes": max(_numbers(updates, "peak_memory"), default=None),
    }
    return found | {"pretrain": _pretrain, "sft": _sft, "rl": _rl}[run.stage](
        run, updates, found, asked
    )


def _pretrain(run: Run, updates: list[Json], found: Json, asked: Json) -> Json:
    tokens = found["steps"] * asked["batch_tokens"]
    return _losses(updates) | {
        "tokens": tokens,
        "mean_tokens_per_second": _ratio(tokens, found["training_seconds"]),
        "operations_per_second": _product(
            asked["operations_per_token"], found["median_tokens_per_second"]
        ),
    }


def _sft(run: Run, updates: list[Json], found: Json, asked: Json) -> Json:
    packing = run.events[-1] if run.state == "finished" else {}
    return _losses(updates) | {
        "conversations": updates[-1].get("used"),
        "target_tokens": sum(_numbers(updates, "targets")),
        "progress": updates[-1].get("progress"),
        "truncated_conversations": packing.get("truncated"),
        "dropped_conversations": packing.get("dropped"),
        "conversations_without_target": packing.get("without_target"),
        "padding_tokens": packing.get("padding"),
    }


def _rl(run: Run, updates: list[Json], found: Json, asked: Json) -> Json:
    rewards = _numbers(updates, "reward")
    tenth = -(-len(rewards) // 10)  # a single round is noise
    return {
        "mean_reward_first_tenth": fmean(rewards[:tenth]) if rewards else None,
        "mean_reward_last_tenth": fmean(rewards[-tenth:]) if rewards else None,
        "answer_tokens": sum(_numbers(updates, "tokens")),
        "mean_tokens_per_answer": _mean(_numbers(updates, "answer_tokens")),
        "mean_share_of_questions_learned": _mean(_numbers(updates, "questions_learned")),
    }


def _losses(updates: list[Json]) -> Json:
    return {
        "first_loss_nats_per_token": updates[0].get("loss"),
        "last_loss_nats_per_token": updates[-1].get("loss"),
        "last_smooth_loss_nats_per_token": updates[-1].get("smooth_loss"),
    }


def validations(run: Run) -> list[Json]:
    """Return the evaluations during training in order, their keys renamed to include units."""
    names = {"loss": "loss_nats_per_token", "updates": "step", "evaluation_seconds": "seconds"}
    hidden = ("event", "time")
    return [
        {names.get(key, key): value for key, value in event.items() if key not in hidden}
        for event in run.of("evaluate")
    ]


def samples(run: Run) -> Json | None:
    """Return the last samples of the run, None without any."""
    events = run.of("sample")
    if not events:
        return None
    pairs = [{"prompt": prompt, "text": text} for prompt, text in events[-1]["samples"]]
    return {"step": events[-1]["updates"], "texts": pairs}


def wall_clock_seconds(events: Sequence[Json]) -> float:
    """Return the time from the beginning of a log to its end, including pauses before resumes."""
    first = events[0]
    # A line is written after the work that it reports.
    began = first["time"] - (first.get("evaluation_seconds") or first.get("seconds") or 0.0)
    return events[-1]["time"] - began


def utc(time: float) -> str:
    """Return Unix seconds as ISO text."""
    return datetime.fromtimestamp(time, UTC).isoformat(timespec="seconds")


def _numbers(events: list[Json], key: str) -> list[float]:
    """Return the values of a key that are finite; others are null in a log."""
    return [event[key] for event in events if event.get(key) is not None]


def _mean(values: list[float]) -> float | None:
    return fmean(values) if values else None


def _product(left: Any, right: Any) -> Any:
    return None if left is None or right is None else left * right


def _ratio(left: Any, right: Any) -> Any:
    return left / right if left is not None and right else None
