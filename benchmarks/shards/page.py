"""The page `docs/benchmarks/shards.md`, written from the kept results."""

import textwrap


def page(results: dict) -> str:
    """Return the page for the parts that were measured."""
    machine = results["machine"]
    versions = ", ".join(f"{name} {value}" for name, value in machine["versions"].items())
    lines = [
        "# mlx-shards beside nanochat's loader and mlx-data",
        "",
        *paragraph(
            "Written by `benchmarks/shards.py` on the training shards of the Gutenberg prose (3014 "
            "documents, 13.7 MB of text in 4 parquet files) with a byte-level BPE of 8192 tokens. "
            f"Machine: {machine['system']}, {machine['cores']} cores; {versions}."
        ),
    ]
    for part, write in PARTS.items():
        if part in results:
            lines += ["", *write(results[part])]
    return "\n".join([*lines, ""])


def paragraph(text: str, first: str = "", later: str = "") -> list[str]:
    return textwrap.wrap(
        text, 95, initial_indent=first, subsequent_indent=later, break_on_hyphens=False
    )


def throughput(found: dict) -> list[str]:
    lines = [
        "## Tokens a second",
        "",
        *paragraph(
            f"Targets that are no padding, in batches of {found['rows']} x {found['length']} as "
            f"MLX arrays, over one epoch; median of {found['rounds']} rounds (least to most), all "
            "loaders in turns in one process. `text`: parquet, tokenizer and packing. `tokens "
            "known`: the tokenizer is a table, so that the rest is seen."
        ),
        "",
        "| loader | text | tokens known | targets used |",
        "|---|---|---|---|",
    ]
    rates = found["tokens_per_second"]
    for name in rates["text"]:
        cells = " | ".join(rate(rates[kind][name]) for kind in ("text", "tokens known"))
        lines.append(f"| {name} | {cells} | {found['targets_that_count'][name]:.1%} |")
    ratios = {
        kind: of["mlx-shards"]["median"] / of["nanochat's logic"]["median"]
        for kind, of in rates.items()
    }
    text = (
        f"Beside nanochat's logic: {ratios['text']:.2f} times the tokens a second from text, where "
        f"the tokenizer decides, and {ratios['tokens known']:.1f} times without it. nanochat's "
        "logic is written anew here: a scan of 1000 buffered documents, nothing prefetched, pinned "
        "memory left out. mlx-data has no packing: alone it pads windows of single documents. "
        "`carried by mlx-data`: our batches through its prefetching thread in place of ours."
    )
    return [*lines, "", *paragraph(text)]


def rate(found: dict) -> str:
    median, least, most = (found[key] / 1e6 for key in ("median", "least", "most"))
    return f"{median:.2f}M ({least:.2f} to {most:.2f})"


def stall(found: dict) -> list[str]:
    text = (
        f"{found['shards']} shards from a server that takes {found['download_seconds']:g} s for "
        f"each, {found['compute_seconds']:g} s of training on each: the share of time that "
        "training waits, after the first shard."
    )
    lines = ["## Waiting for data", "", *paragraph(text), "", "| | waiting |", "|---|---|"]
    return lines + [f"| `{name}` | {share:.1%} |" for name, share in found["stall_share"].items()]


def packing(found: dict) -> list[str]:
    lines = [
        "## Packing",
        "",
        *paragraph(
            "Best-fit rows of 2049 from a buffer of 1000 documents: nanochat's scan and the length "
            "index give the same rows. Waste is the share of tokens lost, by what becomes of long "
            "documents (`oversize`); `crop` is nanochat's rule. ClimbMix-like: log-normal lengths "
            "of which 22.9% of the tokens lie beyond 2049."
        ),
        "",
        "| documents | number | mean length | scan | index | times faster | crop | split | drop |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, each in found.items():
        seconds, waste = each["seconds"], each["waste"]
        lines.append(
            f"| {name} | {each['documents']} | {each['mean_length']:.0f} | {seconds['scan']:.2f} s "
            f"| {seconds['index']:.3f} s | {each['times_faster']:.1f} | {waste['crop']:.1%} | "
            f"{waste['split']:.1%} | {waste['drop']:.1%} |"
        )
    return lines


def day(found: dict) -> list[str]:
    same = "identical to" if found["identical"] else "DIFFERENT from"
    seconds, requests = found["seconds"], found["requests"]
    facts = [
        f"The hash over all {found['tokens']:,} tokens ({found['batches']} batches) is {same} that "
        "of an uninterrupted run.",
        f"At most {found['most_shards_on_disk']} shards on disk; a state of at most "
        f"{found['state_bytes']:,} bytes.",
        f"{seconds['uninterrupted']:.0f} s and {requests['uninterrupted']} downloads "
        f"uninterrupted; {seconds['killed twice']:.0f} s and {requests['killed']} downloads with "
        "two kills: each start reads again the documents that the packer held.",
    ]
    text = (
        "Two shuffled epochs over HTTP through a cache of 2 files, the state saved every 5 "
        "batches; killed (SIGKILL) after 30% and 70% of the batches, started again each time."
    )
    lines = ["## A day's use", "", *paragraph(text), ""]
    return lines + [line for fact in facts for line in paragraph(fact, "- ", "  ")]


PARTS = {"throughput": throughput, "stall": stall, "packing": packing, "day": day}
