"""The report card of a whole run, from text to chat: numbers as JSON, a page, curves.

Everything is read from run folders, as they are, finished or not; nothing is computed anew.
"""

from mlx_gpt.report.card import make_report, write_report_card
from mlx_gpt.report.markdown import page, summary_table
from mlx_gpt.report.runs import Run, read_runs

__all__ = ["Run", "make_report", "page", "read_runs", "summary_table", "write_report_card"]
