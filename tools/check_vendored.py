"""Fail when copies of one file differ: vendored helpers between packages, and the licence.

A vendored helper is a module whose first line begins with `# Vendored:`.
"""

import sys
from collections import defaultdict
from pathlib import Path

MARK = b"# Vendored:"


def differing_copies(root: Path) -> list[str]:
    """Return one line for each group of copies that are not byte-identical."""
    copies = defaultdict(list)
    modules = sorted(root.glob("packages/*/src/*/_*.py"))
    vendored = {each.name for each in modules if each.read_bytes().startswith(MARK)}
    for path in modules:
        if path.name in vendored:
            copies[path.name].append(path)
    packages = [path.parent for path in sorted(root.glob("packages/*/pyproject.toml"))]
    copies["LICENSE"] = [root / "LICENSE", *(each / "LICENSE" for each in packages)]

    problems = []
    for name, paths in copies.items():
        contents = {path.read_bytes() if path.exists() else b"" for path in paths}
        if len(contents) > 1:
            listed = ", ".join(str(path.relative_to(root)) for path in paths)
            problems.append(f"the copies of {name} must be byte-identical: {listed}")
    return problems


if __name__ == "__main__":
    sys.exit("\n".join(differing_copies(Path(__file__).parent.parent)) or 0)
