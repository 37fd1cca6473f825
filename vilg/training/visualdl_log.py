"""Curves and images of a run for VisualDL, in one file that a resumed run continues.

VisualDL's own LogWriter starts another file each time. Of several files in a folder its server shows only the newest,
or, if it was running meanwhile, all of them with the repeated steps.
"""

import os
import struct
import sys
import time
from array import array
from bisect import bisect_right
from pathlib import Path

import numpy as np

_LENGTH = struct.Struct("<Q")  # each record follows its length


class VisualDLLog:
    """Appends to the newest log in `folder`, or to a new one. Points and images of steps after `step` are removed.

    Several values are written at once, so that a kill leaves at most one torn record at the end, which the next start
    removes.
    """

    def __init__(self, folder: Path, step: int):
        from visualdl.component.base_component import meta_data

        folder.mkdir(parents=True, exist_ok=True)
        logs = sorted(folder.glob("vdlrecords*"))
        path = logs[-1] if logs else folder / f"vdlrecords.{int(time.time()):010d}.log"
        if logs:
            os.truncate(path, _end_of_step(path, step))
        self._file = open(path, "ab", buffering=0)
        if not self._file.tell():  # the server expects this record first
            self._append([meta_data(walltime=round(time.time() * 1000))])

    def write_scalars(self, step: int, values: dict[str, float], seconds: float) -> None:
        """One point of each curve. seconds: the time, since 1970."""
        from visualdl.component.base_component import scalar

        self._append([scalar(name, value, step, round(seconds * 1000)) for name, value in values.items()])

    def write_image(self, name: str, image: np.ndarray, step: int) -> None:
        """An image uint8 [H, W, 3]."""
        from visualdl.component.base_component import image as image_record

        self._append([image_record(name, image, step, round(time.time() * 1000))])

    def close(self) -> None:
        self._file.close()

    def _append(self, records: list) -> None:
        encoded = [record.SerializeToString() for record in records]
        self._file.write(b"".join(_LENGTH.pack(len(data)) + data for data in encoded))


def _end_of_step(path: Path, step: int) -> int:
    """The offset behind the last complete record of steps up to `step`. Steps never decrease within a log."""
    from google.protobuf.message import DecodeError
    from visualdl.proto.record_pb2 import Record

    size, offsets = path.stat().st_size, array("Q", [0])  # a long run has millions of records
    with open(path, "rb") as file:

        def length_at(offset: int) -> int:
            """0 if there is no complete record."""
            file.seek(offset)
            header = file.read(_LENGTH.size)
            length = _LENGTH.unpack(header)[0] if len(header) == _LENGTH.size else 0
            return length if offset + _LENGTH.size + length <= size else 0

        def step_at(offset: int) -> int:
            try:
                return Record.FromString(file.read(length_at(offset))).values[0].id
            except (DecodeError, IndexError):
                return sys.maxsize

        while length := length_at(offsets[-1]):
            offsets.append(offsets[-1] + _LENGTH.size + length)
        return offsets[bisect_right(offsets, step, hi=len(offsets) - 1, key=step_at)]
