"""docs/benchmarks/tabular.md from the kept results."""

import numpy as np

from tabular.tables import TABLES

HEAD = """# mlx-tabular

Written by `benchmarks/tabular.py`: mean and standard deviation of the score over three seeds, and
the median time and memory; each fit in a process of its own. adult has its test file; of the
others a fifth of the rows is held out, another fifth for each seed. Both TabM have the same
settings (those of mlx-kaggle: k = 16, 2 blocks of 128, width 8 of embeddings, 48 bins, batch 256,
patience 8), columns and rows to stop early on. scikit-learn's models have their defaults; the MLP
has two layers of 256 and early stopping.
"""


def page(results: dict) -> str:
    """Return the page."""
    lines = [HEAD]
    for name, runs in results["tables"].items():
        metric = TABLES[name][2]
        lines += [f"## {name}", "", f"| model | {metric} | seconds | epochs | seconds an epoch | "
                  "peak MiB |", "|---|---|---|---|---|---|"]  # fmt: skip
        lines += [row(model, each) for model, each in runs.items() if each]
        lines += ["", *ratio(runs)]
    machine = results["machine"]
    lines += ["## Machine", "", *(f"- {key}: {value}" for key, value in machine.items())]
    return "\n".join(lines) + "\n"


def row(model: str, runs: list[dict]) -> str:
    """Return one line of a table."""
    scores = [each["score"] for each in runs]
    cells = [model, f"{np.mean(scores):.4g} ({np.std(scores):.2g})"]
    for name, digits in (("seconds", 1), ("epochs", 0), ("epoch_seconds", 2), ("memory_mib", 0)):
        found = [each[name] for each in runs if name in each]
        cells.append(f"{np.median(found):.{digits}f}" if found else "")
    return f"| {' | '.join(cells)} |"


def ratio(runs: dict[str, list[dict]]) -> list[str]:
    """Return a line on the time of one epoch against torch's."""
    if not runs.get("mlx-tabular") or not runs.get("torch TabM"):
        return []
    ours, theirs = (
        np.median([each["epoch_seconds"] for each in runs[name]])
        for name in ("mlx-tabular", "torch TabM")
    )
    threads = runs["mlx-tabular"][0].get("threads", 2)
    return [
        f"An epoch takes {ours / theirs:.2f} times as long as torch's (threads: {threads}).",
        "",
    ]
