"""The report as a page of Markdown."""

from mlx_gpt.report.run_section import section_of, steps_of
from mlx_gpt.report.runs import Json
from mlx_gpt.report.words import ABSENT, bullets, gigabytes, moment, number, plain, table, time

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
    lines = ["# Report card", "", moment(report["date_utc"]), "", "## Summary", ""]
    lines += summary_table(report)
    lines += ["", f"{ABSENT}: not measured. CORE and ChatCORE are means over the tasks that were "
              "asked, listed below, where guessing is 0 and perfection is 1."]  # fmt: skip
    if any(run["stage"] == "sft" and run["validation"] for run in runs):
        lines += ["Validation of fine-tuning reads answers, that of pretraining text."]
    lines += _unfinished(runs)
    if curves:
        lines += ["", curves]
    lines += ["", "## Machine", *_machines(report["environments"], len(runs))]
    lines += ["", "## Tokenizer", *_tokenizers(report["tokenizers"], len(runs))]
    for stage, title in TITLES.items():
        of_stage = [run for run in runs if run["stage"] == stage]
        for run in of_stage:
            lines += ["", f"## {title}: {plain(run['name'])}", *section_of(run)]
        if not of_stage:
            lines += ["", f"## {title}", "", "No run."]
    lines += ["", "## Time", "", *_times(report)]
    return "\n".join(lines) + "\n"


def summary_table(report: Json) -> list[str]:
    """Return the lines of the table of all metrics."""
    labels = [key for key in report["summary"][0] if key != "metric"]
    rows = [
        [_METRICS.get(row["metric"], row["metric"]), *(number(row[label]) for label in labels)]
        for row in report["summary"]
    ]
    return table(["metric", *labels], rows)


def _unfinished(runs: list[Json]) -> list[str]:
    lines = []
    for run in runs:
        name = plain(run["name"])
        if run["state"] == "not started":
            lines += ["", f"**{name} made no step yet.**"]
        elif run["state"] == "unfinished":
            last = moment(run["training"]["last_logged_utc"])
            lines += ["", f"**{name} is unfinished: {steps_of(run)}, last heard of {last}. "
                      "It was interrupted, or is still running.**"]  # fmt: skip
    return lines


def _machines(environments: list[Json], count: int) -> list[str]:
    lines = []
    for each in environments:
        packages = [f"{name} {version}" for name, version in each["packages"].items()]
        lines += _whose(each, count) + bullets({
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
        return ["", "Not known: no run has its model yet, or the tokenizer that it was given."]
    lines = []
    for each in tokenizers:
        special = f"{each['vocabulary_tokens']:,}, {each['special_tokens']} of them special"
        lines += _whose(each, count) + bullets({"vocabulary": special})
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
    header = ["run", "training", "validation", "by the clock", "evaluation"]
    total = time(report["total"]["wall_clock_seconds"])
    return [
        *table(header, rows),
        "",
        f"Total: {total} by the clock, evaluations included. The clock also counts samples, "
        "checkpoints, and pauses before a run was resumed.",
    ]


def _whose(group: Json, count: int) -> list[str]:
    """Say which runs a group is about, unless it is about all."""
    if len(group["runs"]) == count:
        return []
    return ["", f"Of {', '.join(map(plain, group['runs']))}:"]
