"""The records that both libraries meet: one of every type and field type, and the odd ones.

``records(prefix)`` is one set of them. Those that are only read, a process shares with all others;
those that it writes are its own, so that nobody else's puts are seen.
"""

from __future__ import annotations

ELEMENTS = 8
LARGE = 70_000
TEXT = "A text that is longer than the forty characters of a string."
SLOW_S = 0.6
LONG_NAME = "long" * 7

_ARRAYS: dict[str, list[int | float | str]] = {
    "char": [-128, -1, 0, 1, 127],
    "uchar": [0, 1, 127, 128, 255],
    "short": [-32768, -1, 0, 1, 32767],
    "ushort": [0, 1, 32767, 32768, 65535],
    "long": [-2147483648, -1, 0, 1, 2147483647],
    "ulong": [0, 1, 2147483647, 2147483648, 4294967295],
    "int64": [-(2**53), -1, 0, 1, 2**53],
    "uint64": [0, 1, 2, 2**32, 2**53],
    "float": [-1.5, 0.0, 0.1, 1e10, 1.0],
    "double": [-1.5, 0.0, 0.1, 1e300, 1.0],
    "string": ["zero", "1", "", " spaces ", "the longest string of a PV has 39 chars"],
    "enum": [0, 1, 2, 3, 65535],
}

SCALARS = (
    *("ai", "hihi", "ao", "calc", "undefined", "longin", "longout", "int64in", "int64out"),
    *("bi", "bo", "mbbi", "mbbo", "full_mbbi", "stateless", "stringin", "stringout", "empty_string", "latin1"),
)
ARRAYS = tuple(_ARRAYS)
SINGLES = ("char", "uchar", "short", "float", "long", "double", "enum", "string")

READ = (
    *SCALARS,
    *(f"wf:{name}" for name in ARRAYS),
    *(f"one:{name}" for name in SINGLES),
    *(f"empty:{name}" for name in ("char", "double", "string", "enum")),
    *("text", "full", "aai", "compress", "lsi.VAL$", "lsi", "ai.DESC", "ai.DESC$", "ai.SCAN", "ai.PREC", "ai.PROC"),
    *("ai.HIHI", "ai.SEVR", "wf:double.NORD", "nowrite", "disabled"),
)
"""The endings of the PVs that are read, in every way."""

WRITTEN = (
    *("ao", "longout", "int64out", "bo", "mbbo", "stringout", "lso.VAL$", "ao.DESC", "ao.SCAN", "ao.PREC", "ao.PROC"),
    *(f"wf:{name}" for name in ARRAYS),
    *(f"one:{name}" for name in SINGLES),
    *("text",),
)
"""The endings of the PVs that are written, with every value."""


def access_rules() -> str:
    """Return the access security file: who may do what to ``nowrite`` and ``noread``."""
    return (
        "ASG(DEFAULT) { RULE(1, READ) RULE(1, WRITE) }\nASG(NOWRITE) { RULE(1, READ) }\nASG(NOREAD) { RULE(0, NONE) }"
    )


def records(prefix: str) -> str:
    """Return the database text of one set of records."""
    return "\n".join((*_scalars(prefix), *_arrays(prefix), *_odd_ones(prefix)))


def _record(kind: str, name: str, **fields: object) -> str:
    texts = {"PINI": "YES", **fields}
    return f'record({kind}, "{name}") {{ {" ".join(_field(name, value) for name, value in texts.items())} }}'


def _field(name: str, value: object) -> str:
    return f"field({name}, {value})" if str(value)[:1] in "[{" else f'field({name}, "{value}")'


_LIMITS = {"HOPR": 100, "LOPR": -100, "HIHI": 90, "HIGH": 10, "LOW": -10, "LOLO": -90}
_ALARMS = {"HHSV": "MAJOR", "HSV": "MINOR", "LSV": "MINOR", "LLSV": "MAJOR"}


def _scalars(prefix: str) -> list[str]:
    limits = {**_LIMITS, **_ALARMS}
    states = {f"{code}ST": f"state {code}" for code in ("ZR", "ON", "TW", "TH")}
    codes = ("ZR", "ON", "TW", "TH", "FR", "FV", "SX", "SV", "EI", "NI", "TE", "EL", "TV", "TT", "FT", "FF")
    many = {f"{code}ST": f"{code} has 25 characters in all"[:25] for code in codes}
    drive = {"DRVH": 1000, "DRVL": -1000}
    return [
        _record("ai", f"{prefix}ai", VAL=12.3456, PREC=3, EGU="mm", DESC="An analog input", **limits),
        _record("ai", f"{prefix}hihi", VAL=95, PREC=0, EGU="µm", **limits),
        _record("ao", f"{prefix}ao", VAL=-1.5, PREC=2, EGU="12345678", DESC="An analog output", **limits, **drive),
        _record("calc", f"{prefix}calc", CALC="2.5", PREC=15, EGU="V"),
        f'record(ai, "{prefix}undefined") {{ }}',
        _record("longin", f"{prefix}longin", VAL=-95, EGU="counts", **limits),
        _record("longout", f"{prefix}longout", VAL=7, EGU="steps", **limits, **drive),
        _record("int64in", f"{prefix}int64in", VAL=2**40, EGU="ns"),
        _record("int64out", f"{prefix}int64out", VAL=5, EGU="ns"),
        _record("bi", f"{prefix}bi", VAL=1, ZNAM="Off", ONAM="On", OSV="MINOR"),
        _record("bo", f"{prefix}bo", VAL=0, ZNAM="Off", ONAM="On"),
        _record("mbbi", f"{prefix}mbbi", VAL=2, TWSV="MAJOR", **states),
        _record("mbbo", f"{prefix}mbbo", VAL=1, **states),
        _record("mbbi", f"{prefix}full_mbbi", VAL=15, **many),
        _record("mbbi", f"{prefix}stateless", VAL=3),
        _record("stringin", f"{prefix}stringin", VAL="a string"),
        _record("stringout", f"{prefix}stringout", VAL="7"),
        f'record(stringin, "{prefix}empty_string") {{ field(PINI, YES) }}',
        _record("stringin", f"{prefix}latin1", VAL="5 µm ± 1"),
        _record("lsi", f"{prefix}lsi", SIZV=200, INP=f'{{const:"{TEXT}"}}'),
        _record("lso", f"{prefix}lso", SIZV=200),
    ]


def _arrays(prefix: str) -> list[str]:
    def waveform(name: str, ftvl: str, size: int, contents: str = "", kind: str = "waveform") -> str:
        fields = {"INP": contents} if contents else {}
        return _record(
            kind, prefix + name, FTVL=ftvl.upper(), NELM=size, EGU="a.u.", PREC=4, HOPR=50, LOPR=-50, **fields
        )

    def constant(values: list[int | float | str]) -> str:
        return "[" + ",".join(f'"{value}"' if isinstance(value, str) else repr(value) for value in values) + "]"

    codes: list[int | float | str] = [ord(letter) for letter in TEXT]
    return [
        *(waveform(f"wf:{name}", name, ELEMENTS, constant(values)) for name, values in _ARRAYS.items()),
        *(waveform(f"one:{name}", name, 1, constant(_ARRAYS[name][1:2])) for name in SINGLES),
        *(waveform(f"empty:{name}", name, ELEMENTS) for name in ("char", "double", "string", "enum")),
        waveform("text", "char", 80, constant(codes)),
        waveform("full", "double", ELEMENTS, constant([float(index) for index in range(ELEMENTS)])),
        waveform("aai", "long", ELEMENTS, constant([3, 2, 1]), "aai"),
        waveform("large", "char", LARGE),
        _record("compress", f"{prefix}compress", ALG="Circular Buffer", NSAM=ELEMENTS, INP=f"{prefix}ai"),
    ]


def _odd_ones(prefix: str) -> list[str]:
    return [
        _record("ao", f"{prefix}nowrite", VAL=7, ASG="NOWRITE"),
        _record("ao", f"{prefix}noread", VAL=7, ASG="NOREAD"),
        _record("ao", f"{prefix}disabled", VAL=7, DISP=1),
        _record("ao", f"{prefix}{LONG_NAME}", VAL=7),
        # A put of 1 with completion ends after the delay, when it is 0 again.
        _record("bo", f"{prefix}slow", PINI="NO", VAL=0, ZNAM="Done", ONAM="Busy", FLNK=f"{prefix}delay"),
        f'record(seq, "{prefix}delay") {{ field(SELM, Mask) field(SELL, "{prefix}slow.VAL") field(DLY1, {SLOW_S}) '
        f'field(DO1, 0) field(LNK1, "{prefix}slow.VAL NPP") }}',
    ]
