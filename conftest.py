"""Run the Python blocks of every README, top to bottom, with names shared between them."""

from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

try:
    import mlx_fastcpu
except ImportError:  # the environment holds one package, and it is another one
    pass
else:
    mlx_fastcpu.activate()

pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser()], patterns=["README.md", "packages/*/README.md"]
).pytest()
