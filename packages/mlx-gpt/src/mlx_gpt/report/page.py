"""The report as a page of Markdown: summary, machine, tokenizer, a section per run, times."""

import re

from mlx_gpt.report.markdown import (
    ABSENT,
    bullets,
    format_number,
    gigabytes,
    minutes,
    one_line,
    table,
    time,
)
from mlx_gpt.report.runs import Json

TITLES = {"pretrain": "Pretraining", "sft": "Fine-tuning", "rl": "Reinforcement learning"}
_METRICS = {
    "bits_per_byte": "bits per byte",
    "validation_bits_per_byte": "bits per byte, validation while training",
    "core": "CORE",
    "gsm8k": "GSM8K",
    "validation_pass@1": "pass@1, validation while training",
    "chatcore": "ChatCORE",
}


def page(report: Json, curves: str | None = None) -> str:
    """Return a report of `make_report` as Markdown; `curves` is the line for the figure."""
    runs = report["runs"]
    lines = ["# Report card", "", minutes(report["date_utc"]), "", "## Summary", ""]
    lines += summary_table(report)
    lines += ["", f"{ABSENT}: not measured. CORE and ChatCORE are means over the tasks below, "
              "scaled so that guessing is 0 and perfection is 1."]  # fmt: skip
    if any(run["stage"] == "sft" and run["validation"] for run in runs):
        lines += ["Fine-tuning is validated on answers, pretraining on text."]
    lines += _unfinished(runs)
    if curves:
        lines += ["", curves]
    lines += ["", "## Machine", *_machines(report["environments"], len(runs))]
    lines += ["", "## Tokenizer", *_tokenizers(report["tokenizers"], len(runs))]
    for stage, title in TITLES.items():
        of_stage = [run for run in runs if run["stage"] == stage]
        for run in of_stage:
            lines += ["", f"## {title}: {one_line(run['name'])}", *_run_section(run)]
        if not of_stage:
            lines += ["", f"## {title}", "", "No run."]
    lines += ["", "## Time", "", *_times(report)]
    return "\n".join(lines) + "\n"


def summary_table(report: Json) -> list[str]:
    """Return the lines of the table of all metrics."""
    labels = [key for key in report["summary"][0] if key != "metric"]
    rows = [
        [
            _METRICS.get(row["metric"], row["metric"]),
            *(format_number(row[label]) for label in labels),
        ]
        for row in report["summary"]
    ]
    return table(["metric", *labels], rows)


def _unfinished(runs: list[Json]) -> list[str]:
    lines = []
    for run in runs:
        name = one_line(run["name"])
        if run["state"] == "not started":
            lines += ["", f"**{name} has made no step yet.**"]
        elif run["state"] == "unfinished":
            last = minutes(run["training"]["last_logged_utc"])
            lines += ["", f"**{name} is unfinished: {_steps(run)}, last logged {last}. "
                      "It was interrupted, or is still running.**"]  # fmt: skip
    return lines


def _machines(environments: list[Json], count: int) -> list[str]:
    lines = []
    for each in environments:
        packages = [f"{name} {version}" for name, version in each["packages"].items()]
        lines += _run_names(each, count) + bullets({
            "platform": each["platform"],
            "device": each["device"],
            "cores": each["cores"],
            "memory": gigabytes(each["memory_bytes"]),
            "Python": each["python"],
            "packages": ", ".join(packages) or None,
            "git commit": each["git_commit"],
        }, "not recorded")  # fmt: skip
    return lines


def _tokenizers(tokenizers: list[Json], count: int) -> list[str]:
    if not tokenizers:
        return ["", "Unknown: no run has a model yet, or its original tokenizer."]
    lines = []
    for each in tokenizers:
        special = f"{each['vocabulary_tokens']:,}, {each['special_tokens']} of them special"
        lines += _run_names(each, count) + bullets({"vocabulary": special})
        if not each["compression"]:
            lines += ["- bytes per token: not measured"]
            continue
        rows = [
            [row.get("source"), row.get("tokenizer"), f"{row['bytes_per_token']:.3f}"]
            for row in each["compression"]
        ]
        lines += ["", *table(["text", "tokenizer", "bytes per token"], rows)]
    return lines


def _times(report: Json) -> list[str]:
    rows = []
    for run in report["runs"]:
        training, evaluation = run["training"] or {}, run["evaluation"] or {}
        seconds = [training.get(f"{name}_seconds") for name in
                   ("training", "validation", "wall_clock")]  # fmt: skip
        seconds.append(evaluation.get("evaluation_seconds"))
        rows.append([run["name"], *(time(each) or ABSENT for each in seconds)])
    header = ["run", "training", "validation", "wall clock", "evaluation"]
    total = time(report["total"]["wall_clock_seconds"])
    return [
        *table(header, rows),
        "",
        f"Total: {total} of wall-clock time with evaluations. Wall-clock time includes samples, "
        "checkpoints and pauses before a resume.",
    ]


def _run_names(group: Json, count: int) -> list[str]:
    """Return lines with the names of a group's runs, no lines if it has all runs."""
    if len(group["runs"]) == count:
        return []
    return ["", f"{', '.join(map(one_line, group['runs']))}:"]


def _run_section(run: Json) -> list[str]:
    """Return the lines about a run of `report.json`."""
    lines = ["", "### Settings", *bullets(_settings(run), "unknown")]
    lines += ["", "### Training"]
    lines += bullets(_training(run)) if run["training"] else ["", "No step was made."]
    lines += ["", "### Evaluation", *_evaluation(run["evaluation"])]
    lines += ["", "### Samples", *_samples(run["samples"])]
    return lines


def _settings(run: Json) -> Json:
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
    shown: Json = {"state": f"{run['state']} after {_steps(run)}"}
    shown |= {"pretrain": _pretrain, "sft": _sft, "rl": _rl}[run["stage"]](run, found)
    rate = found.get("operations_per_second")
    return shown | {
        "speed": _speed(found),
        **({"operations per second": f"{rate:.3g}"} if rate else {}),
        "training time": time(found["training_seconds"]),
        "validation time": time(found["validation_seconds"]),
        "peak memory": gigabytes(found["peak_memory_bytes"]),
    }


def _pretrain(run: Json, found: Json) -> Json:
    return {
        "tokens": found["tokens"],
        "training loss": _loss(found),
        "validation bits per byte": _first_and_last(run, "bits_per_byte"),
    }


def _sft(run: Json, found: Json) -> Json:
    packing = None
    if found["truncated_conversations"] is not None:
        packing = (
            f"{found['truncated_conversations']:,} conversations truncated, "
            f"{found['dropped_conversations']:,} dropped as too long, "
            f"{found['conversations_without_target']:,} without a target; "
            f"{found['padding_tokens']:,} padding tokens"
        )
    return {
        "conversations": found["conversations"],
        "target tokens": found["target_tokens"],
        "packing": packing,
        "training loss": _loss(found),
        "validation loss": _first_and_last(run, "loss_nats_per_token"),
        "validation bits per byte": _first_and_last(run, "bits_per_byte"),
    }


def _rl(run: Json, found: Json) -> Json:
    measured = run["validation"][-1] if run["validation"] else {}
    passes = {f"validation {key}": _first_and_last(run, key)
              for key in measured if key.startswith("pass@")}  # fmt: skip
    first, last = (format_number(found[f"mean_reward_{each}_tenth"]) for each in ("first", "last"))
    return {
        "mean reward": f"{first} in the first tenth of the steps, {last} in the last",
        **(passes or {"validation pass@1": None}),
        "answer tokens": found["answer_tokens"],
        "tokens per answer": format_number(found["mean_tokens_per_answer"], 1),
        "share of questions learned from": found["mean_share_of_questions_learned"],
    }


def _speed(found: Json) -> str | None:
    median, mean = found["median_tokens_per_second"], found.get("mean_tokens_per_second")
    if median is None:
        return None
    return f"{median:,.0f} tokens/s, median of the steps" + (
        f"; {mean:,.0f} over all" if mean else ""
    )


def _loss(found: Json) -> str:
    first, last, smooth = (
        format_number(found[f"{name}_loss_nats_per_token"])
        for name in ("first", "last", "last_smooth")
    )
    return f"{first} at first, {last} at last ({smooth} smoothed), nats per token"


def _first_and_last(run: Json, key: str) -> str | None:
    measured = [each for each in run["validation"] if each.get(key) is not None]
    if not measured:
        return None
    ends = measured if len(measured) == 1 else [measured[0], measured[-1]]
    return " to ".join(f"{each[key]:.4f} (step {each['step']:,})" for each in ends)


def _steps(run: Json) -> str:
    """Return the steps of a run, and the planned number if it is known."""
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
            [name, task.get("type"), task.get("examples"), format_number(task["accuracy"]),
             format_number(task["baseline"]), format_number(task["centered"])]
            for name, task in evaluation[section]["tasks"].items()
        ]  # fmt: skip
        rows.append([f"**{score}**", "", "", "", "", f"**{evaluation[section]['score']:.4f}**"])
        header = ["task", "type", "questions", "accuracy", "guessing", "centered"]
        lines += ["", *table(header, rows)]
        for name, task in evaluation[section]["tasks"].items():
            rates = [f"pass@{k} {rate:.4f}" for k, rate in task.get("pass_at", {}).items()]
            lines += ["", f"{one_line(name)}: {', '.join(rates)}"] if rates else []
    return lines


def _samples(samples: Json | None) -> list[str]:
    if not samples:
        return ["", "None."]
    texts = [
        f"> {each['prompt']}\n{each['text'].strip() or '(nothing)'}" for each in samples["texts"]
    ]
    body = "\n\n".join(texts)
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", body)), default=0))
    return ["", f"Greedy, at step {samples['step']:,}.", "", f"{fence}text", body, fence]
