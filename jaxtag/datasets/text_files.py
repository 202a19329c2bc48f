"""Text and JSON files of a source, with errors that name the file and the line."""

import json
from typing import Any

from jaxtag.datasets.archives import MAX_TEXT_BYTES, ReadError
from jaxtag.datasets.source_files import SourceFiles
from jaxtag.errors import UserError


def read_text(source: SourceFiles, name: str) -> str:
    """Reads a text file in UTF-8, with or without a byte order mark.

    Raises:
        UserError: It cannot be read, or is in another encoding (names the line).
    """
    try:
        data = source.read(name, MAX_TEXT_BYTES)
    except ReadError as error:
        raise UserError(f"{source.where(name)}: {error}") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{source.where(name)}, line {line}: not UTF-8 (byte 0x{data[error.start]:02x}); "
            "save the file as UTF-8"
        ) from error


def read_json(source: SourceFiles, name: str) -> Any:
    """Reads a JSON file.

    Raises:
        UserError: It cannot be read, or is no JSON (names the line).
    """
    where = source.where(name)
    try:
        return parse_json(read_text(source, name))
    except json.JSONDecodeError as error:
        raise UserError(
            f"{where}, line {error.lineno}: no JSON: {error.msg}; is the file cut short?"
        ) from error
    except RecursionError as error:
        raise UserError(f"{where}: no JSON of annotations: nested too deeply") from error


def parse_json(text: str) -> Any:
    """Parses JSON; integers of thousands of digits, which Python refuses, stay texts.

    Raises:
        json.JSONDecodeError, RecursionError: It is none, or nested too deeply.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise
    except ValueError:
        return json.loads(
            text, parse_int=lambda digits: digits if len(digits) > 99 else int(digits)
        )


def read_lines(source: SourceFiles, name: str) -> list[str]:
    """Reads the lines that are not blank, without white space around them."""
    return [line for _, line in numbered_lines(source, name)]


def numbered_lines(source: SourceFiles, name: str) -> list[tuple[str, str]]:
    """Reads the lines that are not blank, each as (its location for messages, the line)."""
    lines = enumerate(read_text(source, name).splitlines(), start=1)
    where = source.where(name)
    return [(f"{where}, line {number}", line.strip()) for number, line in lines if line.strip()]
