"""The paper as commands: its tables and figures with our numbers beside them, and its ablations as models."""

from a2mamba.paper.report import Cell, Report, ReportRow, Speed, make_report
from a2mamba.paper.results import Result, network_name, read_results, record_result
from a2mamba.paper.tables import Column, Row, Table, find_table, published_tables

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
    "make_report",
    "network_name",
    "published_tables",
    "read_results",
    "record_result",
]
