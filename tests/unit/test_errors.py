"""The tree of errors: as drawn, with the built-ins it promises, and whole after a journey between processes."""

from __future__ import annotations

import copy
import inspect
import pickle
import re

import pytest

from daqca import errors
from daqca.errors import CASeverityException, ChannelAccessGetFailure, ChannelError, DaqcaError

LEAVES = {
    "PVNotFoundError": LookupError,
    "PVDisconnectedError": ConnectionError,
    "PVTimeoutError": TimeoutError,
    "AccessRightsError": PermissionError,
    "RefusedError": RuntimeError,
    "ConversionError": ValueError,
    "ProtocolError": ValueError,
    "TransportError": ValueError,
    "ConfigurationError": ValueError,
    "NameListError": ValueError,
    "EngineClosedError": RuntimeError,
    "WorkerError": RuntimeError,
    "RecordingError": OSError,
}
LOW_LEVEL = ("ContextClosedError", "ChannelAccessException", "CASeverityException", "ChannelAccessGetFailure")
ALL = sorted(
    (cls for _, cls in inspect.getmembers(errors, inspect.isclass) if cls.__module__ == errors.__name__),
    key=lambda cls: cls.__name__,
)


def make(cls: type[DaqcaError]) -> DaqcaError:
    if issubclass(cls, ChannelError):
        return cls("get X:ai: nothing came; see the IOC", pvname="X:ai", operation="get", eca=80)
    if issubclass(cls, CASeverityException):
        return cls("put", "Write access denied")
    if issubclass(cls, ChannelAccessGetFailure):
        return cls("get X:ai: read access denied", 4096, 368)
    return cls("open run.h5: the disk is full; free some space")


def tree(cls: type[DaqcaError], indent: str = "") -> list[str]:
    """The tree as the module's docstring draws it, without its words of explanation."""
    lines = []
    children = [child for child in cls.__subclasses__() if child in ALL]
    for child in children:
        last = child is children[-1]
        lines.append(f"{indent}{'└' if last else '├'}── {child.__name__}{builtin(child)}")
        lines += tree(child, indent + ("    " if last else "│   "))
    return lines


def builtin(cls: type[DaqcaError]) -> str:
    bases = [base.__name__ for base in cls.__bases__ if not issubclass(base, DaqcaError)]
    return f" ({bases[0]})" if bases and cls is not DaqcaError else ""


def test_the_tree_in_the_docstring_is_the_real_one() -> None:
    drawn = [line for line in (errors.__doc__ or "").splitlines() if "── " in line]
    shape = [re.sub(r"^(.*── \w+) *(\(\w+\))?.*$", r"\1 \2", line).rstrip() for line in drawn]
    assert shape == tree(DaqcaError)


def test_there_is_no_error_outside_the_tree() -> None:
    assert {cls.__name__ for cls in ALL} == {"DaqcaError", "ChannelError", *LOW_LEVEL, *LEAVES}
    assert all(issubclass(cls, DaqcaError) for cls in ALL)


@pytest.mark.parametrize("name", LEAVES)
def test_a_leaf_is_caught_as_the_builtin_it_resembles(name: str) -> None:
    with pytest.raises(LEAVES[name], match="; "):
        raise make(getattr(errors, name))


@pytest.mark.parametrize("cls", ALL)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_error_survives_pickling_with_all_it_carries(cls: type[DaqcaError], protocol: int) -> None:
    error = make(cls)
    error.extra = {"worker": 2}  # type: ignore[attr-defined]
    again = pickle.loads(pickle.dumps(error, protocol))
    assert type(again) is cls
    assert str(again) == str(error)
    assert again.args == error.args
    assert vars(again) == vars(error)
    assert again.extra == {"worker": 2}


@pytest.mark.parametrize("cls", [cls for cls in ALL if issubclass(cls, ChannelError)])
def test_errors_of_a_channel_say_which_and_why(cls: type[ChannelError]) -> None:
    error = copy.copy(make(cls))
    assert isinstance(error, ChannelError)
    assert (error.pvname, error.operation, error.eca) == ("X:ai", "get", 80)
    assert str(error) == "get X:ai: nothing came; see the IOC"
    assert cls("no", pvname="X:ai", operation="put").eca is None
    with pytest.raises(TypeError, match="pvname"):
        cls("no")  # type: ignore[call-arg]


def test_a_leaf_whose_constructor_asks_for_more_survives_too() -> None:
    error = pickle.loads(pickle.dumps(Particular("X:ai", 3)))
    assert (error.pvname, error.operation, error.eca, str(error)) == ("X:ai", "put", 3, "put X:ai failed")


class Particular(ChannelError):
    """An error whose arguments are not those of its base."""

    def __init__(self, pvname: str, eca: int):
        super().__init__(f"put {pvname} failed", pvname=pvname, operation="put", eca=eca)
