"""The HTML report: one self-contained file for people, plots included.

In: a certificate as data and what its run folders add. Out: HTML text.
Must not depend on: how a number was made.
"""

from evalkit.report.html.page import html_report

__all__ = ["html_report"]
