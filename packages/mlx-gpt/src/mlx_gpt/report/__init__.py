"""The report card of runs of all stages: numbers as JSON, a Markdown page, curves.

All numbers are read from run folders, finished or not; no model is run.
"""

from mlx_gpt.report.card import make_report, write_report_card
from mlx_gpt.report.page import page, summary_table
from mlx_gpt.report.runs import Run, read_runs

__all__ = ["Run", "make_report", "page", "read_runs", "summary_table", "write_report_card"]
