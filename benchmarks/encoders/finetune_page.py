"""The page of the fine-tuning benchmark, from its kept results."""

HEADER = """# Fine-tuning MiniLM, beside transformers

Written by `benchmarks/encoders_finetune.py`: all-MiniLM-L6-v2 with the head of
`BertForSequenceClassification`, AdamW at 1e-4 with warm-up and linear decay, 32 rows an update,
at most 128 tokens, dropout 0.1, float32, 2 threads. All variants start from the same weights. With
equal padding they see the same batches, padded to the longest row; with length buckets a batch has
rows of similar length. The linear model is logistic regression on TF-IDF of words and pairs.

"""


def page(kept: dict[str, dict]) -> str:
    """Return the page as Markdown."""
    parts = [HEADER]
    for case, found in kept.items():
        metric = "accuracy" if case == "ag-news" else "F1"
        variants = found["variants"]
        base = variants.get("transformers")
        parts.append(
            f"## {case}: {found['rows']} training rows, epochs: {found['epochs']}\n\n"
            f"|  | {metric} | last losses | training | prediction of the test rows |\n"
            "|---|---|---|---|---|\n"
        )
        for name, result in variants.items():
            cells = [name, f"{result['score']:.4f}"]
            cells.append(f"{result['loss']:.3f}" if "loss" in result else "")
            for key in ("training", "prediction"):
                cells.append(_seconds(result, base, key))
            parts.append("| " + " | ".join(cells) + " |\n")
        parts.append(f"\n{found['date']}, {found['machine']}; {found['versions']}.\n\n")
    return "".join(parts).rstrip() + "\n"


def _seconds(result: dict, base: dict | None, key: str) -> str:
    if key not in result:
        return ""
    ratio = "" if base is None or result is base or key not in base else base[key]
    text = f"{result[key]:.1f} s"
    if ratio and "loss" in result:
        text += f" ({result[key] / ratio:.2f}x)"
    return text
