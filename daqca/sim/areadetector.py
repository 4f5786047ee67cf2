"""The PVs of an areaDetector camera and of its image plugin: names, types and values at boot, as ADCore 3.14 has them.

Tables and the database text made of them; what makes the camera alive is in ``serve_camera.py``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

_DONE, _BUSY = "Done|Acquire", "Done|Acquiring"
_DATA_TYPES = "Int8|UInt8|Int16|UInt16|Int32|UInt32|Int64|UInt64|Float32|Float64"
_ATTRIBUTES_STATUS = "Attributes file OK|File not found|XML syntax error|Macro substitution error"

# One group a line: type, units, precision, states | names. A plus says that there
# is the same with _RBV too, which follows; an equals sign gives the value at boot.
_BOTH = f"""
text         | ADCoreVersion_RBV=3.14.0, Codec_RBV
enum {_DONE} | Acquire
enum {_BUSY} | AcquireBusy, AcquireBusyCB, Acquire_RBV
long         | ArrayCounter+, ArraySize0+, ArraySize1+, ArraySize2+, ArraySize3+, ArraySize4+, ArraySize5+, ArraySize6+
long         | ArraySize7+, ArraySize8+, ArraySize9+, ArraySizeZ_RBV, ArraySize_RBV, AsynIO, CompressedSize_RBV
long         | EpicsTSNsec_RBV, EpicsTSSec_RBV, NDimensions+, NumPreAllocBuffers+=100, NumQueuedArrays
long         | PoolAllocBuffers, PoolFreeBuffers, UniqueId_RBV
long[10]     | Dim0SA+, Dim1SA+, Dim2SA+, Dim3SA+, Dim4SA+, Dim5SA+, Dim6SA+, Dim7SA+, Dim8SA+, Dim9SA+, Dimensions+
double . 3   | TimeStamp_RBV
double Hz 2  | ArrayRate_RBV
double . 0   | ClearAcquireBusy, PoolUsedBuffers, SetAcquireBusy
double MB 1  | PoolMaxMem, PoolUsedMem
enum RGGB|GBRG|GRBG|BGGR | BayerPattern_RBV
enum |       | EmptyFreeList, PoolPollStats
enum {_ATTRIBUTES_STATUS} | NDAttributesStatus=1
enum Done|Allocate | PreAllocBuffers
enum No|Yes  | WaitForPlugins
char[256]    | NDAttributesFile, NDAttributesMacros
"""

_CAMERA = f"""
text         | DriverVersion_RBV=2.11.0, FirmwareVersion_RBV=No firmware, Manufacturer_RBV=Simulated detector
text         | Model_RBV=Basic simulator, PortName_RBV=SIM1, SDKVersion_RBV=2.11.0, SerialNumber_RBV=No serial number
double . 3   | AcquirePeriod+=0.005, AcquireTime+=0.001, Gain+=1, ShutterCloseDelay+, ShutterOpenDelay+
double . 3   | TimeRemaining_RBV
double . 2   | GainBlue+=1, GainGreen+=1, GainRed+=1, GainX+=1, GainY+=1, XSine1Amplitude+=1, XSine1Frequency+=1
double . 2   | XSine1Phase+, XSine2Amplitude+=1, XSine2Frequency+=2, XSine2Phase+=90, YSine1Amplitude+=1
double . 2   | YSine1Frequency+=1, YSine1Phase+, YSine2Amplitude+=1, YSine2Frequency+=2, YSine2Phase+=90
double . 1   | Noise+, Offset+, PeakVariation+
double C 1   | Temperature+=25, TemperatureActual
double . 0   | ShutterCloseEPICS, ShutterOpenEPICS
long         | ArraySizeX_RBV=1024, ArraySizeY_RBV=1024, BinX+=1, BinY+=1, MaxSizeX_RBV=1024, MaxSizeY_RBV=1024
long         | MinX+, MinY+, NumExposures+=1, NumExposuresCounter_RBV, NumImages+=100, NumImagesCounter_RBV
long         | PeakNumX+=1, PeakNumY+=1, PeakStartX+=1, PeakStartY+=1, PeakStepX+=1, PeakStepY+=1
long         | PeakWidthX+=10, PeakWidthY+=20, Reset+=1, ShutterFanout, SizeX+=1024, SizeY+=1024
enum Disable|Enable | ArrayCallbacks+=1
enum Mono|RGB1|RGB2|RGB3 | ColorMode+
enum {_DATA_TYPES} | DataType+=1
enum Idle|Acquire|Readout|Correct|Saving|Aborting|Error|Waiting|Initializing|Disconnected|Aborted | DetectorState_RBV
enum |       | ReadStatus=1
enum Normal|Background|FlatField|DblCorrelation | FrameType+
enum Single|Multiple|Continuous | ImageMode+=2
enum No|Yes  | ReverseX+, ReverseY+
enum Close|Open | ShutterControl+
enum Closed|Open | ShutterControlEPICS, ShutterStatusEPICS_RBV, ShutterStatus_RBV
enum None|EPICS PV|Detector output | ShutterMode
enum None|EPICS PV|Camera output | ShutterMode_RBV
enum LinearRamp|Peaks|Sine|Offset&Noise | SimMode+
enum Internal|External | TriggerMode+
enum Add|Multiply | XSineOperation+, YSineOperation+
char[256]    | StatusMessage_RBV, StringFromServer_RBV, StringToServer_RBV
"""

_IMAGE = f"""
text         | DriverVersion_RBV=3.14.0, FirmwareVersion_RBV=Unknown, Manufacturer_RBV=Unknown, Model_RBV=Unknown
text         | NDArrayPort+=SIM1, PluginType_RBV=NDPluginStdArrays, PortName_RBV=Image1, SDKVersion_RBV=Unknown
text         | SerialNumber_RBV=Unknown
long         | ArraySizeX_RBV, ArraySizeY_RBV, DisorderedArrays+, DroppedArrays+, DroppedOutputArrays+
long         | MaxThreads_RBV=5, NDArrayAddress+, NumThreads+=1, QueueFree=20, QueueSize+=20, SortFree, SortSize+=20
char[12000000] | ArrayData
double . 0   | MaxArrayRate_COUT, QueueFreeLow=5, QueueUse, QueueUseHIGH=15, QueueUseHIHI=20, SortFreeLow=5
double . 3   | SortTime+=0.1
double ms 3  | ExecutionTime_RBV
double Hz 3  | MaxArrayRate+
double s 3   | MaxByteRate+, MinCallbackTime+
enum Disable|Enable | ArrayCallbacks+, EnableCallbacks+
enum No|Yes  | BlockingCallbacks+
enum Mono|Bayer|RGB1|RGB2|RGB3|YUV444|YUV422|YUV421 | ColorMode+
enum {_DATA_TYPES} | DataType+
enum |       | ProcessPlugin=1
enum Unsorted|Sorted | SortMode+
"""

_MULTI_BIT = ("ZR", "ON", "TW", "TH", "FR", "FV", "SX", "SV", "EI", "NI", "TE", "EL", "TV", "TT", "FT", "FF")


@dataclass(frozen=True, slots=True)
class DetectorPV:
    """A PV of a detector.

    Parameters
    ----------
    name
        The name after ``<prefix>cam1:`` or ``<prefix>image1:``.
    kind
        ``"text"``, ``"enum"``, ``"long"``, ``"double"``; ``"char"`` and ``"long"`` with ``size`` for arrays.
    size
        Maximum count; 1 for scalars.
    value
        The value at boot, as text; empty for nothing or zero.
    units, precision, states
        As served.
    follows
        The PV whose value this readback takes over, or empty.
    """

    name: str
    kind: str
    size: int = 1
    value: str = ""
    units: str = ""
    precision: int = 0
    states: tuple[str, ...] = ()
    follows: str = ""


def camera_pvs() -> dict[str, DetectorPV]:
    """Return the PVs of ``cam1``, by name."""
    return {pv.name: pv for pv in _parse(_BOTH + _CAMERA)}


def image_pvs() -> dict[str, DetectorPV]:
    """Return the PVs of ``image1``, by name."""
    return {pv.name: pv for pv in _parse(_BOTH + _IMAGE)}


def _parse(table: str) -> Iterator[DetectorPV]:
    for line in filter(None, table.splitlines()):
        head, _, names = line.rpartition(" | ")
        kind, _, details = head.strip().partition(" ")
        kind, _, size = kind.rstrip("]").partition("[")
        group = DetectorPV("", kind, int(size or 1))
        if kind == "enum":
            group = replace(group, states=tuple(details.strip().split("|")))
        elif kind == "double":
            units, precision = details.split()
            group = replace(group, units=units.replace(".", ""), precision=int(precision))
        for item in names.split(","):
            name, _, value = item.strip().partition("=")
            setpoint = name.removesuffix("+")
            yield replace(group, name=setpoint, value=value)
            if name != setpoint:
                yield replace(group, name=setpoint + "_RBV", value=value, follows=setpoint)


def detector_text(
    prefix: str, pvs: Mapping[str, DetectorPV], values: Mapping[str, object], driven: Collection[str]
) -> str:
    """Return the database text for the PVs of one part of a detector.

    Parameters
    ----------
    prefix
        ``<prefix>cam1:`` or ``<prefix>image1:``.
    pvs
        What there is.
    values
        Values at boot other than those of the table, by name.
    driven
        Readbacks that do not follow their setpoint: the camera says what they are.
    """
    followers = {pv.follows for pv in pvs.values() if pv.follows and pv.name not in driven}
    return "\n".join(
        _record(prefix, replace(pv, value=str(values.get(pv.name, pv.value))), pv.name in followers, driven)
        for pv in pvs.values()
    )


def _record(prefix: str, pv: DetectorPV, followed: bool, driven: Collection[str]) -> str:
    readback = pv.name.endswith("_RBV")
    fields = [("PINI", "YES")]
    if pv.size > 1:
        record_type = "waveform"
        fields += [("FTVL", pv.kind.upper()), ("NELM", str(pv.size))]
    elif pv.kind == "enum":
        # Two states are a binary record even where ADCore has more to say: clients see an enum.
        binary = len(pv.states) == 2
        record_type = ("bi" if readback else "bo") if binary else ("mbbi" if readback else "mbbo")
        codes = ("ZNAM", "ONAM") if binary else tuple(f"{code}ST" for code in _MULTI_BIT)
        fields += zip(codes, pv.states, strict=False)
        if not binary:
            fields += [(f"{code}VL", str(index)) for index, code in enumerate(_MULTI_BIT[: len(pv.states)])]
    else:
        names = {"text": ("stringin", "stringout"), "long": ("longin", "longout"), "double": ("ai", "ao")}
        record_type = names[pv.kind][0 if readback else 1]
        if pv.kind == "double":
            fields += [("EGU", pv.units), ("PREC", str(pv.precision))]
    if pv.size == 1:
        fields.append(("VAL", pv.value or ("" if pv.kind == "text" else "0")))
    if pv.follows and pv.name not in driven:
        fields.append(("INP", f"{prefix}{pv.follows}"))
    if followed:
        fields.append(("FLNK", f"{prefix}{pv.name}_RBV"))
    return f'record({record_type},"{prefix}{pv.name}"){{' + "".join(f'field({n},"{v}")' for n, v in fields) + "}"
