"""One HTML page and one terminal summary from what a run found."""

from landscape.report.page import DPI, Page, Picture, Table

__all__ = ["DPI", "Page", "Picture", "Table"]
