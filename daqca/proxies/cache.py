"""The cache of PVs by name, form and context: of one name `get_pv` gives one PV. Manual, chapter 3.7."""

from __future__ import annotations

import logging
from collections.abc import Iterator, MutableMapping
from typing import TYPE_CHECKING, Any

import daqca.ca as ca

if TYPE_CHECKING:
    from daqca.pv_proxy import PV

log = logging.getLogger("daqca.pv")

Key = tuple[Any, ...]


class Cache(MutableMapping[Key, "PV"]):
    """``_PVcache_``: (name, form, context) to PV.

    A PV belongs to an engine and to no context of `daqca.ca`: whatever context is asked for, the PV is the same, and
    keys are listed with the current one.
    """

    def __init__(self) -> None:
        self._pvs: dict[tuple[str, str], PV] = {}

    def __getitem__(self, key: Key) -> PV:
        return self._pvs[key[0], key[1]]

    def __setitem__(self, key: Key, pv: PV) -> None:
        self._pvs[key[0], key[1]] = pv

    def __delitem__(self, key: Key) -> None:
        del self._pvs[key[0], key[1]]

    def __iter__(self) -> Iterator[Key]:
        context = None if ca.initial_context is None else ca.current_context()
        return iter([(*key, context) for key in self._pvs])

    def __len__(self) -> int:
        return len(self._pvs)

    def discard(self, pv: PV) -> None:
        """Forget this PV, if it is here."""
        if self._pvs.get((pv.pvname, pv.form)) is pv:
            del self._pvs[pv.pvname, pv.form]


cache = Cache()
"""The one of this process."""
