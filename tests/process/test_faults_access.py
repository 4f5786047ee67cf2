"""Access security: what may not be read or written says so, and rights that change are followed at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from support.access import VALUE, AccessIOC
from support.engines import MakeEngine, Seen

from daqca.ca import eca
from daqca.errors import AccessRightsError
from daqca.events import Access, Kind
from daqca.outcome import Outcome

NO_READ = eca.message_number(eca.ECA.NORDACCESS)


def test_rights_of_each_kind(access_ioc: AccessIOC, point_at: Callable[..., Any], make_engine: MakeEngine):
    point_at(access_ioc)
    engine = make_engine()
    everything, unwritable, unreadable = map(access_ioc.name, ("open", "nowrite", "noread"))
    names = [everything, unwritable, unreadable]
    assert [info.access for info in engine.connect(names, timeout=20)] == [
        *(Access.READ | Access.WRITE, Access.READ, Access.NONE),
    ]
    for form in ("time", "ctrl"):
        snap = engine.snapshot(names, timeout=20, form=form)
        assert snap.outcome.tolist() == [Outcome.OK, Outcome.OK, Outcome.NO_READ_ACCESS]
        assert snap.values == [VALUE, VALUE, None]
        assert snap.missing == {unreadable: Outcome.NO_READ_ACCESS}
    with pytest.raises(AccessRightsError, match=f"cannot read {unreadable}.*access security") as caught:
        engine.get(unreadable, timeout=20)
    assert caught.value.eca == eca.ECA.NORDACCESS
    assert isinstance(caught.value, PermissionError)
    for name in (unwritable, unreadable):
        with pytest.raises(AccessRightsError, match=f"cannot write {name}") as caught:
            engine.put(name, 1, timeout=20)
        assert caught.value.eca == eca.ECA.NOWTACCESS
    for wait in (True, False):
        result = engine.put_many(names, [8, 8, 8], wait=wait, timeout=20)
        sent = Outcome.OK if wait else Outcome.SENT
        assert result.outcome.tolist() == [sent, Outcome.NO_WRITE_ACCESS, Outcome.NO_WRITE_ACCESS]
    seen = Seen()
    with engine.subscribe(names, seen):
        (refused,) = seen.wait_kind(Kind.REFUSED)
        assert (refused.slot, refused.status) == (2, NO_READ)
        seen.wait(lambda: seen.values(0) == [8.0] and seen.values(1) == [VALUE], "the values of the others")
        assert engine.snapshot(names, timeout=20, fresh=False).outcome.tolist() == [
            *(Outcome.OK, Outcome.OK, Outcome.NO_READ_ACCESS),
        ]


def test_rights_that_change(access_ioc: AccessIOC, point_at: Callable[..., Any], make_engine: MakeEngine):
    point_at(access_ioc)
    engine = make_engine()
    name, switch = access_ioc.name("sometimes"), access_ioc.name("switch")
    seen, late = Seen(), Seen()

    def turn(position: int, access: Access) -> None:
        changes = len(seen.events(Kind.ACCESS))
        engine.put(switch, position, timeout=20)
        assert seen.wait_kind(Kind.ACCESS, changes + 1)[-1].status == access

    with engine.subscribe([name], seen):
        assert seen.wait_kind(Kind.CONNECTED)[0].status == Access.READ
        seen.wait(lambda: seen.values() == [VALUE], "the first value")
        with pytest.raises(AccessRightsError, match="cannot write"):
            engine.put(name, 1)
        turn(1, Access.READ | Access.WRITE)
        engine.put(name, 1.5)
        seen.wait(lambda: seen.values()[-1] == 1.5, "the value put")
        assert engine.channels([name])[0].access == Access.READ | Access.WRITE
        turn(2, Access.NONE)
        assert seen.wait_kind(Kind.REFUSED)[0].status == NO_READ
        assert engine.snapshot([name], timeout=20).outcome.tolist() == [Outcome.NO_READ_ACCESS]
        # The last value is there, but nobody may see what it is now.
        assert engine.snapshot([name], timeout=20, fresh=False).outcome.tolist() == [Outcome.NO_READ_ACCESS]
        with pytest.raises(AccessRightsError, match="cannot read"):
            engine.get(name)
        with engine.subscribe([name], late):
            assert late.wait_kind(Kind.CONNECTED)[0].status == Access.NONE
            known = len(seen.values())
            turn(0, Access.READ)
            seen.wait(lambda: len(seen.values()) > known, "a value as soon as it may be read again")
            late.wait(lambda: late.values() and late.values()[-1] == 1.5, "the value for the second one")
        assert engine.get(name).value == 1.5
        assert engine.snapshot([name], fresh=False).outcome.tolist() == [Outcome.OK]
    assert not seen.events(Kind.DISCONNECTED)
