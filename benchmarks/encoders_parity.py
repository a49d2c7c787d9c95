"""Encoders and task models of mlx-encoders beside transformers: values and gradients.

    nox -s parity [-- --minilm DIR]

Random weights (normal, spread 0.02 as initialized and 0.3, which amplifies errors), all classes,
paddings and dtypes; NeoBERT beside `tools/neobert_torch.py`, which must be on PYTHONPATH. Saved
folders are loaded by transformers and, where installed, by mlx-embeddings. Writes
docs/benchmarks/encoders-parity.md, and fails where a difference is above its limit.
"""

import argparse
from pathlib import Path

from encoders.parity import FAMILIES, compare_dtypes, compare_task, real_model, round_trips
from turns.processes import describe_machine

DOCS = Path(__file__).parent.parent / "docs" / "benchmarks"
PACKAGES = ("mlx", "mlx-encoders", "torch", "transformers", "mlx-embeddings")
HEADER = """# Parity of the encoders

Written by `benchmarks/encoders_parity.py` (`nox -s parity`). The largest absolute difference of a
logit or hidden state of a token, and of a gradient relative to the largest entry of its tensor (or
to a hundredth of the largest of all tensors: the true gradient of BERT's key biases is 0).
Models have 4 layers of 32 dimensions and random weights; ModernBERT's sequences are longer than
twice its window. NeoBERT is compared with an own derivation in PyTorch, as its authors' code does
not run with transformers 5. Pretrained weights of ModernBERT and NeoBERT were not available.

"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minilm", type=Path, help="a folder of all-MiniLM-L6-v2")
    options = parser.parse_args()
    failures: list[str] = []
    lines = [HEADER, "## Values and gradients, float32\n\n"]
    lines.append("| class | spread of weights | no padding | right | left | gradients |\n")
    lines.append("|---|---|---|---|---|---|\n")
    for family in FAMILIES:
        for case in family.cases:
            for spread, limit in ((0.02, 1e-5), (0.3, 1e-4)):
                found = compare_task(family, case, spread)
                lines.append(f"| {case.title} | {spread} | " + " | ".join(
                    "" if each is None else f"{each:.1e}" for each in found) + " |\n")  # fmt: skip
                worst = max(each for each in found if each is not None)
                if not worst < limit:
                    failures.append(f"{case.title}, spread {spread}: {worst:.1e}")
                print(lines[-1], end="", flush=True)
    lines.append("\n## Half precision\n\nThe largest error against PyTorch in float64, of MLX and "
                 "of PyTorch in the same dtype.\n\n| encoder | padding | dtype | MLX | PyTorch |\n"
                 "|---|---|---|---|---|\n")  # fmt: skip
    for family in FAMILIES:
        for row in compare_dtypes(family):
            lines.append("| " + " | ".join(row) + " |\n")
    lines.append("\n## Saved folders loaded by others\n\n| class | by | largest difference |\n"
                 "|---|---|---|\n")  # fmt: skip
    for family in FAMILIES:
        for row in round_trips(family):
            lines.append("| " + " | ".join(row) + " |\n")
    if options.minilm:
        lines.append("\n## all-MiniLM-L6-v2, three sentences\n\n")
        lines += [f"- {line}\n" for line in real_model(options.minilm)]
    machine = describe_machine(*PACKAGES)
    lines.append(f"\n{machine['date']}, {machine['machine']}; {machine['versions']}.\n")
    (DOCS / "encoders-parity.md").write_text("".join(lines))
    if failures:
        raise SystemExit("differences above the limit:\n" + "\n".join(failures))


if __name__ == "__main__":
    main()
