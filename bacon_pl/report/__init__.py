"""Evaluations as people read them: tables and pictures, in files and in TensorBoard. Nothing is trained here."""

from bacon_pl.report.figures import figures
from bacon_pl.report.publish import show, write_report
from bacon_pl.report.tables import markdown

__all__ = ["figures", "markdown", "show", "write_report"]
