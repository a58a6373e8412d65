"""Opens a text file, even if it is compressed or its encoding is not UTF-8."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

from ml_pipelines.errors import BadData, message_of
from ml_pipelines.text import quoted

if TYPE_CHECKING:
    from io import TextIOWrapper

SUFFIXES = (".gz", ".bz2", ".zst", ".zstd", ".xz")  # of compressed files; `open_text` looks at the first bytes instead
MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zXZ\x00": "xz", b"PK\x03\x04": "zip"}
NEARBY = 15  # a message shows this many bytes on each side of a byte that can't be decoded


def is_plain(file: Path, encoding: str) -> bool:
    """Return whether a file is not compressed, and its encoding is UTF-8."""
    return _compression(file) is None and is_utf8(encoding)


def is_utf8(encoding: str) -> bool:
    """Return whether `encoding` is one of the names of UTF-8."""
    return codecs.lookup(encoding).name in ("utf-8", "utf-8-sig")


@contextmanager
def open_text(file: Path, encoding: str) -> Iterator[TextIOWrapper]:
    """Open a file for reading its lines, with their ends and without a byte order mark.

    Raises:
        BadData: the file is an archive, damaged, or not in `encoding`.
    """
    kind = _compression(file)
    if kind == "zip":
        raise BadData(f"{file} is a zip archive or an Excel workbook. Unpack it, or save it as CSV in UTF-8.")
    try:
        with _decompressed(file, kind) as content:
            start = content.peek(4)[:4]
            if start.startswith(codecs.BOM_UTF8) and not is_utf8(encoding):
                raise BadData(f"{file} is in UTF-8. Remove data.source.encoding.")
            if start[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) and codecs.lookup(encoding).name[:6] == "utf-16":
                encoding = "utf-16"  # this codec removes the byte order mark
            name = "utf-8-sig" if is_utf8(encoding) else encoding
            with io.TextIOWrapper(content, encoding=name, newline="") as lines:
                yield lines
    except (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError) as error:
        raise BadData(f"{file} is damaged: {message_of(error)}. Compress it again.") from error
    except OSError as error:
        if kind is None or error.errno is not None:
            raise
        raise BadData(f"{file} is damaged: {message_of(error)}. Compress it again.") from error


def encoding_advice(error: UnicodeDecodeError) -> str:
    """Return what to do about a file that is not in the encoding: the encoding that it probably has."""
    start, content = error.start, error.object
    if content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return 'It is in UTF-16, as Excel\'s "Unicode text" is. Set data.source.encoding=utf-16.'
    try:
        nearby = content[max(0, start - NEARBY) : start + NEARBY].decode("cp1252").strip()
    except UnicodeDecodeError:
        nearby = "\0"
    if any(ord(char) < 32 and char not in "\t\r\n" for char in nearby):
        return "Save it as CSV in UTF-8."
    shown = quoted(max(nearby.splitlines(), key=lambda line: not line.isascii()))
    return f"Set data.source.encoding, perhaps to cp1252: then the text there is {shown}. Or save it as CSV in UTF-8."


def _compression(file: Path) -> str | None:
    with file.open("rb") as content:
        start = content.read(max(map(len, MAGIC)))
    return next((name for magic, name in MAGIC.items() if start.startswith(magic)), None)


def _decompressed(file: Path, kind: str | None) -> io.BufferedReader:
    opened: IO[bytes]
    if kind == "zstd":
        import pyarrow as pa

        opened = pa.input_stream(str(file), compression="zstd")
    else:
        opened = {"gzip": gzip.open, "bz2": bz2.open, "xz": lzma.open}.get(str(kind), open)(file, "rb")  # type: ignore[operator]
    return opened if isinstance(opened, io.BufferedReader) else io.BufferedReader(cast(io.RawIOBase, opened))
