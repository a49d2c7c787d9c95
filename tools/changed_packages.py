"""Print as JSON the packages that a change can break.

    git diff --name-only origin/main... | python tools/changed_packages.py

These are the packages with a changed file and all that depend on them. A changed file outside of
`packages/` may concern every package, except for the texts at the root.
"""

import json
import re
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

DEPENDENCY_NAME = re.compile(r"[\w.-]+")


def packages_to_test(changed: Iterable[str], requirements: dict[str, set[str]]) -> list[str]:
    """Return the packages to test, given each package's requirements in this repository."""
    chosen = set()
    for path in map(PurePosixPath, changed):
        if len(path.parts) == 1 and path.suffix == ".md":
            continue
        if path.parts[0] != "packages" or len(path.parts) < 3:
            return sorted(requirements)
        chosen.add(path.parts[1])
    chosen &= set(requirements)  # a removed package has no tests to run
    while dependents := {name for name in requirements if requirements[name] & chosen} - chosen:
        chosen |= dependents
    return sorted(chosen)


def read_requirements(root: Path) -> dict[str, set[str]]:
    """Return for each package the packages of this repository it requires."""
    requirements = {}
    for path in root.glob("packages/*/pyproject.toml"):
        project = tomllib.loads(path.read_text())["project"]
        lines = [*project.get("dependencies", ())]
        for extra in project.get("optional-dependencies", {}).values():
            lines += extra
        requirements[path.parent.name] = {DEPENDENCY_NAME.match(line)[0] for line in lines}
    return {name: required & set(requirements) for name, required in requirements.items()}


if __name__ == "__main__":
    lines = [line.strip() for line in sys.stdin if line.strip()]
    print(json.dumps(packages_to_test(lines, read_requirements(Path(__file__).parent.parent))))
