"""The losses of training: how far ours are from nanochat's, and what noise alone does to them."""

import statistics
import textwrap
from itertools import combinations
from pathlib import Path

from gpt.settings import NUDGED

PLOT = "gpt.png"
TITLES = {
    "nanochat": "nanochat",
    "nanochat-eager": "nanochat, not compiled",
    NUDGED: "nanochat, first weights changed by 1e-7",
    "ours": "mlx-gpt",
    "mlxchat-fastcpu": "mlxchat",
}
SAME = ("nanochat", "nanochat-eager", NUDGED)  # but for rounding
EARLY = 10  # steps, before rounding has grown
WITHIN = 1.5  # times the noise that a few runs of nanochat show
SMOOTHED = 5  # steps that a point of the plot is the mean of


def curve_lines(found: dict) -> list[str]:
    """Return the losses at the end, and how far the curves are apart."""
    losses = found["losses"]
    first, *others = losses
    tail = found["steps"] // 5
    lines = [
        f"| loss in nats a token | mean of the last {tail} steps | on held-out text |",
        "|---|---|---|",
    ]
    rows = [(title, losses[first][name]) for name, title in TITLES.items() if name in losses[first]]
    rows += [(f"nanochat, seed {seed} for weights and order", losses[seed]["nanochat"])
             for seed in others if "nanochat" in losses[seed]]  # fmt: skip
    for title, run in rows:
        last = statistics.mean(run["losses"][-tail:])
        lines.append(f"| {title} | {last:.4f} | {run['held_out']:.4f} |")
    if {"ours", "nanochat"} <= set(losses[first]):
        text = comparison(losses[first])
        lines += ["", *textwrap.wrap(text, 95, break_on_hyphens=False)]
    if "mlxchat-fastcpu" in losses[first]:
        scale = (found["rows"] * found["length"] / 2**19) ** 0.5
        text = (
            "mlxchat is an older model, whose rates stay as they are for small batches; "
            f"nanochat's and ours shrink with the root of the batch, here to {scale:.2f} of what "
            "they are for 2^19 tokens. Over so few steps that decides who is ahead."
        )
        lines += ["", *textwrap.wrap(text, 95, break_on_hyphens=False)]
    return lines


def comparison(runs: dict[str, dict]) -> str:
    """Say how far ours is from nanochat's runs, and those are from each other."""
    early = max(distances(runs["nanochat"], runs["ours"])[:EARLY])
    text = (
        "nanochat and mlx-gpt begin with the same weights and read the same batches. Their losses "
        f"of a step differ by at most {early:.1g} in the first {EARLY} steps."
    )
    same = [runs[name] for name in SAME if name in runs]
    if len(same) < 2:
        return text
    ours = max(statistics.mean(distances(each, runs["ours"])) for each in same)
    noise = max(statistics.mean(distances(a, b)) for a, b in combinations(same, 2))
    ends = [each["held_out"] for each in same]
    farthest = max(abs(end - runs["ours"]["held_out"]) for end in ends)
    spread = max(ends) - min(ends)
    within = ours <= WITHIN * noise and farthest <= WITHIN * spread
    return (
        f"{text} Later rounding grows: nanochat compiled, not compiled, and from first weights "
        f"that differ by 1e-7 of themselves, are up to {noise:.2g} apart (mean over the steps), "
        f"{spread:.2g} on held-out text; mlx-gpt is at most {ours:.2g} and {farthest:.2g} from any "
        "of the three: "
        f"{'within' if within else 'NOT within'} {WITHIN:g} times that noise."
    )


def distances(one: dict, other: dict) -> list[float]:
    return [abs(a - b) for a, b in zip(one["losses"], other["losses"], strict=True)]


def save_plot(found: dict, path: Path) -> None:
    """Draw the losses, and below how far runs are from nanochat's."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    first, *others = found["losses"].values()
    figure, (above, below) = pyplot.subplots(
        2, 1, figsize=(8, 7), sharex=True, height_ratios=(2, 1)
    )
    for number, run in enumerate(each["nanochat"] for each in others if "nanochat" in each):
        label = None if number else "nanochat, other seeds"
        draw(above, smooth(run["losses"]), label, color="C7", linewidth=0.8)
    styles = {
        "nanochat": {"color": "C0"},
        "nanochat-eager": {"color": "C4", "linewidth": 0.8},
        NUDGED: {"color": "C9", "linewidth": 0.8},
        "ours": {"color": "C1", "linestyle": "--"},
        "mlxchat-fastcpu": {"color": "C2"},
    }
    for name, style in styles.items():
        if name not in first:
            continue
        draw(above, smooth(first[name]["losses"]), TITLES[name], **style)
        if name in ("ours", *SAME[1:]) and "nanochat" in first:
            draw(below, distances(first["nanochat"], first[name]), TITLES[name], **style)
    above.set(ylabel=f"loss, nats a token, mean of {SMOOTHED} steps")
    above.legend()
    below.set(xlabel="step", ylabel="distance to nanochat", yscale="log")
    if below.lines:
        below.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def draw(axes, values: list[float], label: str | None, **style: object) -> None:
    axes.plot(range(1, len(values) + 1), values, label=label, **style)


def smooth(losses: list[float]) -> list[float]:
    """Return the mean of the last few losses at each step."""
    return [
        statistics.mean(losses[max(0, end - SMOOTHED) : end]) for end in range(1, len(losses) + 1)
    ]
