"""The metadata of many PVs in columns; that of one PV is `daqca.reading.Metadata`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from daqca.reading import LIMITS, Metadata, decode_text, encode_text

NO_PRECISION = -1
"""The precision, in the column, of a PV that has none."""


class MetadataColumns:
    """Units, precision, limits and enum states of n PVs.

    Parameters
    ----------
    units
        dtype ``S8``, shape (n,).
    precision
        dtype i2, shape (n,); -1 where there is none.
    limits
        dtype f8, shape (n, 8), in the order of `daqca.reading.LIMITS`; NaN where there is none.
    enum_strings
        The states of each enum PV, by index.
    """

    __slots__ = ("enum_strings", "limits", "precision", "units")

    def __init__(
        self,
        units: npt.ArrayLike,
        precision: npt.ArrayLike,
        limits: npt.ArrayLike,
        enum_strings: Mapping[int, tuple[str, ...]],
    ):
        self.units: npt.NDArray[Any] = np.asarray(units, "S8")
        self.precision: npt.NDArray[np.int16] = np.asarray(precision, np.int16)
        self.limits: npt.NDArray[np.float64] = np.asarray(limits, np.float64).reshape(-1, len(LIMITS))
        self.enum_strings = dict(enum_strings)

    @classmethod
    def empty(cls, size: int) -> MetadataColumns:
        """Columns for `size` PVs of which nothing is known yet."""
        return cls(np.zeros(size, "S8"), np.full(size, NO_PRECISION), np.full((size, len(LIMITS)), np.nan), {})

    def __len__(self) -> int:
        return len(self.units)

    def set(self, index: int, metadata: Metadata) -> None:
        """Put the metadata of one PV into the columns."""
        self.units[index] = encode_text(metadata.units, 8)
        self.precision[index] = NO_PRECISION if metadata.precision is None else metadata.precision
        self.limits[index] = [getattr(metadata, name) for name in LIMITS]
        if metadata.enum_strings:
            self.enum_strings[index] = metadata.enum_strings

    def __getitem__(self, index: int) -> Metadata:
        precision = int(self.precision[index])
        return Metadata(
            decode_text(bytes(self.units[index])),
            None if precision == NO_PRECISION else precision,
            self.enum_strings.get(index, ()),
            *self.limits[index].tolist(),
        )
