"""The simulated camera, seen by clients that are not daqca's own: its PVs, its frames, and that none is lost."""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from support.ioc import IOCFactory, Servers
from support.raw_client import EVENT_ADD, RawClient
from support.recording import eventually

from daqca.errors import ConfigurationError
from daqca.sim import CameraIOC, FramePattern, SimIOC
from daqca.sim.areadetector import DetectorPV, camera_pvs, image_pvs
from daqca.sim.frames import DATA_TYPES

FRAME, UNIQUE_ID = 1, 2
CA_TYPES = {"text": 0, "enum": 3, "char": 4, "long": 5, "double": 6}


class Operator(RawClient):
    """A client of a camera that knows its PVs by their ends."""

    def __init__(self, camera: CameraIOC):
        super().__init__(camera.server_port, timeout=20)
        self.camera = camera

    def set(self, ending: str, value: float, *, wait: bool = True) -> None:
        self._open(ending)
        reply = self.put_number(self.camera.prefix + ending, value, wait=wait)
        assert reply is None or reply.p1 == 1

    def read(self, ending: str) -> float:
        self._open(ending)
        return struct.unpack(">d", self.get(self.camera.prefix + ending, 6).payload)[0]

    def watch(self, ending: str, subscription: int) -> None:
        self._open(ending)
        self.subscribe(self.camera.prefix + ending, subscription)

    def acquire(self, frames: int, rate_hz: float) -> None:
        """Set up an acquisition of so many frames, the first of number 1, and start it."""
        self.set("cam1:AcquireTime", 0)
        self.set("cam1:AcquirePeriod", 1 / rate_hz)
        self.set("cam1:ImageMode", 1)
        self.set("cam1:NumImages", frames)
        self.set("cam1:ArrayCounter", 0)
        self.set("cam1:Acquire", 1, wait=False)

    def events(self, last: int) -> Iterator[tuple[int, int]]:
        """Yield the updates in order, frames checked: (FRAME or UNIQUE_ID, number), until that UniqueId."""
        for message in self.messages():
            if message.command != EVENT_ADD or not message.payload:
                continue
            if message.p2 == UNIQUE_ID:
                (number,) = struct.unpack_from(">i", message.payload)
                yield UNIQUE_ID, number
                if number == last:
                    return
            elif message.count:
                yield FRAME, self.camera.pattern.number_of(message.payload[: self.camera.pattern.nbytes])

    def _open(self, ending: str) -> None:
        if self.camera.prefix + ending not in self.rights:
            self.connect(self.camera.prefix + ending)


@pytest.fixture
def make_camera(make_ioc: IOCFactory, servers: Servers):
    def make(**options: object) -> CameraIOC:
        return make_ioc.adopt(CameraIOC("T:", ports=servers.ports(), **options))

    return make


def received(operator: Operator, frames: int, rate_hz: float) -> tuple[list[int], list[tuple[int, int]]]:
    operator.watch("image1:ArrayData", FRAME)
    operator.watch("image1:UniqueId_RBV", UNIQUE_ID)
    operator.acquire(frames, rate_hz)
    # What was there before has the number 0.
    events = [event for event in operator.events(frames) if event[1] > 0]
    return [number for kind, number in events if kind == FRAME], events


def test_the_pvs_are_those_of_areadetector(make_camera):
    camera = make_camera(width=64, height=32, rate_hz=50)
    driven = {"SizeX", "SizeY", "MaxSizeX", "MaxSizeY", "ArraySizeX", "ArraySizeY", "AcquirePeriod"}
    tables = {"cam1": camera_pvs(), "image1": image_pvs()}
    assert (len(tables["cam1"]), len(tables["image1"])) == (217, 137)
    with RawClient(camera.server_port) as client:
        for part, table in tables.items():
            for pv in table.values():
                name = f"T:{part}:{pv.name}"
                assert (name, *client.connect(name)) == (name, CA_TYPES[pv.kind], pv.size)
                if pv.kind == "enum":
                    _check_states(client, name, pv)
                if pv.name.removesuffix("_RBV") not in driven and pv.size == 1:
                    _check_value(client, part, pv)


def _check_states(client: RawClient, name: str, pv: DetectorPV) -> None:
    payload = client.get(name, 31).payload
    (count,) = struct.unpack_from(">h", payload, 4)
    states = [payload[6 + 26 * i : 32 + 26 * i].partition(b"\0")[0].decode() for i in range(count)]
    # A binary record without names tells of none, or of two empty ones.
    assert states == list(pv.states) or not any(states + list(pv.states)), name


def _check_value(client: RawClient, part: str, pv: DetectorPV) -> None:
    raw = client.get(f"T:{part}:{pv.name}", 0).payload.partition(b"\0")[0].decode()
    if part == "image1" and pv.name.removesuffix("_RBV") == "EnableCallbacks":
        assert raw == "Enable"
    elif pv.name.removesuffix("_RBV") == "DataType":
        assert raw == "UInt8"
    elif pv.kind == "enum":
        assert raw == pv.states[int(pv.value or 0)], pv
    elif pv.kind == "text":
        assert raw == pv.value
    else:
        assert float(raw) == float(pv.value or 0), pv


def test_a_megabyte_at_200_hz_arrives_whole_in_order_and_before_its_number(make_camera):
    camera = make_camera()
    with Operator(camera) as operator:
        frames, events = received(operator, 300, 200)
        assert frames == list(range(1, 301))
        numbers = [number for kind, number in events if kind == UNIQUE_ID]
        assert numbers == frames
        # Each frame was there before the counters told of it.
        seen = 0
        for kind, number in events:
            seen = max(seen, number) if kind == FRAME else seen
            assert number <= seen
        for ending, value in {
            "image1:DroppedArrays_RBV": 0,
            "image1:ArrayCounter_RBV": 300,
            "cam1:ArrayCounter_RBV": 300,
            "cam1:NumImagesCounter_RBV": 300,
            "image1:ArraySize_RBV": 1 << 20,
            "image1:ArraySize0_RBV": 1024,
            "image1:NDimensions_RBV": 2,
            "image1:DataType_RBV": 1,
        }.items():
            assert (ending, operator.read(ending)) == (ending, value)


def test_a_slow_reader_slows_the_camera_and_loses_nothing(make_camera):
    assert _frames_of_a_slow_reader(make_camera(patience_s=5)) == list(range(1, 41))


def test_without_patience_a_slow_reader_loses_frames(make_camera):
    frames = _frames_of_a_slow_reader(make_camera(patience_s=0))
    assert frames[-1] == 40
    assert 1 < len(set(frames)) < 40


def _frames_of_a_slow_reader(camera: CameraIOC) -> list[int]:
    pause = threading.Event()
    frames = []
    with Operator(camera) as operator:
        operator.watch("image1:ArrayData", FRAME)
        operator.watch("image1:UniqueId_RBV", UNIQUE_ID)
        operator.acquire(40, 500)
        for kind, number in operator.events(40):
            if kind == FRAME:
                frames.append(number)
                # A reader that takes fifty frames a second, of five hundred.
                pause.wait(0.02)
    return frames


def test_a_put_to_acquire_completes_with_the_acquisition(make_camera):
    camera = make_camera(width=64, height=64)
    with Operator(camera) as operator:
        operator.acquire(1, 100)
        operator.set("cam1:NumImages", 20)
        operator.set("cam1:Acquire", 1)
        assert operator.read("cam1:NumImagesCounter_RBV") == 20
        for ending in ("Acquire", "Acquire_RBV", "AcquireBusy", "DetectorState_RBV"):
            assert (ending, operator.read(f"cam1:{ending}")) == (ending, 0)


def test_continuous_acquisition_goes_on_until_it_is_stopped(make_camera):
    camera = make_camera(width=64, height=64, rate_hz=100, acquire=True)
    with Operator(camera) as operator:
        operator.watch("image1:UniqueId_RBV", UNIQUE_ID)
        assert [number for _, number in operator.events(30)][-1] == 30
        assert operator.read("cam1:DetectorState_RBV") == 1
        operator.set("cam1:Acquire", 0)
        assert operator.read("cam1:Acquire") == 0
        eventually(lambda: operator.read("cam1:AcquireBusy") == 0, "it has stopped")
        # A put completes when the acquisition that it waits for has ended.
        operator.set("cam1:ImageMode", 0)
        operator.set("cam1:Acquire", 1)
        assert operator.read("cam1:DetectorState_RBV") == 0
        assert operator.read("cam1:NumImagesCounter_RBV") == 1


def test_the_size_follows_its_setpoints(make_camera):
    camera = make_camera(width=64, height=32)
    with Operator(camera) as operator:
        operator.set("cam1:SizeX", 16)
        operator.set("cam1:SizeY", 1000)
        camera.pattern = FramePattern(16, 32)
        frames, _ = received(operator, 3, 100)
        assert frames == [1, 2, 3]
        sizes = {name: operator.read(name) for name in ("cam1:SizeX_RBV", "cam1:SizeY_RBV", "image1:ArraySize_RBV")}
        assert sizes == {"cam1:SizeX_RBV": 16, "cam1:SizeY_RBV": 32, "image1:ArraySize_RBV": 512}


def test_frames_of_more_than_a_byte_a_pixel(make_camera):
    camera = make_camera(width=64, height=32, data_type="UInt16")
    with Operator(camera) as operator:
        assert operator.connect(camera.image)[0] == 1
        frames, _ = received(operator, 5, 100)
        assert frames == [1, 2, 3, 4, 5]
        assert operator.read("image1:DataType_RBV") == 3
        assert operator.read("image1:ArraySize_RBV") == 64 * 32 * 2


def test_disabled_callbacks_keep_frames_back(make_camera):
    camera = make_camera(width=64, height=32)
    with Operator(camera) as operator:
        operator.set("image1:EnableCallbacks", 0)
        operator.acquire(3, 100)
        operator.watch("cam1:UniqueId_RBV", UNIQUE_ID)
        assert [number for _, number in operator.events(3)][-1] == 3
        assert operator.read("image1:ArrayCounter_RBV") == 0


@pytest.mark.parametrize("data_type", DATA_TYPES)
def test_patterns_tell_their_number_and_their_damage(data_type):
    dtype, _ = DATA_TYPES[data_type]
    pattern = FramePattern(40, 30, dtype)
    for number in (0, 1, 255, 256, 2**40 + 5):
        frame = pattern.frame(number)
        assert (frame.shape, frame.dtype) == ((30, 40), dtype)
        assert frame[29, 39] == np.array((29 + 39 + number) % 256).astype(dtype)
        wire = frame.astype(dtype.newbyteorder(">"))
        assert struct.unpack_from(">Q", wire.tobytes()) == (number,)
        assert pattern.number_of(frame) == pattern.number_of(wire) == pattern.number_of(wire.tobytes()) == number
    damaged = pattern.frame(7)
    damaged[20, 3] += 1
    with pytest.raises(ValueError, match="1 of 1200 pixels"):
        pattern.number_of(damaged)
    with pytest.raises(ValueError, match="1160 pixels instead of 40 x 30"):
        pattern.number_of(pattern.frame(7)[1:])
    mixed = pattern.frame(7)
    mixed[15:] = pattern.frame(8)[15:]
    with pytest.raises(ValueError, match="torn or mixed"):
        pattern.number_of(mixed)


@pytest.mark.parametrize(
    "options", [{"data_type": "Float32"}, {"rate_hz": 0}, {"width": 0}, {"width": 4000, "height": 4000}]
)
def test_options_that_make_no_sense(options):
    with pytest.raises(ConfigurationError):
        SimIOC("T:", 1, camera=True, camera_options=options)
