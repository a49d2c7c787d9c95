"""Render a page of this folder into one HTML file that opens offline."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from mlx_trainer import write_atomic


def write_html(path: Path, template: str, values: Mapping[str, Any]) -> None:
    """Render `template`, which may include the other files of this folder, and write it."""
    loader = jinja2.PackageLoader("mlx_kaggle", "report")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined
    )
    html = environment.get_template(template).render(values)
    # Names of files may contain invalid UTF-8.
    write_atomic(path, lambda temporary: temporary.write_text(html, "utf-8", "backslashreplace"))
