"""The table of the rule and rate of each parameter."""

import re
from collections.abc import Callable, Sequence

import mlx.core as mx

from mlx_muon.groups import Assignment, Group
from mlx_muon.rules import AdamWRule, Rule, Value

SCALE_TEXTS = {
    "keller": "x sqrt(max(1, rows / columns))",
    "moonlight": "x 0.2 sqrt(max(rows, columns))",
    "mup": "x sqrt(rows / columns)",
    "rms": "x 0.2 / rms",
    "none": "",
}


def explain(
    describe_rate: Callable[[Rule], str],
    weight_decay: Value,
    all_groups: Sequence[Group],
    assigned: Sequence[tuple[str, mx.array, Assignment]],
) -> str:
    """Return a heading for each group and rule, with a line for each set of similar parameters."""
    groups: dict[tuple[str, int], list[tuple[str, mx.array, Assignment]]] = {}
    for each in assigned:
        groups.setdefault((each[2].group, id(each[2].rule)), []).append(each)
    lines = []
    for (name, _), members in groups.items():
        count = sum(array.size for _, array, _ in members)
        rule = members[0][2].rule
        decays = getattr(rule, "decay_vectors", True) or any(a.ndim >= 2 for _, a, _ in members)
        rule_text = _describe(describe_rate(rule), weight_decay, rule, decays)
        lines.append(f"{name}: {rule_text}; {count:,} parameter{'s' if count != 1 else ''}")
        lines.extend(_member_lines(members))
    used = {(assignment.group, id(assignment.rule)) for _, _, assignment in assigned}
    unused = [each.name for each in all_groups if (each.name, id(each.rule)) not in used]
    lines.extend(
        f"{name}: matches no trainable parameter, or only those of earlier groups"
        for name in unused
    )
    return "\n".join(lines)


def _describe(rate: str, weight_decay: Value, rule: Rule, decays: bool) -> str:
    decay = weight_decay if rule.weight_decay is None else rule.weight_decay
    texts = [f"rate {rate}"]
    if isinstance(rule, AdamWRule):
        texts.append(f"betas {', '.join(_text(beta) for beta in rule.betas)}")
        texts.append(f"decay {_text(decay)}" if decays else "no decay")
        return "AdamW, " + ", ".join(texts)
    if SCALE_TEXTS[rule.scale]:
        texts[0] += f" {SCALE_TEXTS[rule.scale]}"
    texts.append(f"momentum {_text(rule.momentum)}{' (Nesterov)' if rule.nesterov else ''}")
    texts.append(f"{'cautious ' if rule.cautious else ''}decay {_text(decay)}")
    texts.append(rule.method if isinstance(rule.method, str) else "custom coefficients")
    switches = ("sign", "equalize_rows", "renormalize")
    texts.extend(switch.replace("_", " ") for switch in switches if getattr(rule, switch))
    if rule.variance != "none":
        texts.append(f"variance {rule.variance}, beta2 {_text(rule.beta2)}")
    return "Muon, " + ", ".join(texts)


def _member_lines(members: Sequence[tuple[str, mx.array, Assignment]]) -> list[str]:
    alike: dict[tuple, list[str]] = {}
    for path, array, assignment in members:
        matrices = assignment.matrices
        shapes = tuple(matrices.shapes) if matrices else ()
        pattern = re.sub(r"(?<=\.)\d+(?=\.)", "*", path)
        alike.setdefault((pattern, array.shape, shapes, assignment.why), []).append(path)
    lines = []
    for (pattern, shape, shapes, why), paths in alike.items():
        name = pattern if len(paths) > 1 else paths[0]
        line = f"  {len(paths):4} x {name} {'x'.join(map(str, shape)) or 'scalar'}"
        if shapes and shapes != ((1, *shape),):
            line += " as " + " + ".join(f"{n} of {rows}x{columns}" for n, rows, columns in shapes)
        lines.append(f"{line}: {why}{_hint(paths[0], shapes)}")
    return lines


def _hint(path: str, shapes: tuple[tuple[int, int, int], ...]) -> str:
    """Suggest `split` for a parameter that looks like a fused projection but is one matrix."""
    fused = re.search(r"qkv|c_attn|in_proj|gate_up", path.lower())
    if not fused or len(shapes) != 1 or shapes[0][1] <= shapes[0][2]:
        return ""
    width = shapes[0][2]
    parts = f"({width}, {width}, {width})" if shapes[0][1] == 3 * width else "its parts' rows"
    return f" (fused? then set split={parts})"


def _text(value: Value) -> str:
    return "scheduled" if callable(value) else f"{value:g}"
