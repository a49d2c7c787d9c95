"""The text that comes with Python."""

import abc
import inspect

from mlx_gpt.data.python_docs import find_docstrings, make_conversations, make_documents

MODULE = '''"""A module that is documented at some length here."""

class Box(dict):
    """Keeps things together, and gives them back by name.

    More about it.
    """

    def open(self, key, *, loud=False):
        """Return what is inside, or raise KeyError where nothing is."""

    def short(self):
        """Too short."""

async def wait(seconds: float) -> None:
    """Do nothing for so many seconds, and let others work."""
'''


def test_docstrings_become_documents_and_questions(tmp_path):
    (tmp_path / "toys").mkdir()
    (tmp_path / "toys" / "box.py").write_text(MODULE)
    (tmp_path / "toys" / "__init__.py").write_text("")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "skipped.py").write_text(MODULE)
    (tmp_path / "broken.py").write_text("def (:")
    found = list(find_docstrings(tmp_path))
    texts = make_documents(found)
    assert [text.split("\n")[0] for text in texts] == [
        "toys.box",
        "toys.box.Box(dict)",
        "toys.box.Box.open(self, key, *, loud=False)",
        "toys.box.wait(seconds: float)",
    ]
    asked = [row["messages"] for row in make_conversations(found)]
    assert asked[0][0]["content"] == "Explain toys.box.Box."
    assert asked[0][1]["content"] == "Keeps things together, and gives them back by name."
    assert len(asked) == 3


def test_the_standard_library_is_read_by_default():
    found = next(each for each in find_docstrings() if each.name == "abc.abstractmethod")
    assert found.signature == "(funcobj)"
    assert found.text == inspect.getdoc(abc.abstractmethod)
