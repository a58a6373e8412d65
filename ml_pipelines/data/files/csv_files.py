"""Local CSV files: every line is checked, and every engine reads the same cells.

Spark reports no error in a CSV: it drops surplus cells, fills in missing cells, and reads everything after an open
quote as one cell. Files that engines read differently are copied once, as plain CSV in UTF-8.
"""

from __future__ import annotations

import csv
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from ml_pipelines.config.schema import Source
from ml_pipelines.data import engines, locations
from ml_pipelines.data.cells import BLANKS
from ml_pipelines.data.columns import check_width
from ml_pipelines.data.files import text_files
from ml_pipelines.errors import BadData, StepFailed, message_of
from ml_pipelines.text import listed, quoted

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, DataFrameReader, SparkSession

HEADER_MB = 8
ROW_LINES = 1000  # this many lines from a malformed row on are searched for a backslash before a quote
HEADER_LENGTH = HEADER_MB * 2**20  # in characters. One message to Spark must hold all column names
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?\r?\n?', re.IGNORECASE)  # some CSVs begin with such a line, for Excel


def read_csv(spark: SparkSession, local: Path, source: Source, max_columns: int, folder: Path) -> DataFrame:
    """Return the rows of a CSV file or folder, with all columns as text.

    Spark reads the columns by position, because engines treat blank and repeated names differently.

    Args:
        spark: the session.
        local: the file or folder.
        source: the source, with the separator, the encoding and the escape of its files.
        max_columns: the most columns that a file may have.
        folder: a folder for copies of files. The copies must exist until the rows are written.

    Raises:
        BadData: a line is malformed, the files have different headers, or a file has too many columns.
    """
    files = locations.data_files(local)
    if any("=" in part for file in files if file != local for part in file.relative_to(local).parent.parts):
        raise BadData(
            f"{local} has folders like name=value. Sail doesn't read such columns from CSV files. Use Parquet instead."
        )
    separator = source.separator if source.separator.isascii() else ","
    headers: dict[tuple[str, ...], Path] = {}
    paths = []
    for file in files:
        copy = None if is_plain(file, source) else _new_file(folder)
        headers.setdefault(tuple(_check_file(file, source, max_columns, copy, separator)), file)
        paths.append(str(copy or file))
    if len(headers) > 1:
        first, second, *_ = headers.values()
        raise BadData(f"{first} and {second} have different headers. Give all files of a folder the same header.")
    header = next(iter(headers))
    reader = _reader(spark, separator).schema(", ".join(f"_c{i} STRING" for i in range(len(header))))
    return reader.csv(paths).toDF(*header)


def read_header(file: Path, source: Source, max_columns: int) -> list[str]:
    """Return the column names of a CSV file. No row is read.

    Raises:
        BadData: the header is malformed, or has too many columns.
    """
    return _check_file(file, source, max_columns, None, source.separator, only_header=True)


def read_remote_csv(spark: SparkSession, uri: str, source: Source) -> DataFrame:
    """Return all columns of a CSV that is not on this machine as text. Nothing checks its lines.

    Raises:
        BadData: the file is missing or empty, or the engine is a Spark Connect server, which does not know this
            encoding, escape or separator.
    """
    reader = _reader(spark, source.separator, source.escape or '"').option("encoding", source.encoding)
    ordinary = text_files.is_utf8(source.encoding) and not source.escape and source.separator.isascii()
    if not ordinary and engines.is_connect(spark):  # Sail would ignore the encoding
        raise BadData(
            f"{uri}: data.source.encoding, data.source.escape and separators outside ASCII need a file on this machine "
            "or spark.engine=jvm. Save the file as CSV in UTF-8."
        )
    frame = reader.csv(uri)
    if not frame.columns:  # Sail reads a missing file as an empty one
        raise BadData(f"{uri} does not exist or is empty. Correct data.source.path.")
    return frame


def _reader(spark: SparkSession, separator: str, escape: str = '"') -> DataFrameReader:
    """Return Spark's reader for a CSV as RFC 4180 describes it."""
    return spark.read.options(header=True, sep=separator, quote='"', escape=escape, multiLine=True)


def is_plain(file: Path, source: Source) -> bool:
    """Return whether every engine reads the file alike, so that it needs no copy."""
    if not source.separator.isascii() or source.escape or locations.is_pattern(file):
        return False
    if not text_files.is_plain(file, source.encoding):
        return False
    with file.open("rb") as content:
        start = content.readline(100).removeprefix(b"\xef\xbb\xbf")
    return not _SEPARATOR_LINE.fullmatch(start.decode("latin-1"))


def _new_file(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix="csv-", dir=folder), "copy.csv")


class _Lines:
    """The lines of an opened CSV, from its header on. A first line `sep=;`, for Excel, sets `separator`."""

    def __init__(self, stream: TextIO, file: Path, source: Source) -> None:
        self._stream = stream
        self._file = file
        self._escape = source.escape
        first = self._read_header(0)
        match = _SEPARATOR_LINE.fullmatch(first)
        self._first = "" if match else first
        self.separator = match[1] if match else source.separator
        self.skipped = 1 if match else 0
        self.in_body = False  # `_check_file` sets this to True when it has read the header

    def __iter__(self) -> Iterator[str]:
        lines = chain(self._header_lines(), self._stream)
        return rfc_quotes(lines, self.separator, self._escape) if self._escape else lines

    def _header_lines(self) -> Iterator[str]:
        length, line = 0, self._first or self._read_header(0)
        while line:
            yield line
            if self.in_body:
                return
            length += len(line)
            line = self._read_header(length)

    def _read_header(self, length: int) -> str:
        """Return the next line of a header that has `length` characters so far.

        Raise BadData if the header is too long for a message to the engine. So a broken file can't fill the memory.
        """
        line = self._stream.readline(HEADER_LENGTH + 1 - length)
        if length + len(line) > HEADER_LENGTH:
            raise BadData(
                f"{self._file}: the header has more than {HEADER_MB} MB. Does the file have line breaks, and is every "
                "quote closed?"
            )
        return line


def rfc_quotes(lines: Iterator[str], separator: str, escape: str) -> Iterator[str]:
    r"""Return the lines with `""` for a quote that has `escape` before it, as Spark writes it in quoted cells.

    In a quoted cell, two escapes stand for one. Outside of quotes, the escape is an ordinary character, as for Spark.
    """
    mark = re.escape(escape)
    bare = re.compile(rf"[^{re.escape(separator)}]*{re.escape(separator)}?", re.DOTALL)
    token = re.compile(rf'[^"{mark}]+|{mark}"|{mark}{mark}|{mark}|""|"', re.DOTALL)
    changed = {f'{escape}"': '""', escape * 2: escape}
    inside = False
    for line in lines:
        parts, at = [], 0
        while at < len(line):
            opening = not inside and line[at] == '"' and (at == 0 or line[at - 1] == separator)
            match = token.match(line, at) if inside else None if opening else bare.match(line, at)
            part = match[0] if match else '"'
            inside = (inside or opening) and not (inside and part == '"')
            parts.append(changed.get(part, part) if match and match.re is token else part)
            at += len(part)
        yield "".join(parts)


def _check_file(
    file: Path, source: Source, max_columns: int, copy: Path | None, separator: str, only_header: bool = False
) -> list[str]:
    """Return the column names of a file after a check of every line. Write the lines to `copy` if it is not None."""
    csv.field_size_limit(2**31 - 1)
    header: list[str] = []
    line = 0
    with ExitStack() as opened:
        try:
            lines = _Lines(opened.enter_context(text_files.open_text(file, source.encoding)), file, source)
            write = _writer(opened, copy, separator) if copy else None
            reader = csv.reader(lines, delimiter=lines.separator, strict=True)
            line = lines.skipped
            for row in reader:
                if not header:
                    check_width(len(row), max_columns)
                    header = _header(row, file) if row else []
                    lines.in_body = bool(header)
                elif row and len(row) != len(header):
                    raise BadData(
                        f"{file}: line {line + 1} has {len(row)} cells, but the header has {len(header)}: "
                        f"{quoted(lines.separator.join(row))}. "
                        + (_escape_advice(file, source, line) or "Correct the line, or set data.source.separator.")
                    )
                if write and row:
                    write(row)
                if header and only_header:
                    break
                line = reader.line_num + lines.skipped
        except UnicodeDecodeError as error:
            name = "UTF-8" if text_files.is_utf8(source.encoding) else source.encoding
            raise BadData(
                f"{file} is not a CSV in {name}: {error.reason} in line {line + 1} or later. "
                f"{text_files.encoding_advice(error)}"
            ) from error
        except csv.Error as error:
            problem = "has a quote that is never closed" if "end of data" in str(error) else f"is malformed: {error}"
            advice = _escape_advice(file, source, line) or "Write a quote inside a cell as two quotes."
            raise BadData(f"{file}: line {line + 1} {problem}. {advice}") from error
    if not header:
        raise BadData(f"{file} is empty: all its lines are blank.")
    return header


def _writer(opened: ExitStack, copy: Path, separator: str) -> Callable[[Sequence[str]], None]:
    """Return a function that writes a row to `copy`."""
    writer = csv.writer(opened.enter_context(copy.open("w", encoding="utf-8", newline="")), delimiter=separator)

    def write(row: Sequence[str]) -> None:
        try:
            writer.writerow(row)
        except OSError as error:
            raise StepFailed(
                f"{copy} can't be written: {message_of(error)}. Set TMPDIR to a folder with more space."
            ) from error

    return write


def _escape_advice(file: Path, source: Source, line: int) -> str:
    """Return what to do if the row after `line` has a backslash before a quote, as Spark writes it. Else return ""."""
    with text_files.open_text(file, source.encoding) as lines:
        if source.escape or not any('\\"' in text for text in islice(lines, line, line + ROW_LINES)):
            return ""
    return "It has a backslash before a quote, as Spark writes it. Set data.source.escape to a backslash."


def _header(row: list[str], file: Path) -> list[str]:
    """Return the column names from a CSV's first line. A column without a name is `_c<position>`, as in Spark."""
    names = [name.strip(BLANKS) or f"_c{i}" for i, name in enumerate(row)]
    if "\0" in (text := "".join(row)):
        wide = "utf-16-le" if text[1:2] == "\0" else "utf-16-be" if text[:1] == "\0" else ""
        advice = f"Set data.source.encoding, perhaps to {wide}. Or save" if wide else "Save"
        raise BadData(f"{file} is not a CSV in UTF-8: it contains NUL bytes. {advice} it as CSV in UTF-8.")
    if repeated := sorted(name for name, count in Counter(names).items() if count > 1):
        raise BadData(f"{file}: the header has two columns named {listed(repeated)}. Rename one of them.")
    if len(names) == 1 and (other := next((mark for mark in ";\t|,§¦" if mark in names[0]), None)):
        raise BadData(
            f"{file} has only one column, {quoted(names[0])}. Set data.source.separator, perhaps to {other!r}."
        )
    return names
