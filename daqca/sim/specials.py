"""The special records of the simulated control system: arrays of every type, long strings, counters, slow and odd ones.

There is one of each, named ``<prefix>wf:...`` and so on; ``specials_values`` tells what they serve.
"""

from __future__ import annotations

TEXT = "The quick brown fox jumps over the lazy dog, and over forty characters too."
WAVEFORM_SIZE = 16
# Twenty-four thousand bytes: a message of the large kind. There is room for much more.
LARGE_COUNT = 3000
LARGE_SIZE = 100_000
SLOW_PUT_S = 0.5
COUNTERS = 8

# Contents of the waveforms, by field type: the edges of each type among them.
WAVEFORMS: dict[str, list[int | float | str]] = {
    "CHAR": [-128, -1, 0, 1, 127],
    "UCHAR": [0, 1, 127, 128, 200, 255],
    "SHORT": [-32768, -1, 0, 1, 32767],
    "USHORT": [0, 1, 32767, 32768, 65535],
    "LONG": [-2147483648, -1, 0, 1, 2147483647],
    "ULONG": [0, 1, 2147483648, 4294967295],
    "INT64": [-(2**53), -1, 0, 2**53],
    "UINT64": [0, 1, 2**53],
    "FLOAT": [-1.5, 0.0, 0.25, 1e10],
    "DOUBLE": [-1.5, 0.0, 0.1, 1e300],
    "STRING": ["zero", "one", "", "the longest string of a PV has 39 chars"],
    "ENUM": [0, 1, 2, 65535],
}


def specials_text(prefix: str, rate_hz: float) -> str:
    """Return the database text of the special records.

    Parameters
    ----------
    prefix
        What every name begins with.
    rate_hz
        How often the changing ones change, per second.
    """
    scan = f"{rate_hz:g} Hz"
    return "\n".join((*_waveforms(prefix, scan), *_odd_ones(prefix), *_scaler(prefix)))


def specials_values(prefix: str) -> dict[str, object]:
    """Return what those special records serve that do not change by themselves, by name.

    Lists for arrays, whatever the type; text for the long strings.
    """
    values: dict[str, object] = {
        f"{prefix}wf:{field_type.lower()}": contents for field_type, contents in WAVEFORMS.items()
    }
    values[f"{prefix}wf:empty"] = []
    values[f"{prefix}wf:full"] = [float(index) for index in range(WAVEFORM_SIZE)]
    values[f"{prefix}wf:large"] = [float(index) for index in range(LARGE_COUNT)]
    values[f"{prefix}longstring"] = TEXT
    values[f"{prefix}lsi.VAL$"] = TEXT
    values[f"{prefix}slow"] = 0
    values[f"{prefix}undefined"] = 0.0
    return values


def array_names(prefix: str) -> list[str]:
    """Return the names of those special records that are arrays or long strings."""
    arrays = [name for name, value in specials_values(prefix).items() if isinstance(value, list | str)]
    return [*arrays, f"{prefix}history"]


def _waveforms(prefix: str, scan: str) -> list[str]:
    def waveform(name: str, field_type: str, size: int, contents: str) -> str:
        return (
            f'record(waveform,"{prefix}{name}"){{field(PINI,YES)field(FTVL,{field_type})field(NELM,{size})'
            f'{contents}field(EGU,"a.u.")field(PREC,3)}}'
        )

    def constant(values: list[int | float | str]) -> str:
        items = (f'"{value}"' if isinstance(value, str) else repr(value) for value in values)
        return f"field(INP,[{','.join(items)}])"

    texts = [
        waveform(f"wf:{field_type.lower()}", field_type, WAVEFORM_SIZE, constant(contents))
        for field_type, contents in WAVEFORMS.items()
    ]
    texts.append(waveform("wf:empty", "DOUBLE", WAVEFORM_SIZE, ""))
    texts.append(waveform("wf:full", "DOUBLE", WAVEFORM_SIZE, constant([float(i) for i in range(WAVEFORM_SIZE)])))
    # Quoted: the parser of the database takes no bare list of more than some hundred numbers,
    # and no string beyond 16 kB.
    large = ",".join(map(str, range(LARGE_COUNT)))
    texts.append(waveform("wf:large", "DOUBLE", LARGE_SIZE, f'field(INP,"[{large}]")'))
    texts.append(waveform("longstring", "CHAR", 256, constant([ord(letter) for letter in TEXT])))
    # The last counts, as many as there were up to 100: an array that changes, and grows.
    texts.append(f'record(calc,"{prefix}history:count"){{field(CALC,"VAL+1")}}')
    texts.append(
        f'record(compress,"{prefix}history"){{field(SCAN,"{scan}")field(INP,"{prefix}history:count PP")'
        f'field(ALG,"Circular Buffer")field(NSAM,100)}}'
    )
    return texts


def _odd_ones(prefix: str) -> list[str]:
    return [
        f'record(lsi,"{prefix}lsi"){{field(PINI,YES)field(SIZV,200)field(INP,{{const:"{TEXT}"}})}}',
        f'record(ai,"{prefix}undefined"){{}}',
        # A put of 1 with completion ends after the delay, when it is 0 again.
        f'record(bo,"{prefix}slow"){{field(PINI,NO)field(VAL,0)field(ZNAM,"Done")field(ONAM,"Busy")'
        f'field(FLNK,"{prefix}slow:delay")}}',
        f'record(seq,"{prefix}slow:delay"){{field(SELM,Mask)field(SELL,"{prefix}slow.VAL")'
        f'field(DLY1,{SLOW_PUT_S})field(DO1,0)field(LNK1,"{prefix}slow.VAL NPP")}}',
    ]


def _scaler(prefix: str) -> list[str]:
    """Return a set of counters like a scaler's: they count in ticks of 0.1 s while ``CNT`` is 1.

    Counter ``Si`` gains ``i * 10`` with each tick, the time ``T`` a tenth of a
    second; at the preset time ``TP`` they stop and ``CNT`` is 0 again.
    """
    scaler = f"{prefix}scaler:"
    texts = [
        f'record(bo,"{scaler}CNT"){{field(VAL,0)field(ZNAM,"Done")field(ONAM,"Count")field(FLNK,"{scaler}start")}}',
        # On the way from Done to Count everything begins at zero.
        f'record(calcout,"{scaler}start"){{field(INPA,"{scaler}CNT")field(CALC,"A")'
        f'field(OOPT,"Transition To Non-zero")field(OCAL,"0")field(DOPT,"Use OCAL")'
        f'field(OUT,"{scaler}ticks.VAL NPP")}}',
        f'record(ao,"{scaler}TP"){{field(PINI,YES)field(VAL,1)field(EGU,"s")field(PREC,3)}}',
        f'record(calc,"{scaler}ticks"){{field(SCAN,".1 second")field(INPA,"{scaler}CNT")field(CALC,"A?VAL+1:VAL")'
        f'field(FLNK,"{scaler}T")}}',
        f'record(calc,"{scaler}T"){{field(INPA,"{scaler}ticks")field(CALC,"A/10")field(EGU,"s")field(PREC,3)'
        f'field(FLNK,"{scaler}S1")}}',
    ]
    for index in range(1, COUNTERS + 1):
        following = f"S{index + 1}" if index < COUNTERS else "stop"
        texts.append(
            f'record(calc,"{scaler}S{index}"){{field(INPA,"{scaler}ticks")field(CALC,"A*{index * 10}")'
            f'field(EGU,"counts")field(FLNK,"{scaler}{following}")}}'
        )
    texts.append(
        f'record(calcout,"{scaler}stop"){{field(INPA,"{scaler}T")field(INPB,"{scaler}TP")field(INPC,"{scaler}CNT")'
        f'field(CALC,"C&&(A>=B)")field(OOPT,"When Non-zero")field(OCAL,"0")field(DOPT,"Use OCAL")'
        f'field(OUT,"{scaler}CNT PP")}}'
    )
    return texts
