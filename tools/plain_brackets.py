"""A Griffe extension for zensical.toml: brackets in docstrings are text.

Markdown takes `[CLS] [SEP]` for a link; with this it needs no code marks to be none.
"""

import re
from typing import Any

import griffe

BETWEEN = re.compile(r"\](?=\s?\[)")


class PlainBrackets(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring:
            parts = obj.docstring.value.split("`")
            parts[::2] = [BETWEEN.sub(r"\\]", text) for text in parts[::2]]
            obj.docstring.value = "`".join(parts)
