"""The part of `docs/benchmarks/muon.md` about training, and its plot."""

import statistics
from pathlib import Path

PLOT = "muon-training.png"


def summarize(found: dict[str, dict], every: int) -> dict:
    """Return losses with the loss to reach, AdamW's mean at the end, and the steps to it."""
    target = statistics.mean(curve[-1] for curve in found["AdamW"]["losses"])
    for each in found.values():
        each["steps"] = [steps_to(target, curve, every) for curve in each["losses"]]
    return {"target": target, "every": every, "optimizers": found}


def steps_to(target: float, losses: list[float], every: int) -> float | None:
    """Return the step at which the loss crosses `target`, between two checks by a line."""
    for index, loss in enumerate(losses):
        if loss <= target:
            if index == 0:
                return float(every)
            before = losses[index - 1]
            return every * (index + (before - target) / (before - loss))
    return None


def training_lines(training: dict) -> list[str]:
    """Return the table of steps and losses."""
    found, every = training["optimizers"], training["every"]
    steps = every * len(found["AdamW"]["losses"][0])
    lines = [
        "## Steps to a loss",
        "",
        "A character-level GPT (3 layers of 96, 0.3 million weights) on tinyshakespeare, 16 rows",
        f"of 64 characters a step, {steps} steps, the rate warmed up over 30 and falling to a",
        "tenth. Each optimizer's rate is the best of the same grid, by one run with seed 0; below",
        f"are three runs with other seeds. The loss to reach, {training['target']:.4f} nats a",
        "character on held-out text, is what AdamW ends with on average.",
        "",
        "| | rate | steps to that loss | loss at the end |",
        "|---|---|---|---|",
    ]
    for name, each in found.items():
        edge = ", end of the grid" if each["at_edge"] else ""
        ends = [losses[-1] for losses in each["losses"]]
        reached = [format(value, ".0f") if value else "never" for value in each["steps"]]
        known = [value for value in each["steps"] if value]
        mean = f" (mean {statistics.mean(known):.0f})" if len(known) == len(reached) else ""
        spread = statistics.stdev(ends)
        lines.append(
            f"| {name} | {each['rate']:g}{edge} | {', '.join(reached)}{mean} | "
            f"{statistics.mean(ends):.4f} ± {spread:.4f} |"
        )
    note = "± is the standard deviation over the three seeds."
    return [*lines, "", note, "", f"![Held-out loss over steps]({PLOT})"]


def save_plot(training: dict, path: Path) -> None:
    """Draw the mean held-out loss of each optimizer over the steps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5))
    for index, (name, each) in enumerate(training["optimizers"].items()):
        mean = [statistics.mean(losses) for losses in zip(*each["losses"], strict=True)]
        steps = [training["every"] * (position + 1) for position in range(len(mean))]
        style = "-" if name.startswith("mlx_muon") else "--"
        axes.plot(steps, mean, style, label=f"{name}, {each['rate']:g}", color=f"C{index}")
    axes.axhline(training["target"], color="gray", linewidth=0.8)
    axes.set(xlabel="step", ylabel="held-out loss, nats a character", ylim=(1.6, 2.6))
    axes.set_title("tinyshakespeare, mean of 3 seeds, each at its best rate of the grid")
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
