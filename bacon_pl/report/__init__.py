"""Reports of evaluations: tables and figures, in files and in loggers."""

from bacon_pl.report.figures import figures
from bacon_pl.report.place import EVALUATIONS, RESULTS, claimed, folder_name
from bacon_pl.report.publish import show, write_report
from bacon_pl.report.tables import markdown

__all__ = [
    "EVALUATIONS",
    "RESULTS",
    "claimed",
    "figures",
    "folder_name",
    "markdown",
    "show",
    "write_report",
]
