"""The page `docs/benchmarks/cpu.md`, written from the kept results."""

from cpu.sizes import SIZES

MODELS = {
    "minilm": "MiniLM-size BERT",
    "bert-base": "BERT-base",
    "modernbert-base": "ModernBERT-base",
    "d6": "GPT d6",
}
VARIANTS = ("stock", "blas", "no-compiler", "ours", "ours-native", "ours-native-2")
OURS = VARIANTS[2:]
# Times of PyTorch to stay within.
STEP_AIMS = {"d6": 1.0, "bert-base": 1.2, "modernbert-base": 1.25}
FORWARD_AIM = 1.1
PREFILL_AIM = 8.0

Results = dict[str, dict]


def page(results: Results) -> str:
    """Return the page for the cases that were measured."""
    results = {case: found for case, found in results.items() if found["variants"]}
    lines = ["# MLX on the CPU", "", "Written by `benchmarks/cpu.py`; float32, 2 threads."]
    if "matmul" in results:
        lines += ["", "## Matrix products", "", *matmul_table(results["matmul"]["variants"])]
    measured = {case: results[case]["variants"] for case in MODELS if case in results}
    if measured:
        lines += ["", "## Models", "", *model_table(measured), "", *legend(), ""]
        lines += [line for case, found in measured.items() for line in aims(case, found)]
    if "qlora" in results:
        lines += ["", "## Quantized layers", "", *qlora_table(results["qlora"]["variants"])]
    if "decode" in results:
        lines += ["", "## Generation with mlx-lm", "", *decode_table(results["decode"]["variants"])]
    return "\n".join([*lines, "", "## How it was measured", "", *method(results), ""])


def matmul_table(found: Results) -> list[str]:
    """Milliseconds and GFLOP/s of each shape."""
    names = [name for name in ("stock", "blas", "numpy") if name in found]
    header = {"stock": "stock MLX", "blas": "MLX with mlx-fastcpu", "numpy": "NumPy"}
    lines = [row("float32", *(header[name] for name in names)), rule(len(names) + 1)]
    for shape in found[names[-1]]["times"]:
        sizes = [int(size) for size in shape.split("x")]
        operations = 2.0 * sizes[0] * sizes[1] * sizes[2]
        cells = []
        for name in names:
            time = found[name]["times"].get(shape)
            rate = f", {operations / time['seconds'] / 1e9:.3g} GFLOP/s" if time else ""
            cells.append(f"{milliseconds(time)}{rate}" if time else "over 10 s")
        lines.append(row(" x ".join(map(str, sizes)), *cells))
    return lines


def model_table(measured: dict[str, Results]) -> list[str]:
    """Milliseconds, and multiples of PyTorch's, of forward pass and step."""
    lines = [row("", "PyTorch", *VARIANTS), rule(len(VARIANTS) + 2)]
    for case, found in measured.items():
        size = SIZES[case]
        for call in ("forward", "step"):
            cells = [cell(found.get(name), call, found) for name in ("torch", *VARIANTS)]
            batch = f", {size.rows} x {size.length}" if call == "forward" else ""
            lines.append(row(f"{MODELS[case]}{batch}: {call}", *cells))
        peaks = [
            f"{found[name]['peak'] / 1e9:.1f} GB" if name in found and name != "stock" else ""
            for name in ("torch", *VARIANTS)
        ]
        lines.append(row(f"{MODELS[case]}: peak memory", *peaks))
    return lines


def cell(one: dict | None, call: str, found: Results) -> str:
    """Return milliseconds, and in parentheses the multiple of PyTorch's time."""
    if one is None:
        return ""
    time = time_of(one, call)
    multiple = multiple_of_torch(one, call, found)
    about = "about " if "extrapolated" in one else ""
    ratio = f" ({multiple:.2f}x)" if multiple and one is not found.get("torch") else ""
    return f"{about}{milliseconds(time)}{ratio}"


def time_of(one: dict, call: str) -> dict:
    """Return the time of a call: PyTorch's better step, and stock MLX's for the whole batch."""
    times = one["times"]
    if call == "step" and "step, fused AdamW" in times:
        return min(times["step"], times["step, fused AdamW"], key=lambda time: time["seconds"])
    if "extrapolated" not in one:
        return times[call]
    few, some, all_tokens = one["extrapolated"]
    least, more = times[f"short {call}"]["seconds"], times[call]["seconds"]
    seconds = least + (more - least) * (all_tokens - few) / (some - few)
    return times[call] | {"seconds": seconds}


def multiple_of_torch(one: dict | None, call: str, found: Results) -> float | None:
    """Return the time as a multiple of PyTorch's, `None` where either was not measured."""
    if one is None or "torch" not in found:
        return None
    return time_of(one, call)["seconds"] / time_of(found["torch"], call)["seconds"]


def legend() -> list[str]:
    """Say what the columns are."""
    return [
        "In parentheses multiples of PyTorch's time. A step is forward, backward, clipping to norm",
        "1 and AdamW (PyTorch: the better of its two implementations); for MLX `TrainStep` of",
        "mlx-trainer. Peak memory is that of the process, with what MLX keeps for the next step.",
        "",
        "- `stock`: MLX as installed, nothing compiled, measured on one or two rows and on 8",
        "  tokens, and extrapolated to the batch.",
        "- `blas`: `mlx_fastcpu.activate()`, the step compiled.",
        "- `no-compiler`: also `mlx_fastcpu.patch_nn(model)`, on a machine without C++ compiler.",
        "- `ours`: with one; forward pass and step compiled.",
        '- `ours-native`: `activate(compiler_flags="native")`.',
        "- `ours-native-2`: also two halves of the batch at once, each with one thread of BLAS.",
    ]


def aims(case: str, found: Results) -> list[str]:
    """Say of each aim whether it was reached, and by what."""
    lines = []
    for call, aim in (("forward", FORWARD_AIM), ("step", STEP_AIMS.get(case))):
        multiples = {name: multiple_of_torch(found.get(name), call, found) for name in OURS}
        known = {name: multiple for name, multiple in multiples.items() if multiple}
        if aim is None or not known:
            continue
        best = min(known, key=lambda name: known[name])
        verdict = "reached" if known[best] <= aim else "not reached"
        lines.append(
            f"- {MODELS[case]} {call}, at most {aim:g}x PyTorch: {verdict}, "
            f"{known[best]:.2f}x by `{best}`"
        )
    return lines


def qlora_table(found: Results) -> list[str]:
    """Times of the quantized stack, before and after patching."""
    facts = next(iter(found.values()))
    lines = [
        "Four Llama layers of width 768, frozen and quantized in groups of 64, with adapters of",
        f"rank 8: a training step on {facts['trained']} tokens, and reading a prompt of "
        f"{facts['prompt']} tokens.",
        "",
        row("", "before `patch_nn`", "after", "times faster"),
        rule(4),
    ]
    speedups = {}
    for call in (f"q{bits} {what}" for bits in (4, 8) for what in ("step", "prefill")):
        before, after = (found.get(name, {"times": {}})["times"].get(call) for name in
                         ("blas", "ours"))  # fmt: skip
        cells = [milliseconds(time) if time else "" for time in (before, after)]
        if before and after:
            speedups[call] = before["seconds"] / after["seconds"]
        lines.append(row(call, *cells, f"{speedups[call]:.1f}" if call in speedups else ""))
    prefills = {call: times for call, times in speedups.items() if call.endswith("prefill")}
    lines += [""] if prefills else []
    for call, times in prefills.items():
        verdict = "reached" if times >= PREFILL_AIM else "not reached"
        lines.append(f"- {call}, aim {PREFILL_AIM:g} times faster: {verdict}, {times:.1f}")
    return lines


def decode_table(found: Results) -> list[str]:
    """Tokens a second of mlx-lm, as installed, with a BLAS, and patched."""
    header = {"stock": "mlx-lm", "blas": "with `activate()`", "ours": "with `patch_nn` too"}
    names = [name for name in header if name in found]
    tokens = found[names[0]]["tokens"]
    lines = [
        f"mlx-lm's own Llama of 4 layers of width 768, batch 1, {tokens} tokens by its "
        "`generate_step`.",
        "",
        row("tokens/s", *(header[name] for name in names)),
        rule(len(names) + 1),
    ]
    for call in found[names[0]]["times"]:
        times = [found[name]["times"][call] for name in names]
        rates = [f"{tokens / time['seconds']:.0f}{dagger(time)}" for time in times]
        lines.append(row(call, *rates))
    return lines


def method(results: Results) -> list[str]:
    """Say how, where and with what."""
    lines = [
        "Each variant is a process of its own. The processes of a group stay alive and take turns;",
        "PyTorch takes part in every group of a model. A sample is one call, or as many as fill",
        "half a second. CPU time that other processes used meanwhile, more than 15 % of the cores,",
        "makes it dirty. Times are the median of the clean samples; † marks the least of all",
        "samples, where fewer than two were clean.",
        "",
    ]
    cases: dict[str, list[str]] = {}
    for case, found in results.items():
        about = f"{found['date']}, {found['machine']}; {found['versions']}"
        cases.setdefault(about, []).append(case)
    return lines + [f"- {', '.join(names)}: {about}." for about, names in cases.items()]


def milliseconds(time: dict) -> str:
    """Return a time in ms, from half a minute in s, marked where it is not the median."""
    if time["seconds"] >= 30:
        return f"{time['seconds']:.0f} s{dagger(time)}"
    value = 1000 * time["seconds"]
    return f"{f'{value:.0f}' if value >= 100 else f'{value:.3g}'} ms{dagger(time)}"


def dagger(time: dict) -> str:
    """Mark a time that is not the median of clean samples."""
    return "" if time["clean"] >= 2 else "†"


def row(*cells: str) -> str:
    """Return a line of a table."""
    return f"| {' | '.join(cells)} |"


def rule(columns: int) -> str:
    """Return the line under the header."""
    return "|---" * columns + "|"
