"""The page `docs/benchmarks/muon.md`, written from the kept results."""

from muon.shapes import CASES, operations

TITLES = {
    "gpt": "GPT, 12 layers of 768",
    "modernbert": "ModernBERT-base",
    "32": "48 of 32 x 32",
    "64": "48 of 64 x 64",
    "128": "48 of 128 x 128",
    "lora": "48 LoRA pairs, rank 8 and 16",
}
VARIANTS = {
    "mlx": "mlx.optimizers.Muon, compiled",
    "mlx-eager": "mlx.optimizers.Muon, not compiled",
    "mlx-one-thread": "mlx.optimizers.Muon, compiled, BLAS with one thread",
    "torch-float32": "torch.optim.Muon, iterating in float32",
    "torch": "torch.optim.Muon as it is, iterating in bfloat16",
    "ours": "mlx-muon, `keller()`: the same arithmetic, compiled",
    "ours-native": 'the same, with `compiler_flags="native"` of mlx-fastcpu',
    "ours-one-thread": "the same, BLAS with one thread, `two_streams=True`",
    "ours-bfloat16": "the same, with the bfloat16 product of mlx-fastcpu",
    "polar-express": "mlx-muon, Polar Express instead of Newton-Schulz",
    "nanochat": "mlx-muon, `nanochat()`",
}
OURS = ("ours", "ours-native", "ours-one-thread")
# Times of mlx.optimizers.Muon to stay within.
AIMS = {"gpt": 0.85, "modernbert": 0.85} | dict.fromkeys(("32", "64", "128", "lora"), 0.5)
REDUCED_AIM = 0.5


def page(results: dict) -> str:
    """Return the page for what was measured."""
    steps = {case: results["steps"][case] for case in TITLES if case in results.get("steps", {})}
    lines = ["# Muon", ""]
    lines += ["Written by `benchmarks/muon.py` and `benchmarks/muon_training.py`.", ""]
    if steps:
        lines += ["## One step", "", *step_table(steps), "", *explanation(), ""]
        lines += [line for case, found in steps.items() for line in aims(case, found["variants"])]
        lines += ["", *method(steps)]
    if "training" in results:
        from muon.training_page import training_lines

        lines += ["", *training_lines(results["training"])]
    return "\n".join([*lines, ""])


def step_table(steps: dict) -> list[str]:
    """Time, multiple of MLX's time, and peak memory of each variant."""
    lines = [row("", *(TITLES[case] for case in steps)), rule(len(steps) + 1)]
    for variant, title in VARIANTS.items():
        lines.append(row(title, *(cell(found["variants"], variant) for found in steps.values())))
    bounds = [bound(case, found["variants"]) for case, found in steps.items()]
    lines.append(row("bound: the products of five direct steps", *bounds))
    return lines


def cell(found: dict, variant: str) -> str:
    if variant not in found:
        return ""
    time, peak = found[variant]["times"]["step"], found[variant]["peak"]
    unsure = " †" if time["clean"] < 2 else ""
    ratio = time["seconds"] / found["mlx"]["times"]["step"]["seconds"]
    return f"{milliseconds(time['seconds'])}{unsure} ({ratio:.2f}x), {peak / 1e9:.2f} GB"


def bound(case: str, found: dict) -> str:
    """The time of the matrix products alone, at the speed of a large product."""
    rate = 2.0 * 768**3 / found["mlx"]["times"]["product"]["seconds"]
    seconds = operations(CASES[case]) / rate
    return f"{milliseconds(seconds)} at {rate / 1e9:.0f} GFLOP/s"


def aims(case: str, found: dict) -> list[str]:
    """Say which aims were reached."""
    mlx = found["mlx"]["times"]["step"]["seconds"]
    wanted = [(OURS, AIMS[case], "mlx.optimizers.Muon", mlx)]
    if case in ("gpt", "modernbert"):
        wanted.append((("ours-bfloat16",), REDUCED_AIM, "mlx.optimizers.Muon in float32", mlx))
    if "torch-float32" in found:
        torch = found["torch-float32"]["times"]["step"]["seconds"]
        wanted.append((OURS, 1.0, "torch.optim.Muon in float32", torch))
    lines = []
    for names, aim, peer, seconds in wanted:
        measured = {
            each: found[each]["times"]["step"]["seconds"] for each in names if each in found
        }
        if measured:
            best = min(measured, key=lambda name: measured[name])
            ratio = measured[best] / seconds
            verdict = "reached" if ratio <= aim else "not reached"
            lines.append(
                f"- {TITLES[case]}, at most {aim:g}x {peer}: {verdict}, {ratio:.2f}x by `{best}`"
            )
    return lines


def explanation() -> list[str]:
    return [
        "In parentheses multiples of the first line; then the peak memory of the process, which",
        "for PyTorch includes its library (0.3 GB). Newton-Schulz in five steps, momentum 0.95,",
        "Nesterov, no decay, but for the last two variants. The bound is what five direct steps",
        "cost at the speed of a product of 768 x 768 x 768 in the same process; matrices at least",
        "twice as wide as high are iterated through their Gram matrix, which costs less.",
    ]


def method(steps: dict) -> list[str]:
    lines = [
        "Each variant is a process of its own, with 2 threads of the same OpenBLAS (PyTorch: its",
        "own library); they take turns. A sample during which other processes used more than 15 %",
        "of the machine is dirty. Times are the median of the clean samples; † marks the least of",
        "all samples, where fewer than two were clean.",
        "",
    ]
    same: dict[str, list[str]] = {}
    for case, found in steps.items():
        where = f"{found['date']}, {found['machine']}; {found['versions']}"
        same.setdefault(where, []).append(case)
    return lines + [f"- {', '.join(cases)}: {where}." for where, cases in same.items()]


def milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.2f} s"


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def rule(columns: int) -> str:
    return f"|{'---|' * columns}"
