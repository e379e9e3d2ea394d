"""Files whose bytes break off or make no sense half-way: what came before counts, and the reason is kept."""

from __future__ import annotations

import gzip
import lzma
import zlib
from collections.abc import Iterable, Iterator
from typing import TypeVar

import pyarrow as pa

T = TypeVar("T")


class TolerantRead:
    """The reading of one file. `reason`: what is wrong with it, empty as long as nothing is."""

    reason = ""

    def through(self, items: Iterable[T]) -> Iterator[T]:
        """The items up to the first that cannot be read. Errors of disk and network are raised: a retry may succeed."""
        try:
            yield from items
        except Exception as error:
            if not _of_content(error):
                raise
            self.reason = f"damaged, the rest cannot be read: {(str(error).splitlines() or [type(error).__name__])[0]}"


def _of_content(error: Exception) -> bool:
    kinds = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, pa.ArrowException, UnicodeDecodeError)
    # Arrow and bz2 raise a plain OSError for bytes that make no sense; an error of the system has a number.
    return isinstance(error, kinds) or (type(error) is OSError and error.errno is None)
