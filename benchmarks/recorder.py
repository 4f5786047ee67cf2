"""What the recorder costs and how much it takes: synthetic batches, no network.

    python benchmarks/recorder.py [--seconds 3] [--dir DIR] [--json FILE] [--only WORD] [--choices]

Each line is one recording, stopped and verified. "CPU" is that of the writer thread and of ``deliver``
together, per event (or per array), compression, flushes and the reading back at the stop included.
The yardstick for frames is ``os.write`` of the same bytes to a plain file, in the same run.
With ``--choices``, what the layout of a recording was decided by is measured instead: filters, and
what HDF5's flush costs with many datasets (docs/decisions/0004-recording-layout.md).
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from daqca.events import EVENT, EVENT_BLOCK, Batch, Kind
from daqca.recording import Recorder

START = 1_700_000_000_000_000_000


@dataclass
class Case:
    """One recording: what is delivered, and how fast (events per second; 0: as fast as it goes)."""

    name: str
    names: list[str]
    batches: Callable[[int], list[Batch]]
    rate: float
    options: dict[str, Any] = field(default_factory=dict)
    busy: bool = False
    """Whether another thread of the program computes in Python all the time."""


def scalar_batches(pvs: int, size: int, values: str) -> list[Batch]:
    """About two million updates of `pvs` PVs in batches of `size`: IOC timestamps 2 us apart on average."""
    total = (2_000_000 // size) * size
    rng = np.random.default_rng(0)
    records = np.zeros(total, EVENT)
    records["slot"] = np.arange(total) % pvs
    records["kind"], records["dbr_type"], records["count"] = Kind.UPDATE, 6, 1
    records["timestamp"] = START + np.cumsum(rng.integers(1500, 3500, total))
    records["value"] = {
        "counter": lambda: np.arange(total) // pvs,
        "noise": lambda: rng.normal(100, 1, total),
        "steady": lambda: np.tile(rng.normal(100, 1, pvs), -(-total // pvs))[:total],
    }[values]()
    return [Batch(records[i : i + size]) for i in range(0, total, size)]


def array_batches(pvs: int, elements: int, per_batch: int, dbr_type: int, item: int) -> list[Batch]:
    """256 MB at most of arrays of random bytes, `per_batch` in each batch."""
    rng = np.random.default_rng(0)
    count = max(4, min(200, (256 << 20) // (elements * item * per_batch)))
    batches = []
    for i in range(count):
        records = np.zeros(per_batch, EVENT)
        places = records.view(EVENT_BLOCK)
        number = np.arange(i * per_batch, (i + 1) * per_batch)
        records["slot"] = number % pvs
        records["kind"], records["dbr_type"], records["count"] = Kind.UPDATE, dbr_type, elements
        records["timestamp"] = START + number * 5_000_000
        places["offset"] = np.arange(per_batch) * elements * item
        places["length"] = elements * item
        batches.append(Batch(records, rng.bytes(elements * item * per_batch)))
    return batches


def cases() -> Iterator[Case]:
    """All recordings of the benchmark."""
    thousand = [f"BENCH:s{i}" for i in range(1000)]
    many = [f"BENCH:s{i}" for i in range(20_000)]
    for values in ("counter", "noise"):
        for size in (1000, 4000):
            yield Case(
                f"scalars, {values}, batches of {size}, full speed",
                thousand,
                lambda n, size=size, values=values: scalar_batches(n, size, values),  # type: ignore[misc]
                0,
            )
    yield Case("scalars, noise, 400,000/s", thousand, lambda n: scalar_batches(n, 1000, "noise"), 400_000)
    yield Case(
        "scalars, noise, 400,000/s, busy program",
        thousand,
        lambda n: scalar_batches(n, 1000, "noise"),
        400_000,
        busy=True,
    )
    yield Case("scalars, noise, 20,000 PVs, 400,000/s", many, lambda n: scalar_batches(n, 1000, "noise"), 400_000)
    yield Case(
        "scalars, noise, full speed, not compressed",
        thousand,
        lambda n: scalar_batches(n, 4000, "noise"),
        0,
        {"compression": None},
    )
    frame = ["BENCH:image"]
    yield Case("frames of 1 MiB, 200/s", frame, lambda n: array_batches(n, 1 << 20, 1, 4, 1), 200)
    yield Case(
        "frames of 1 MiB, 200/s, busy program", frame, lambda n: array_batches(n, 1 << 20, 1, 4, 1), 200, busy=True
    )
    yield Case("frames of 1 MiB, full speed", frame, lambda n: array_batches(n, 1 << 20, 1, 4, 1), 0)
    yield Case(
        "frames of 1 MiB, bslz4, full speed",
        frame,
        lambda n: array_batches(n, 1 << 20, 1, 4, 1),
        0,
        {"frame_compression": "bslz4"},
    )
    waves = [f"BENCH:w{i}" for i in range(100)]
    yield Case("waveforms of 10 doubles, full speed", waves, lambda n: array_batches(n, 10, 1000, 6, 8), 0)
    yield Case("waveforms of 1,000 doubles, full speed", waves, lambda n: array_batches(n, 1000, 100, 6, 8), 0)


def plain_write(seconds: float, folder: str) -> dict[str, Any]:
    """The yardstick: frames of 1 MiB to a plain file."""
    path = os.path.join(folder, "bench.raw")
    blocks = [batch.block for batch in array_batches(1, 1 << 20, 1, 4, 1)]
    handle = os.open(path, os.O_CREAT | os.O_WRONLY)
    written, cpu, begin = 0, time.thread_time(), time.perf_counter()
    while time.perf_counter() - begin < seconds:
        os.write(handle, blocks[written % len(blocks)])
        written += 1
    wall = time.perf_counter() - begin
    cpu = time.thread_time() - cpu
    os.close(handle)
    os.unlink(path)
    return {
        "case": "plain write() of 1 MiB, full speed (yardstick)",
        "events": written,
        "written": written,
        "lost": 0,
        "rate": written / wall,
        "MB/s": written * 1.048576 / wall,
        "cpu_us": cpu / written * 1e6,
        "deliver_us": 0.0,
        "stop_s": 0.0,
        "queue_MB": 0.0,
        "file_bytes_per_event": float(1 << 20),
    }


def filters(folder: str) -> None:
    """CPU and size of the scalar columns through HDF5's filters, and packed by the recorder itself."""
    import h5py
    import hdf5plugin

    from daqca.recording.columns import Packer

    chunk = 16384
    choices: dict[str, dict[str, Any]] = {
        "none": {},
        "lzf (h5py)": {"compression": "lzf", "shuffle": True},
        "deflate 1 (HDF5's)": {"compression": "gzip", "compression_opts": 1, "shuffle": True},
        "blosc lz4": dict(hdf5plugin.Blosc(cname="lz4", shuffle=1)),
        "blosc zstd 1": dict(hdf5plugin.Blosc(cname="zstd", clevel=1, shuffle=1)),
        "bitshuffle lz4": dict(hdf5plugin.Bitshuffle()),
    }
    print(f"{'values':8} {'filter':24} {'CPU us/event':>12} {'bytes/event':>12}")
    for values in ("counter", "noise", "steady"):
        source = np.concatenate([b.records for b in scalar_batches(1000, 4096, values)])
        names = ("slot", "timestamp", "value", "status", "severity")
        columns = {name: np.ascontiguousarray(source[name][: len(source) // chunk * chunk]) for name in names}
        rows = len(columns["slot"])
        for label, options in choices.items():
            path = os.path.join(folder, "filters.h5")
            with h5py.File(path, "w", libver="latest") as file:
                before = time.thread_time()
                for name, column in columns.items():
                    dataset = file.create_dataset(name, (rows,), column.dtype, chunks=(chunk,), **options)
                    for start in range(0, rows, chunk):
                        dataset[start : start + chunk] = column[start : start + chunk]
                file.flush()
                spent = time.thread_time() - before
            print(f"{values:8} {label:24} {spent / rows * 1e6:12.3f} {os.path.getsize(path) / rows:12.2f}")
        before, size = time.thread_time(), 0
        for column in columns.values():
            packer = Packer(column.itemsize)
            for start in range(0, rows, chunk):
                part = column[start : start + chunk].view(np.uint8)
                size += len(packer.pack(part) or part)
        spent = time.thread_time() - before
        print(f"{values:8} {'the recorder (deflate 1)':24} {spent / rows * 1e6:12.3f} {size / rows:12.2f}", flush=True)


def datasets(folder: str) -> None:
    """What HDF5 takes to flush, and to be opened anew, with many datasets (1.3 kB written to each)."""
    import h5py

    print(f"\n{'datasets':>8} {'flush ms':>10} {'close and open again ms':>24}")
    for count in (20, 256, 1000, 4000):
        path = os.path.join(folder, "datasets.h5")
        with h5py.File(path, "w", libver="latest") as file:
            made = [
                file.create_dataset(f"{i}/a", (0, 10), "f8", chunks=(16, 10), maxshape=(None, 10)) for i in range(count)
            ]
            file.swmr_mode = True
            for dataset in made:
                dataset.id.set_extent((16, 10))
                dataset.id.write_direct_chunk((0, 0), bytes(1280))
            begin = time.perf_counter()
            file.flush()
            flush = time.perf_counter() - begin
            begin = time.perf_counter()
        with h5py.File(path, "r+", libver="latest") as file:
            file.swmr_mode = True
            again = time.perf_counter() - begin
        print(f"{count:8} {flush * 1e3:10.2f} {again * 1e3:24.2f}", flush=True)


def compute(ended: threading.Event) -> None:
    """What a program may do beside recording: arithmetic in Python, which holds the GIL."""
    number = 0
    while not ended.is_set():
        for _ in range(10_000):
            number += 1


def run(case: Case, seconds: float, folder: str) -> dict[str, Any]:
    """Make one recording and measure it."""
    path = os.path.join(folder, "bench.h5")
    batches = case.batches(len(case.names))
    recorder = Recorder(path, case.names, overwrite=True, **case.options).start()
    limit = recorder.options.max_queue_bytes // 2
    ended = threading.Event()
    if case.busy:
        threading.Thread(target=compute, args=(ended,)).start()
    events = index = 0
    spent = 0.0
    begin = time.perf_counter()
    while (now := time.perf_counter() - begin) < seconds:
        if (case.rate and events > now * case.rate) or recorder.stats.queue_bytes > limit:
            time.sleep(0.001)
            continue
        burst = batches[index : index + 10] if not case.rate else batches[index : index + 1]
        before = time.thread_time()
        for batch in burst:
            recorder.deliver(batch)
        spent += time.thread_time() - before
        events += sum(map(len, burst))
        index = (index + len(burst)) % len(batches)
    running = recorder.stats
    ended.set()
    stats = recorder.stop()
    wall = time.perf_counter() - begin
    result = {
        "case": case.name,
        "events": events,
        "written": stats.written,
        "lost": stats.lost,
        "rate": events / running.seconds,
        "MB/s": stats.bytes_in / running.seconds / 1e6,
        "cpu_us": (stats.cpu_seconds + spent) / events * 1e6,
        "deliver_us": spent / events * 1e6,
        "stop_s": wall - running.seconds,
        "queue_MB": stats.queue_high_water / 1e6,
        "file_bytes_per_event": os.path.getsize(path) / events,
    }
    os.unlink(path)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--dir", help="where to write the files (default: a temporary folder)")
    parser.add_argument("--json", help="write the results to this file")
    parser.add_argument("--only", default="", help="only the cases with this word in their name")
    parser.add_argument("--choices", action="store_true", help="measure filters and flushes instead")
    options = parser.parse_args()
    if options.choices:
        with tempfile.TemporaryDirectory(dir=options.dir) as folder:
            filters(folder)
            datasets(folder)
        return
    results = []
    header = ("events/s", "MB/s", "CPU us", "deliver", "B/event", "queue MB", "stop s", "lost")
    print("{:46} {:>11} {:>7} {:>8} {:>8} {:>10} {:>8} {:>6} {}".format("case", *header))
    with tempfile.TemporaryDirectory(dir=options.dir) as folder:
        runs = [(case.name, lambda case=case: run(case, options.seconds, folder)) for case in cases()]
        runs.append(("plain write() of frames", lambda: plain_write(options.seconds, folder)))
        for name, measure in runs:
            if options.only not in name:
                continue
            r = measure()
            results.append(r)
            print(
                f"{r['case']:46} {r['rate']:11,.0f} {r['MB/s']:7.0f} {r['cpu_us']:8.3f} {r['deliver_us']:8.4f}"
                f" {r['file_bytes_per_event']:10,.2f} {r['queue_MB']:8.1f} {r['stop_s']:6.2f} {r['lost']}",
                flush=True,
            )
    if options.json:
        with open(options.json, "w") as file:
            json.dump(results, file, indent=1)


if __name__ == "__main__":
    main()
