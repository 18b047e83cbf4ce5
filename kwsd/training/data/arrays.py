"""Arrays on disk that grow while they are written: what does not fit into memory."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import DTypeLike


class GrowingArray:
    """A `.npy` file to which rows are appended; `np.load` opens it once it is closed."""

    def __init__(self, path: Path, dtype: DTypeLike, columns: tuple[int, ...] = ()) -> None:
        """Begin the array `[row, *columns]` in `path`."""
        self.rows = 0
        self._dtype = np.dtype(dtype)
        self._columns = columns
        self._file = path.open("wb")
        self._write_header()

    def append(self, rows: np.ndarray) -> None:
        """Append `rows [row, *columns]`."""
        self._file.write(np.ascontiguousarray(rows, self._dtype).tobytes())
        self.rows += len(rows)

    def close(self) -> None:
        """Write how many rows there are, and close the file."""
        self._file.seek(0)
        self._write_header()  # numpy leaves room for the length to grow
        self._file.close()

    def __enter__(self) -> GrowingArray:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _write_header(self) -> None:
        header = {
            "descr": np.lib.format.dtype_to_descr(self._dtype),
            "fortran_order": False,
            "shape": (self.rows, *self._columns),
        }
        np.lib.format.write_array_header_1_0(self._file, header)
