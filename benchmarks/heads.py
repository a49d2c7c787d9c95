"""mlx-heads beside PyTorch, coral-pytorch, scikit-learn and SciPy: losses, gradients, metrics.

    uv run --with torch --with coral-pytorch benchmarks/heads.py

Without torch only the committed fixtures are compared; with it also fresh random inputs. Writes
`docs/benchmarks/heads.md`, or prints the page with `--print`.
"""

import argparse
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tools"))

from heads.losses import LIVE_SEEDS, losses_table
from heads.metrics import metrics_table
from turns.processes import describe_machine

ROOT = Path(__file__).parents[1]
PACKAGES = ("mlx", "mlx-heads", "numpy", "torch", "coral-pytorch", "scikit-learn", "scipy")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--print", action="store_true", help="print the page; write nothing")
    options = parser.parse_args()
    if options.print:
        print(page())
    else:
        (ROOT / "docs" / "benchmarks" / "heads.md").write_text(page())


def page() -> str:
    """Return the page."""
    about = describe_machine(*PACKAGES)
    lines = [
        *("# mlx-heads", "", "Written by `benchmarks/heads.py`.", ""),
        *("## Losses", "", *losses_table(), "", *legend()),
        *("", "## Metrics", "", *metrics_table(), ""),
        "Metrics are float64. A difference of 0 to scikit-learn is often a call of that function:",
        "the table then shows that inputs, weights and averages reach it as they should.",
        *("", f"{about['machine']}; {about['versions']}; {about['date']}.", ""),
    ]
    return "\n".join(lines)


def legend() -> list[str]:
    """Say what the table of losses compares."""
    return [
        "Losses are float32, references float64 of the same float32 inputs: outputs up to 1e4,",
        "class weights, label smoothing, ignored targets, sample weights and reductions. A",
        "difference is divided by the size of the number where that is above 1. Random inputs are",
        f"{len(LIVE_SEEDS)} other seeds of the generator of the fixtures (`tools/heads_losses`).",
        "",
        "Differences above 1e-6 are bold: gradients of embeddings whose logits are of size 20, or",
        "10, which float32 rounds by 1e-6. They are within 1e-6 of the largest gradient. Where no",
        "package is named, the reference is the formula of the paper, written in torch.",
    ]


if __name__ == "__main__":
    main()
