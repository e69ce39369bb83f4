"""A run as one HTML page that opens offline: curves, reconstructions, settings, versions, what went wrong."""

from mae_fast.downstream.report.page import write_report

__all__ = ["write_report"]
