# Vendored: byte-identical in every package that has it; `tools/check_vendored.py` compares.
"""Name the nearest valid spelling in an error message."""

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """Return `"; did you mean 'x'?"`, or the list of valid names when none is near."""
    names = [str(each) for each in valid]
    folded = {each.lower(): each for each in names}
    near = difflib.get_close_matches(name.lower(), folded, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {folded[near[0]]!r}?"
    return f"; valid: {', '.join(names)}"
