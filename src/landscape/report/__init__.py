"""One HTML page and one terminal summary from what a run found."""

from landscape.report.page import Page, Picture, Table

__all__ = ["Page", "Picture", "Table"]
