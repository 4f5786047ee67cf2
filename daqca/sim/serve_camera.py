"""The camera process: ``python -m daqca.sim.serve_camera``, settings on stdin (see ``CameraIOC``).

The records live in EPICS base through pythonSoftIOC; one Python thread makes the frames.
"""

from __future__ import annotations

import ctypes
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from .areadetector import DetectorPV, camera_pvs, detector_text, image_pvs
from .frames import DATA_TYPES, FramePattern
from .lifeline import adopt
from .readers import Readers

# Readbacks that the camera itself sets: they do not follow their setpoints.
_SIZES = frozenset(f"ArraySize{index}_RBV" for index in range(10))
_DRIVEN = _SIZES | {"ArrayCounter_RBV", "Acquire_RBV", "NDimensions_RBV", "Dimensions_RBV", "DataType_RBV"}
_DRIVEN |= {"DroppedArrays_RBV"}
# Records with Python behind them.
_ALIVE = ("Acquire", "ArrayCounter")
_SINGLE, _MULTIPLE, _CONTINUOUS = range(3)
_IDLE, _ACQUIRE = 0, 1
_RATE_PERIOD_S = 1.0
# Periods that the camera may be late and still make up for.
_MOST_LATE = 10


class Fields:
    """Reads and writes fields of records in this process, through the database and its locks.

    Parameters
    ----------
    prefix
        What every name begins with.
    """

    def __init__(self, prefix: str):
        from softioc import fields, imports

        self._prefix = prefix
        self._put: Callable[[str, int, int, int, bool], None] = imports.db_put_field_process
        self._get: Callable[[str, int, int, int], None] = imports.db_get_field
        self._long, self._double = fields.DBF_LONG, fields.DBF_DOUBLE
        self.array_types = {"CHAR": fields.DBF_CHAR, "SHORT": fields.DBF_SHORT, "LONG": fields.DBF_LONG}

    def post(self, name: str, value: float) -> None:
        """Write a number and process the record: its monitors see it before this returns to us."""
        number = ctypes.c_double(value)
        self._put(self._prefix + name, self._double, ctypes.addressof(number), 1, True)

    def post_array(self, name: str, field_type: str, address: int, count: int) -> None:
        """Write an array from memory and process the record."""
        self._put(self._prefix + name, self.array_types[field_type], address, count, True)

    def read(self, name: str) -> float:
        """Return a number."""
        number = ctypes.c_double()
        self._get(self._prefix + name, self._double, ctypes.addressof(number), 1)
        return number.value


class Camera:
    """What moves the records of a camera.

    Parameters
    ----------
    settings
        As ``CameraIOC`` sends them.
    """

    def __init__(self, settings: Mapping[str, Any]):
        self._prefix: str = settings["prefix"]
        self._dtype, self._field_type = DATA_TYPES[settings["data_type"]]
        self._fields = Fields(self._prefix)
        self._pattern = FramePattern(settings["width"], settings["height"], self._dtype)
        self._described = False
        self._counter = 0
        self._arrays = 0
        self._dropped = 0
        self._readers = Readers()
        self._posted_bytes = 0
        self._patience_s: float = settings["patience_s"]
        # Guards what puts of clients change: they come on threads of the IOC.
        self._changed = threading.Condition()
        self._acquiring = False
        self._waiting: list[Callable[[], None]] = []
        self._rate_since = (0.0, 0)

    def dispatch(
        self,
        function: Callable[..., object],
        func_args: tuple[Any, ...] = (),
        completion: Callable[..., None] | None = None,
        completion_args: tuple[Any, ...] = (),
    ) -> None:
        """Run what a put asks for, on the thread of the IOC and under the record's lock: it must only set flags.

        A record that blocks until the end of the acquisition is completed by then.
        """
        function(*func_args)
        if completion is None:
            return
        with self._changed:
            if self._acquiring and function == self.hold:
                self._waiting.append(lambda: completion(*completion_args))
                return
        completion(*completion_args)

    def set_acquire(self, value: int) -> None:
        """Start or stop, as a put to ``Acquire`` says."""
        with self._changed:
            self._acquiring = bool(value)
            self._changed.notify_all()

    def set_counter(self, value: int) -> None:
        """Number the next frame ``value + 1``, as a put to ``ArrayCounter`` says."""
        with self._changed:
            self._counter = value

    def hold(self, _value: int) -> None:
        """Do nothing: ``dispatch`` completes the record when the acquisition has ended."""

    def run(self, end: Callable[[int], None]) -> None:
        """Acquire whenever told to, for ever.

        Parameters
        ----------
        end
            Sets the ``Acquire`` record.
        """
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._acquiring)
            self._acquire()
            end(0)
            # Last: who waits for these may begin the next one, and nothing of this one ends it.
            self._fields.post("cam1:DetectorState_RBV", _IDLE)
            for name in ("cam1:Acquire_RBV", "cam1:AcquireBusy"):
                self._fields.post(name, 0)
            with self._changed:
                waiting, self._waiting = self._waiting, []
            for complete in waiting:
                complete()

    def _acquire(self) -> None:
        """Take the frames of one acquisition, until it has all or is stopped."""
        fields = self._fields
        mode = int(fields.read("cam1:ImageMode"))
        wanted = {_SINGLE: 1, _MULTIPLE: int(fields.read("cam1:NumImages"))}.get(mode)
        self._describe()
        for name in ("cam1:Acquire_RBV", "cam1:AcquireBusy"):
            fields.post(name, 1)
        fields.post("cam1:DetectorState_RBV", _ACQUIRE)
        fields.post("cam1:NumImagesCounter_RBV", 0)
        taken, due = 0, time.monotonic()
        self._rate_since = (due, 0)
        while wanted is None or taken < wanted:
            # A frame is there at the end of its period, as the exposure comes first.
            period = max(fields.read("cam1:AcquireTime_RBV"), fields.read("cam1:AcquirePeriod_RBV"), 0.0)
            now = time.monotonic()
            # After a late frame the next ones come closer, but not in a burst, until the rate is kept.
            due = max(due + period, now - _MOST_LATE * period)
            with self._changed:
                if self._changed.wait_for(lambda: not self._acquiring, max(0.0, due - now)):
                    break
                self._counter = number = self._counter + 1
            taken += 1
            self._expose(number, taken)
            self._tell_rate(taken)

    def _expose(self, number: int, taken: int) -> None:
        """Post one frame, and then the counters that tell of it."""
        fields = self._fields
        if self._size_asked_for() != (self._pattern.width, self._pattern.height):
            self._describe()
        plugin = fields.read("cam1:ArrayCallbacks_RBV") and fields.read("image1:EnableCallbacks_RBV")
        stamp = time.time()
        if plugin:
            self._arrays += 1
            self._post_frame(number, first=taken == 1)
            fields.post("image1:ArrayCounter_RBV", self._arrays)
            fields.post("image1:TimeStamp_RBV", stamp)
            fields.post("image1:UniqueId_RBV", number)
        fields.post("cam1:ArrayCounter_RBV", number)
        fields.post("cam1:NumImagesCounter_RBV", taken)
        fields.post("cam1:TimeStamp_RBV", stamp)
        fields.post("cam1:UniqueId_RBV", number)

    def _post_frame(self, number: int, first: bool) -> None:
        """Post the pixels, when all who read the frames have the one before."""
        if not self._readers.wait(self._posted_bytes, self._patience_s):
            self._dropped += 1
            self._fields.post("image1:DroppedArrays_RBV", self._dropped)
        if first:
            self._readers.expect_anybody()
        with self._pattern.lend(number) as pixels:
            self._posted_bytes = pixels.nbytes
            self._fields.post_array("image1:ArrayData", self._field_type, pixels.ctypes.data, pixels.size)

    def _describe(self) -> None:
        """Take over the size asked for, and tell of it."""
        fields = self._fields
        width, height = self._size_asked_for()
        if (width, height) != (self._pattern.width, self._pattern.height):
            self._pattern = FramePattern(width, height, self._dtype)
        dimensions = (ctypes.c_int32 * 2)(width, height)
        for part in ("cam1:", "image1:"):
            fields.post(part + "ArraySizeX_RBV", width)
            fields.post(part + "ArraySizeY_RBV", height)
            fields.post(part + "ArraySize_RBV", width * height * self._dtype.itemsize)
            fields.post(part + "ArraySize0_RBV", width)
            fields.post(part + "ArraySize1_RBV", height)
            fields.post(part + "NDimensions_RBV", 2)
            fields.post_array(part + "Dimensions_RBV", "LONG", ctypes.addressof(dimensions), 2)

    def _size_asked_for(self) -> tuple[int, int]:
        return int(self._fields.read("cam1:SizeX_RBV")), int(self._fields.read("cam1:SizeY_RBV"))

    def _tell_rate(self, taken: int) -> None:
        since, before = self._rate_since
        now = time.monotonic()
        if now - since >= _RATE_PERIOD_S:
            for part in ("cam1:", "image1:"):
                self._fields.post(part + "ArrayRate_RBV", (taken - before) / (now - since))
            self._rate_since = (now, taken)


def database_text(settings: Mapping[str, Any]) -> str:
    """Return the records without Python behind them, the probe among them."""
    prefix, (_, field_type) = settings["prefix"], DATA_TYPES[settings["data_type"]]
    index = list(DATA_TYPES).index(settings["data_type"])
    width, height, period = settings["width"], settings["height"], settings["period_s"]
    sizes = {"X": width, "Y": height}
    camera: dict[str, object] = {"DataType": index, "DataType_RBV": index}
    for axis, pixels in sizes.items():
        names = (f"Size{axis}", f"Size{axis}_RBV", f"MaxSize{axis}_RBV", f"ArraySize{axis}_RBV")
        camera.update(dict.fromkeys(names, pixels))
    camera.update(dict.fromkeys(("AcquirePeriod", "AcquirePeriod_RBV"), period))
    # The exposure may not make the period longer than it is asked to be.
    camera.update(dict.fromkeys(("AcquireTime", "AcquireTime_RBV"), min(0.001, period)))
    image: dict[str, object] = {"DataType": index, "DataType_RBV": index}
    image.update(dict.fromkeys(("EnableCallbacks", "EnableCallbacks_RBV"), 1))
    image_table = image_pvs()
    data = image_table["ArrayData"]
    image_table["ArrayData"] = DetectorPV(data.name, field_type.lower(), settings["max_pixels"])
    camera_table = {name: pv for name, pv in camera_pvs().items() if name not in _ALIVE}
    return "\n".join(
        (
            detector_text(prefix + "cam1:", camera_table, camera, _DRIVEN),
            detector_text(prefix + "image1:", image_table, image, _DRIVEN),
            # A size beyond the sensor, or without room for the number of a frame, is not taken.
            f'record("*","{prefix}cam1:SizeX"){{field(DRVL,8)field(DRVH,{width})}}',
            f'record("*","{prefix}cam1:SizeY"){{field(DRVL,1)field(DRVH,{height})}}',
            f'record(longin,"{settings["probe"]}"){{field(PINI,YES)field(VAL,1)}}',
        )
    )


def main() -> None:
    """Serve the camera until the parent goes away."""
    settings = adopt()
    # Imported here: loading EPICS reads the environment, and takes its time.
    from softioc import builder, softioc

    camera = Camera(settings)
    hold = f"{settings['prefix']}cam1:Acquire:Hold"
    builder.SetDeviceName(f"{settings['prefix']}cam1")
    acquire = builder.boolOut(
        "Acquire", ZNAM="Done", ONAM="Acquire", initial_value=0, on_update=camera.set_acquire, always_update=True
    )
    acquire.FLNK = hold
    builder.longOut("ArrayCounter", initial_value=0, on_update=camera.set_counter, always_update=True)
    # Processed by each put to Acquire; not complete before the acquisition is.
    builder.boolOut("Acquire:Hold", initial_value=0, on_update=camera.hold, always_update=True, blocking=True)
    builder.LoadDatabase()
    with tempfile.NamedTemporaryFile("w", prefix="daqca-sim-", suffix=".db", encoding="utf-8") as file:
        file.write(database_text(settings))
        file.flush()
        softioc.dbLoadDatabase(file.name)
    softioc.iocInit(camera.dispatch, enable_pva=False)
    if settings["acquire"]:
        acquire.set(1)
    camera.run(acquire.set)


if __name__ == "__main__":
    main()
