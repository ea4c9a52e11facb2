"""One HTML page per run, comparison or file of structures: tables, curves, and structures that turn in 3D, offline."""

from megen_gym.report.command import report
from megen_gym.report.content import Chart, Histogram, Report, Series, Table
from megen_gym.report.folder import report_of_run, report_of_structures, report_run
from megen_gym.report.page import write_report

__all__ = [
    "Chart",
    "Histogram",
    "Report",
    "Series",
    "Table",
    "report",
    "report_of_run",
    "report_of_structures",
    "report_run",
    "write_report",
]
