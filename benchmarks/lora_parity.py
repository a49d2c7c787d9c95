"""Adapters of mlx-lora beside PEFT and mlx-lm: values, gradients, training, files.

    nox -s lora-parity

Writes docs/benchmarks/lora-parity.md, and fails where a difference is above its limit.
"""

from pathlib import Path

import transformers
from lora import decoders, encoders
from turns.processes import describe_machine

PAGE = Path(__file__).parent.parent / "docs/benchmarks/lora-parity.md"
PACKAGES = ("mlx", "mlx-lora", "torch", "peft", "transformers", "mlx-lm")
LIMIT = 1e-5
HEADER = """# Parity of adapters

Written by `benchmarks/lora_parity.py` (`nox -s lora-parity`). The largest absolute differences;
gradients relative to the largest entry of their tensor, or to a hundredth of the largest of all.

## Beside PEFT

Classifiers of 4 layers and 32 dimensions with random weights, made by transformers and loaded by
mlx-encoders; adapters of rank 4 on all matrices of the layers (or on the word embeddings and
queries), with values that are not zero. Then ten steps of AdamW with both. "PEFT loads ours" are
the logits of PEFT with the adapter that was trained and saved here. "bytes kept" says that
saving what was loaded writes the same tensors. Convolutions are compared in the package's tests.

| model | adapter | logits | losses | gradients | tensors after | PEFT loads ours | bytes kept |
|---|---|---|---|---|---|---|---|
"""
MLX_LM = """
## Beside mlx-lm

A Llama of 3 layers and 64 dimensions with adapters in the last two; logits with the same file.

| adapter | mlx-lm's folder, loaded here | our folder, loaded by mlx-lm |
|---|---|---|
"""


def main() -> None:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    failures, page = [], HEADER
    for family in encoders.TARGETS:
        for case in encoders.CASES:
            *found, kept = encoders.compare(family, case)
            page += _row([family, case, *map(_number, found), "yes" if kept else "NO"])
            if not kept or not all(each < LIMIT for each in found):
                failures.append(f"{family} {case}")
    page += MLX_LM
    for case in decoders.CASES:
        found = decoders.compare(case)
        page += _row([case, *map(_number, found)])
        if not all(each < LIMIT for each in found):
            failures.append(f"mlx-lm {case}")
    machine = describe_machine(*PACKAGES)
    page += f"\n{machine['date']}, {machine['machine']}; {machine['versions']}.\n"
    PAGE.write_text(page)
    if failures:
        raise SystemExit("differences above the limit:\n" + "\n".join(failures))


def _row(cells: list[str]) -> str:
    print(*cells, flush=True)
    return "| " + " | ".join(cells) + " |\n"


def _number(value: float) -> str:
    return f"{value:.1e}"


if __name__ == "__main__":
    main()
