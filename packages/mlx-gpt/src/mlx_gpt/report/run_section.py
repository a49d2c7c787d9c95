"""The part of the page about one run: what was asked, what came of it, how good it is."""

import re

from mlx_gpt.report.runs import Json
from mlx_gpt.report.words import bullets, gigabytes, number, plain, table, time


def section_of(run: Json) -> list[str]:
    """Return the lines about a run of `report.json`."""
    lines = ["", "### What was asked", *bullets(_asked(run), "not known")]
    lines += ["", "### Training"]
    lines += bullets(_training(run)) if run["training"] else ["", "No step was made."]
    lines += ["", "### Evaluation", *_evaluation(run["evaluation"])]
    lines += ["", "### Samples", *_samples(run["samples"])]
    return lines


def _asked(run: Json) -> Json:
    shown = {
        key.replace("_", " "): f"{value:g}" if isinstance(value, float) else value
        for key, value in run["asked"].items()
    }
    if not shown["validation data"]:
        held_out = "the last shard of the training data"
        shown["validation data"] = held_out if run["stage"] == "pretrain" else "none"
    if shown.get("operations"):
        shown["operations"] = f"{shown['operations']:.3g}"
    return shown


def _training(run: Json) -> Json:
    found = run["training"]
    shown: Json = {"state": f"{run['state']} after {steps_of(run)}"}
    shown |= {"pretrain": _pretrained, "sft": _tuned, "rl": _reinforced}[run["stage"]](run, found)
    rate = found.get("operations_per_second")
    return shown | {
        "speed": _speed(found),
        **({"operations per second": f"{rate:.3g}"} if rate else {}),
        "time of training": time(found["training_seconds"]),
        "time of validation": time(found["validation_seconds"]),
        "peak memory": gigabytes(found["peak_memory_bytes"]),
    }


def _pretrained(run: Json, found: Json) -> Json:
    return {
        "tokens": found["tokens"],
        "training loss": _loss(found),
        "bits per byte of validation": _first_and_last(run, "bits_per_byte"),
    }


def _tuned(run: Json, found: Json) -> Json:
    packing = None
    if found["truncated_conversations"] is not None:
        packing = (
            f"{found['truncated_conversations']:,} conversations cut, "
            f"{found['dropped_conversations']:,} left out as too long, "
            f"{found['conversations_without_target']:,} as without a target; "
            f"{found['padding_tokens']:,} tokens of padding"
        )
    return {
        "conversations": found["conversations"],
        "tokens learned from": found["target_tokens"],
        "packing": packing,
        "training loss": _loss(found),
        "validation loss": _first_and_last(run, "loss_nats_per_token"),
        "bits per byte of validation": _first_and_last(run, "bits_per_byte"),
    }


def _reinforced(run: Json, found: Json) -> Json:
    measured = run["validation"][-1] if run["validation"] else {}
    passes = {f"{key} of validation": _first_and_last(run, key)
              for key in measured if key.startswith("pass@")}  # fmt: skip
    return {
        "mean reward": f"{number(found['mean_reward_first_tenth'])} in the first tenth of the "
        f"steps, {number(found['mean_reward_last_tenth'])} in the last",
        **(passes or {"pass@1 of validation": None}),
        "tokens of answers": found["answer_tokens"],
        "tokens per answer": number(found["mean_tokens_per_answer"], 1),
        "share of questions learned from": found["mean_share_of_questions_learned"],
    }


def _speed(found: Json) -> str | None:
    median, mean = found["median_tokens_per_second"], found.get("mean_tokens_per_second")
    if median is None:
        return None
    return f"{median:,.0f} tokens/s, the median of the steps" + (
        f"; {mean:,.0f} over all of them" if mean else ""
    )


def _loss(found: Json) -> str:
    first, last, smooth = (
        number(found[f"{name}_loss_nats_per_token"]) for name in ("first", "last", "last_smooth")
    )
    return f"{first} at first, {last} at last ({smooth} smoothed), nats per token"


def _first_and_last(run: Json, key: str) -> str | None:
    measured = [each for each in run["validation"] if each.get(key) is not None]
    if not measured:
        return None
    ends = measured if len(measured) == 1 else [measured[0], measured[-1]]
    return " to ".join(f"{each[key]:.4f} (step {each['step']:,})" for each in ends)


def steps_of(run: Json) -> str:
    """Return how many steps a run made, and how many were asked for where that is known."""
    training, asked = run["training"], run["asked"].get("steps")
    if asked:
        return f"{training['steps']:,} of {asked:,} steps"
    progress = training.get("progress")
    share = f", {progress:.1%} of the conversations" if progress is not None else ""
    return f"{training['steps']:,} steps{share}"


def _evaluation(evaluation: Json | None) -> list[str]:
    if not evaluation:
        return ["", "Not measured."]
    lines = [] if evaluation.get("bits_per_byte") is None else [
        "", f"Bits per byte: {evaluation['bits_per_byte']:.4f}"
    ]  # fmt: skip
    for section, score in (("core", "CORE"), ("chat", "ChatCORE")):
        if section not in evaluation:
            continue
        rows = [
            [name, task.get("type"), task.get("examples"), number(task["accuracy"]),
             number(task["baseline"]), number(task["centered"])]
            for name, task in evaluation[section]["tasks"].items()
        ]  # fmt: skip
        rows.append([f"**{score}**", "", "", "", "", f"**{evaluation[section]['score']:.4f}**"])
        header = ["task", "type", "questions", "accuracy", "guessing", "centered"]
        lines += ["", *table(header, rows)]
        for name, task in evaluation[section]["tasks"].items():
            rates = [f"pass@{k} {rate:.4f}" for k, rate in task.get("pass_at", {}).items()]
            lines += ["", f"{plain(name)}: {', '.join(rates)}"] if rates else []
    return lines


def _samples(samples: Json | None) -> list[str]:
    if not samples:
        return ["", "None were made."]
    texts = [
        f"> {each['prompt']}\n{each['text'].strip() or '(nothing)'}" for each in samples["texts"]
    ]
    body = "\n\n".join(texts)
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", body)), default=0))
    return ["", f"Greedy, at step {samples['step']:,}.", "", f"{fence}text", body, fence]
