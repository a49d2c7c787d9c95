"""The page `docs/benchmarks/gpt.md`, written from the kept results."""

import statistics
import textwrap

from gpt.curves import PLOT, curve_lines
from gpt.settings import CACHED, D4, DECODED, UPDATED

VARIANTS = {
    "nanochat": "nanochat, PyTorch, compiled",
    "nanochat-eager": "nanochat, its model not compiled",
    "ours": "mlx-gpt",
    "mlxchat": "mlxchat, on MLX as it comes",
    "mlxchat-fastcpu": "mlxchat, run by `python -m mlx_fastcpu run`",
}
# Times the tokens a second of the peer, growth of the time per token, times the optimizer's time.
PROTOTYPE_AIM, TORCH_AIM, GROWTH_AIM, OPTIMIZER_AIM = 2.0, 0.8, 1.5, 0.7


def page(results: dict) -> str:
    """Return the page for the parts that were measured."""
    lines = ["# mlx-gpt beside nanochat and mlxchat", ""]
    lines += ["Written by `benchmarks/gpt.py`; float32, 2 threads."]
    for part, write in PARTS.items():
        if part in results:
            lines += ["", *write(results[part])]
    return "\n".join([*lines, "", *method(results), ""])


def training(found: dict) -> list[str]:
    """Tokens a second, peak memory and losses."""
    variants = found["variants"]
    rates = {name: tokens_per_second(found, name) for name in variants}
    text = (
        f"Depth {D4.layers} ({D4.width} wide, {D4.heads} heads, {D4.vocab} tokens), "
        f"{found['steps']} steps of {found['rows']} x {found['length']} tokens of Gutenberg prose, "
        "the same batches for all. Rates, momentum and decay follow each project's own schedules. "
        "Tokens a second count all tokens of a step, loss, gradients and optimizer included: the "
        "median over the steps after the first turn, in parentheses beside nanochat."
    )
    lines = ["## Training", "", *paragraph(text), ""]
    lines += [row("", "parameters", "tokens a second", "peak memory", "steps measured"), rule(5)]
    for name in named(variants):
        each = variants[name]
        lines.append(
            row(
                VARIANTS[name],
                f"{each['parameters'] / 1e6:.1f} M",
                f"{rates[name]:,.0f}{ratio(rates, name)}{mark(each)}",
                f"{each['peak'] / 1e9:.2f} GB",
                str(len(measured(found, name))),
            )
        )
    lines += ["", *training_aims(rates), "", *curve_lines(found), "", f"![Losses]({PLOT})"]
    return lines


def tokens_per_second(found: dict, name: str) -> float:
    return found["rows"] * found["length"] / statistics.median(measured(found, name))


def measured(found: dict, name: str) -> list[float]:
    """Return the seconds of the steps that count."""
    first = next(iter(found["losses"].values()))
    return first[name]["seconds"][found["variants"][name]["chunk"] :]


def ratio(rates: dict[str, float], name: str) -> str:
    if "nanochat" not in rates or name == "nanochat":
        return ""
    return f" ({rates[name] / rates['nanochat']:.2f}x)"


def mark(each: dict) -> str:
    """Mark what was mostly measured while other processes were busy."""
    time = each["times"]["steps"]
    return " †" if time["clean"] < time["samples"] / 2 else ""


def training_aims(rates: dict[str, float]) -> list[str]:
    wanted = []
    if "mlxchat" in rates:
        wanted.append((PROTOTYPE_AIM, "mlxchat as it comes", rates["mlxchat"]))
    if "mlxchat-fastcpu" in rates:
        wanted.append((PROTOTYPE_AIM, "mlxchat with mlx-fastcpu", rates["mlxchat-fastcpu"]))
    torch = [rates[name] for name in ("nanochat", "nanochat-eager") if name in rates]
    if torch:
        wanted.append((TORCH_AIM, "nanochat's better rate", max(torch)))
    if "ours" not in rates:
        return []
    return [
        f"- At least {aim:g} times the tokens a second of {peer}: "
        f"{verdict(rates['ours'] / rate >= aim)}, {rates['ours'] / rate:.2f} times"
        for aim, peer, rate in wanted
    ]


def decode(found: dict) -> list[str]:
    """Time per token by length of the cache."""
    short, long = map(str, CACHED)
    text = (
        "Time of a token, greedy, one sequence, each by its project's own engine; the models have "
        "random weights and a sequence length of 2048. Growth is from a cache of "
        f"{short} tokens to one of {long}."
    )
    lines = ["## Generation", "", *paragraph(text), ""]
    header = [f"{length} in the cache" for length in CACHED]
    lines += [row("", "", *header, "growth"), rule(5)]
    growths = {}
    for size, variants in found["models"].items():
        shape = DECODED[size]
        title = f"{size}: {shape.layers} layers of {shape.width}"
        for name in named(variants):
            seconds = {
                length: statistics.median(variants[name]["tokens"][length])
                for length in (short, long)
            }
            growth = seconds[long] / seconds[short]
            cells = [f"{1000 * each:.2f} ms, {1 / each:,.0f} a second" for each in seconds.values()]
            # Its engine is given the model that is not compiled.
            known = "nanochat, PyTorch" if name == "nanochat" else VARIANTS[name]
            lines.append(row(title, known, *cells, f"{growth:.2f}x"))
            if name == "ours":
                growths[size] = growth
            title = ""
    lines.append("")
    for size, growth in growths.items():
        reached = verdict(growth <= GROWTH_AIM)
        lines.append(f"- {size}, growth of at most {GROWTH_AIM:g}: {reached}, {growth:.2f}")
    return lines


def update(found: dict) -> list[str]:
    """Time of an update and of its optimizer."""
    variants = found["variants"]
    text = (
        f"Depth {UPDATED.layers} ({UPDATED.width} wide, {UPDATED.vocab} tokens), two micro-batches "
        f"of 4 x {UPDATED.length} tokens: the size at which mlxchat was first timed. Optimizer: "
        "from the gradients to the new weights, alone; gradients: the rest of the update."
    )
    lines = ["## A small update", "", *paragraph(text), ""]
    lines += [row("", "update", "gradients", "optimizer"), rule(4)]
    seconds = {
        name: {call: time["seconds"] for call, time in each["times"].items()}
        for name, each in variants.items()
    }
    for each in seconds.values():
        each["gradients"] = each["step"] - each["optimizer"]
    for name in named(variants):
        cells = [milliseconds(seconds[name][call]) for call in ("step", "gradients", "optimizer")]
        lines.append(row(VARIANTS[name], *cells))
    lines.append("")
    for peer in ("mlxchat", "mlxchat-fastcpu"):
        if peer not in seconds or "ours" not in seconds:
            continue
        for call, aim in (("gradients", 1.0), ("optimizer", OPTIMIZER_AIM)):
            share = seconds["ours"][call] / seconds[peer][call]
            name = "as it comes" if peer == "mlxchat" else "with mlx-fastcpu"
            lines.append(
                f"- {call}, at most {aim:g} times the time of mlxchat {name}: "
                f"{verdict(share <= aim)}, {share:.2f} times"
            )
    return lines


def method(results: dict) -> list[str]:
    text = (
        "Each implementation is a process of its own; they stay alive and take turns, so that two "
        "never compute at once. Runs have clones of the projects as they were: nanochat "
        "with `torch.compile` for model and optimizer as in its script, garbage collection off; "
        "mlxchat with its options' defaults; ours as `mlx-gpt train` builds it. Only the lines of "
        "their scripts that are no function (one step, nanochat's schedules) are written again. "
        "† marks numbers of which most were taken while other processes used more than 15 % of "
        "the machine."
    )
    lines = ["## How it was measured", "", *paragraph(text), ""]
    same: dict[str, list[str]] = {}
    for part in PARTS:
        if part in results:
            each = results[part]
            where = f"{each['date']}, {each['machine']}; {each['versions']}"
            same.setdefault(where, []).append(part)
    return lines + [f"- {', '.join(parts)}: {where}." for where, parts in same.items()]


def named(variants: dict) -> list[str]:
    """Return the names of what was measured, in the order of the tables."""
    return [name for name in VARIANTS if name in variants]


def verdict(reached: bool) -> str:
    return "reached" if reached else "not reached"


def milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.2f} s"


def paragraph(text: str) -> list[str]:
    return textwrap.wrap(text, 95, break_on_hyphens=False)


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def rule(columns: int) -> str:
    return f"|{'---|' * columns}"


PARTS = {"training": training, "decode": decode, "update": update}
