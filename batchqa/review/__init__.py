"""Looking at an output: rows chosen by filters, in the terminal or as one HTML page."""

from batchqa.review.choosing import Choice, choose
from batchqa.review.outputs import LISTS, OF_A_ROW, Output, Row, open_output
from batchqa.review.page import write_page
from batchqa.review.terminal import render_rows

__all__ = [
    "LISTS",
    "OF_A_ROW",
    "Choice",
    "Output",
    "Row",
    "choose",
    "open_output",
    "render_rows",
    "write_page",
]
