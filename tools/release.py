"""Check that a release tag fits the repository, and print the package it releases.

python tools/release.py mlx-heads-v0.2.0
"""

import re
import sys
import tomllib
from pathlib import Path

TAG = re.compile(r"(?P<package>mlx-[a-z0-9-]+)-v(?P<version>\d+\.\d+\.\d+\S*)")


class ReleaseError(ValueError):
    """The tag does not fit the repository; the text says what to change."""


def check_tag(tag: str, root: Path) -> str:
    """Return the package of a tag whose version its pyproject and its changelog have."""
    match = TAG.fullmatch(tag)
    if not match:
        raise ReleaseError(f"a release tag is <package>-v<version>, got {tag!r}")
    package, version = match["package"], match["version"]
    folder = root / "packages" / package
    if not folder.is_dir():
        raise ReleaseError(f"there is no package {package!r} in packages/")
    declared = tomllib.loads((folder / "pyproject.toml").read_text())["project"]["version"]
    if declared != version:
        raise ReleaseError(f"{tag}: packages/{package}/pyproject.toml has version {declared}")
    changelog = (folder / "CHANGELOG.md").read_text()
    if not re.search(rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d$", changelog, re.M):
        raise ReleaseError(f"{tag}: packages/{package}/CHANGELOG.md has no dated [{version}]")
    return package


if __name__ == "__main__":
    try:
        print(check_tag(sys.argv[1], Path(__file__).parent.parent))
    except ReleaseError as error:
        sys.exit(str(error))
