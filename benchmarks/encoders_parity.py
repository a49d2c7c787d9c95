"""Encoders and task models of mlx-encoders beside transformers: values and gradients.

    nox -s parity [-- --minilm DIR]

Random weights (normal, spread 0.02 as initialized and 0.3, which amplifies errors), all classes,
paddings and dtypes; NeoBERT beside `tools/neobert_torch.py`, which must be on PYTHONPATH. Saved
folders are loaded by transformers and, where installed, by mlx-embeddings. Writes
docs/benchmarks/encoders-parity.md, and fails where a difference is above its limit.
"""

import argparse
import logging
from collections.abc import Iterable
from pathlib import Path

import transformers
from encoders.parity import HALF, compare_half, compare_other_arguments, compare_task
from encoders.parity_peers import defects, real_model, round_trips
from encoders.random_models import FAMILIES
from turns.processes import describe_machine

DOCS = Path(__file__).parent.parent / "docs" / "benchmarks"
PACKAGES = ("mlx", "mlx-encoders", "torch", "transformers", "mlx-embeddings")
LIMITS = {0.02: 1e-5, 0.3: 1e-4}  # by the spread of the weights
HALF_LIMIT = 3.0  # times the error of PyTorch in the same dtype
# mlx-embeddings has GELU by tanh in ModernBERT: its error, not that of the saved folder.
PEER_LIMITS = {"transformers": 1e-5, "mlx-embeddings": 1e-3}
HEADER = """# Parity of the encoders

Written by `benchmarks/encoders_parity.py` (`nox -s parity`). The largest absolute difference of a
logit or hidden state of a token, and of a gradient relative to the largest entry of its tensor (or
to a hundredth of the largest of all tensors: the true gradient of BERT's key biases is 0).
Models have 4 layers of 32 dimensions and random weights; ModernBERT's sequences are longer than
twice its window. "Other options" are biases, activations, eps, layer types and rotary bases that
differ from the defaults. NeoBERT is compared with an own derivation in PyTorch, as its authors'
code does not run with transformers 5. Pretrained weights of ModernBERT and NeoBERT were not
available. A classifier of ModernBERT pools the first token that is not padding, transformers the
first of the row, so left padding has no reference there.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minilm", type=Path, help="a folder of all-MiniLM-L6-v2")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.getLogger("mlx_encoders").setLevel(logging.WARNING)
    failures: list[str] = []
    page = [
        HEADER,
        full_precision(failures),
        half_precision(failures),
        other_arguments(failures),
        saved_folders(failures),
        defects_of_peer(),
    ]
    if options.minilm:
        lines = "".join(f"- {line}\n" for line in real_model(options.minilm))
        page.append(f"## all-MiniLM-L6-v2, three sentences\n\n{lines}")
    machine = describe_machine(*PACKAGES)
    page.append(f"{machine['date']}, {machine['machine']}; {machine['versions']}.\n")
    (DOCS / "encoders-parity.md").write_text("\n".join(page))
    if failures:
        raise SystemExit("differences above the limit:\n" + "\n".join(failures))


def full_precision(failures: list[str]) -> str:
    """Return a table of all cases in float32; add what is above the limit to `failures`."""
    rows = []
    for family in FAMILIES:
        for case in family.cases:
            for spread, limit in LIMITS.items():
                found = compare_task(family, case, spread)
                cells = ["" if each is None else f"{each:.1e}" for each in found]
                rows.append([case.title, str(spread), *cells])
                print(*rows[-1], flush=True)
                # Not below: a NaN is above every limit.
                if not all(each is None or each < limit for each in found):
                    failures.append(" ".join(rows[-1]))
    header = ["class", "spread of weights", "no padding", "right", "left", "gradients"]
    return f"## Values and gradients, float32\n\n{table(header, rows)}"


def half_precision(failures: list[str]) -> str:
    """Return a table of all cases in float16 and bfloat16, beside PyTorch in the same dtype."""
    rows = []
    for family in FAMILIES:
        for case in family.cases:
            for dtype in HALF:
                found = compare_half(family, case, dtype)
                cells = ["" if each is None else "{:.1e} / {:.1e}".format(*each) for each in found]
                rows.append([case.title, dtype, *cells])
                print(*rows[-1], flush=True)
                *values, gradients = (each for each in found if each is not None)
                # Over the paddings: an error of nine logits is small by chance.
                limit = HALF_LIMIT * max(theirs for _, theirs in values)
                good = all(ours < limit for ours, _ in values)
                if not (good and gradients[0] < HALF_LIMIT * gradients[1]):
                    failures.append(" ".join(rows[-1]))
    header = ["class", "dtype", "no padding", "right", "left", "gradients"]
    return (
        "## Half precision\n\nThe largest error against PyTorch in float64, of MLX / of PyTorch in "
        f"the same dtype; weights of spread 0.1.\n\n{table(header, rows)}"
    )


def other_arguments(failures: list[str]) -> str:
    """Return a table of the other arguments and outputs of the encoders."""
    rows = []
    for family in FAMILIES:
        for title, what, error in compare_other_arguments(family):
            rows.append([title, what, f"{error:.1e}"])
            if not error < 1e-5:
                failures.append(" ".join(rows[-1]))
    header = ["encoder", "argument or output", "largest difference"]
    return f"## Other arguments and outputs\n\n{table(header, rows)}"


def saved_folders(failures: list[str]) -> str:
    """Return a table of saved folders that others loaded."""
    rows = []
    for family in FAMILIES:
        for title, peer, error in round_trips(family):
            rows.append([title, peer, "not installed" if error is None else f"{error:.1e}"])
            if error is not None and not error < PEER_LIMITS[peer]:
                failures.append(" ".join(rows[-1]))
    header = ["class", "by", "largest difference"]
    return f"## Saved folders loaded by others\n\n{table(header, rows)}"


def defects_of_peer() -> str:
    """Return a table of known defects of mlx-embeddings."""
    rows = [list(each) for each in defects()]
    header = ["what", "mlx-embeddings", "mlx-encoders"]
    shown = table(header, rows) if rows else "Not measured: mlx-embeddings is not installed.\n"
    return (
        "## Defects of mlx-embeddings\n\nModernBERT with weights of spread 0.3: the largest "
        f"difference from PyTorch and, last, the share of hidden states.\n\n{shown}"
    )


def table(header: list[str], rows: Iterable[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


if __name__ == "__main__":
    main()
