"""The page docs/benchmarks/lora.md, from the results that are kept."""

from typing import Any

from lora.worker import DORA_ROWS, DORA_SIZES, LENGTH, MIXED_ROWS, RANK, ROWS

STEP = {
    "full": ("mlx, all weights", "peft-full"), "lora": ("mlx-lora, LoRA", "peft-lora"),
    "dora": ("mlx-lora, DoRA", "peft-dora"), "qlora": ("mlx-lora, QLoRA, 4 bits", None),
    "qlora-checkpointed": ("the same, layers computed again", None),
}  # fmt: skip
MIXED = ("base", "one adapter for all", "1 mixed", "4 mixed", "16 mixed", "16 passes of one row")


def page(results: dict[str, Any], threads: int) -> str:
    """Return the page; parts without results are left out."""
    parts = [
        "# Adapters\n\nWritten by `benchmarks/lora.py`. Medians of turns that other processes did "
        f"not disturb; {threads} threads. [Parity](lora-parity.md) has the values.\n"
    ]
    for name, write in (("step", _step), ("dora", _dora), ("rows", _rows), ("kaggle", _kaggle),
                        ("quantized", _tables)):  # fmt: skip
        if name in results:
            machine = results[name]["machine"]
            told = f"{machine['date']}, {machine['machine']}; {machine['versions']}."
            parts.append(f"{write(results[name])}\n{told}\n")
    return "\n".join(parts)


def _step(result: dict[str, Any]) -> str:
    found = result["variants"]
    rows = []
    for variant, (title, peer) in STEP.items():
        if variant not in found:
            continue
        seconds = _seconds(found[variant], "step")
        cells = [title, f"{found[variant]['trained'] / 1e6:.2f} M", f"{seconds:.2f}",
                 f"{found[variant]['peak'] / 1e9:.2f}"]  # fmt: skip
        if peer in found:
            other = _seconds(found[peer], "step")
            cells += [f"{other:.2f}", f"{found[peer]['peak'] / 1e9:.2f}", f"{seconds / other:.2f}"]
        cells += [""] * (7 - len(cells))
        relative = seconds / _seconds(found["lora"], "step") if "lora" in found else None
        rows.append([*cells, "" if relative is None else f"{relative:.2f}"])
    head = ["", "trained", "s", "peak GB", "PEFT, PyTorch: s", "peak GB", "ratio", "of LoRA"]
    return (
        f"## One update of a classifier of BERT-base's shape\n\n{ROWS} rows of {LENGTH} tokens, "
        f"rank {RANK} on all matrices of the layers, AdamW, no dropout, float32. The peak is the "
        f"resident memory of the process, libraries included. PEFT's QLoRA needs "
        f"bitsandbytes, which was not compared.\n\n{_table(head, rows)}"
    )


def _dora(result: dict[str, Any]) -> str:
    found = result["variants"]
    titles = {"lora": "mlx-lora, LoRA", "ours": "mlx-lora, DoRA", "mlx-lm": "mlx-lm, DoRA"}
    calls = [f"{form}, {rows} rows" for form in ("float32", "4 bits") for rows in DORA_ROWS]
    rows = [
        [title, *(f"{1000 * _seconds(found[name], call):.1f}" for call in calls)]
        for name, title in titles.items()
        if name in found
    ]
    inputs, outputs = DORA_SIZES
    return (
        f"## DoRA of one layer\n\nForward and backward pass, {inputs} to {outputs}, rank {RANK}, "
        f"compiled, in ms, all with mlx-fastcpu. mlx-lm computes the dense W + B A in each pass; "
        f"mlx-lora gets the lengths of its rows from products with A and B.\n\n"
        + _table(["", *calls], rows)
    )


def _rows(result: dict[str, Any]) -> str:
    found = result["variants"]
    rows = []
    for call in MIXED:
        cells = [call]
        for variant in ("float32", "4 bits"):
            if variant in found:
                seconds, base = (_seconds(found[variant], each) for each in (call, "base"))
                cells += [f"{1000 * seconds:.0f}", f"{seconds / base:.2f}"]
        rows.append(cells)
    return (
        f"## One adapter a row\n\nThe forward pass of BERT-base's shape, {MIXED_ROWS} rows of 32 "
        f"tokens, adapters of rank {RANK} on all matrices, in ms and relative to the base alone. "
        f"Outputs equal those of one pass for each adapter (tested).\n\n"
        + _table(["", "float32", "ratio", "base in 4 bits", "ratio"], rows)
    )


def _kaggle(result: dict[str, Any]) -> str:
    rows, others = [], {}
    for name, found in result["variants"].items():
        # Earlier runs had no members: the network was the answer.
        found_scores = found["scores"]
        scores = found_scores.get("text", found_scores["mlx-kaggle"])
        trained = scores if "text" in found_scores else found_scores["mlx-kaggle as trained"]
        size = found["bytes"] / 1e6
        cells = [scores["f1"], trained["accuracy"], scores["roc_auc"]]
        rows.append([name, *(f"{each:.3f}" for each in cells), f"{size:.2f}"])
        rivals = ("linear", "linear model", "HistGradientBoosting")
        others = {each: found_scores[each] for each in rivals if each in found_scores}
    for name, scores in others.items():
        cells = [scores["f1"], scores["accuracy"], scores["roc_auc"]]
        rows.append([name, *(f"{each:.3f}" for each in cells), ""])
    head = ["", "F1", "accuracy", "AUC", "MB saved"]
    return (
        "## nlp-disaster with all-MiniLM-L6-v2\n\n`mlx-kaggle train --preset standard` (2 epochs, "
        "the upper half of the layers is trained or adapted), with `--lora balanced` and "
        "`--quantize 4`; scores of 1,522 rows that were not trained on, one seed: differences of "
        "0.01 are noise. F1 with a threshold that was fitted on other held-out rows, accuracy as "
        "trained. MB are of the encoder, or of the adapter alone.\n\n" + _table(head, rows)
    )


def _tables(result: dict[str, Any]) -> str:
    merge = ["base", "output error after merge", "unmerge exact",
             "retained, requantized", "median error of the effect", "output error"]  # fmt: skip
    return (
        "## Merging into quantized layers\n\nall-MiniLM-L6-v2 with an adapter of rank 8 that "
        "changes the outputs of each layer by 7 %. By default the layers become float: the first "
        "columns. With `requantize=True` they are rounded to the same form again: what `merge` "
        "reports then is the part of the change that is in the stored weights, and the size of the "
        "rounding relative to the change. Errors of outputs are relative to the largest.\n\n"
        + _table(merge, result["merge"])
        + "\nInto 4 bits (affine, groups of 64), by the size of the adapter's effect; the last "
        "column is the error of the model's outputs relative to what the adapter changed in "
        "them.\n\n"
        + _table(["effect", "retained", "median error", "error of outputs"], result["retention"])
        + "\n## LoftQ\n\nThe error of six quantized matrices of all-MiniLM-L6-v2 (first and last "
        "layer) relative to their size, with a correction of rank 8.\n\n"
        + _table(["", "quantized", "LoftQ, 1 round", "5 rounds", "less by"], result["loftq"])
    )


def _seconds(variant: dict[str, Any], call: str) -> float:
    return variant["times"][call]["seconds"]


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in lines)
