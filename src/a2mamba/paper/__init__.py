"""The paper as commands: its tables and figures with our numbers beside them, and its ablations as models."""

from a2mamba.paper.report import Cell, Report, ReportRow, Speed, report
from a2mamba.paper.results import Result, read_results, record_result
from a2mamba.paper.tables import Column, Row, Table, find_table, tables

__all__ = [
    "Cell",
    "Column",
    "Report",
    "ReportRow",
    "Result",
    "Row",
    "Speed",
    "Table",
    "find_table",
    "read_results",
    "record_result",
    "report",
    "tables",
]
