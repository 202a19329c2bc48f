"""Cells of CSV tables that spreadsheets show as text and do not run as formulas.

A cell that starts with `=`, `+`, `-` or `@` is a formula to most spreadsheets, and a tag or caption
may come from a stranger's file. An apostrophe before it makes it text (OWASP, "CSV injection").
"""

import re

_FORMULA = re.compile("'*[=+\\-@\t\r＝＋－＠]")


def escape_cell(text: str) -> str:
    """The text with an apostrophe before it where it would be a formula."""
    return f"'{text}" if _FORMULA.match(text) else text


def escape_path(path: str) -> str:
    """The path of a file, as `./-a.jpg` where it would be a formula."""
    return f"./{path}" if _FORMULA.match(path) and not path.startswith("'") else path


def unescape_cell(cell: str) -> str:
    """The inverse of `escape_cell`."""
    return cell[1:] if cell[:1] == "'" and _FORMULA.match(cell) else cell
