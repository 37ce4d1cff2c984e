"""Segments: bytes that other processes can map, under addresses that stay; nothing of them is left."""

import gc
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from distopt.memory import segment as shared_memory
from distopt.memory.segment import TICKET, Segment, map_segment

LEFT_OVERS = Path("/dev/shm")


def descriptors():
    return len(os.listdir("/proc/self/fd"))


def mappings():
    return Path("/proc/self/maps").read_text().count("distopt")


@pytest.fixture(params=["memfd", "/dev/shm"])
def kind(request, monkeypatch):
    if request.param == "/dev/shm":
        monkeypatch.delattr(os, "memfd_create")
    return request.param


@pytest.mark.parametrize("nbytes", [1, 63, 4096, 1_000_001])
def test_a_segment_is_zero_and_can_be_written(kind, nbytes):
    segment = Segment(nbytes)
    assert segment.bytes.shape == (nbytes,)
    assert not segment.bytes.any()
    segment.bytes[-1] = 7
    assert segment.bytes[-1] == 7
    assert segment.bytes.ctypes.data % 4096 == 0


def test_another_process_reads_and_writes_it(kind):
    segment = Segment(5000)
    segment.bytes[:2] = 1, 2
    script = (
        "import sys; from distopt.memory.segment import map_segment\n"
        "array = map_segment(bytes.fromhex(sys.argv[1]))\n"
        "assert array.size == 5000 and array[:2].tolist() == [1, 2]\narray[4999] = 9\n"
    )
    subprocess.run([sys.executable, "-c", script, segment.ticket.hex()], check=True)
    assert segment.bytes[4999] == 9


def test_a_segment_becomes_another_one_at_its_addresses(kind):
    mine, other = Segment(10_000), Segment(10_000)
    mine.bytes[:], other.bytes[:] = 1, 2
    view = mine.bytes[96:].view(np.float32)[3:5]
    address = view.ctypes.data
    mine.become(other.ticket)
    assert mine.bytes.tolist() == [2] * 10_000
    mine.bytes[108:116] = 5
    assert other.bytes[107:117].tolist() == [2, *[5] * 8, 2]
    assert view.ctypes.data == address
    assert view.tobytes() == bytes([5] * 8)


def test_who_became_another_one_hands_on_its_ticket():
    first, second, third = Segment(100), Segment(100), Segment(100)
    second.become(first.ticket)
    third.become(second.ticket)
    first.bytes[0] = 42
    assert third.bytes[0] == 42


def test_a_mapping_outlives_its_segment(kind):
    segment = Segment(100)
    array, other = map_segment(segment.ticket), Segment(100)
    other.become(segment.ticket)
    segment.bytes[3] = 8
    del segment
    gc.collect()
    assert array[3] == 8
    other.bytes[3] = 9
    assert array[3] == 9


def test_nothing_is_left_of_what_nobody_holds(kind):
    gc.collect()
    before, files = (descriptors(), mappings()), sorted(LEFT_OVERS.glob("distopt*"))
    for _ in range(50):
        one, two = Segment(5000), Segment(5000)
        two.become(one.ticket)
        view = map_segment(one.ticket)[10:20]
        del one, two
        assert not view.any()
        del view
    gc.collect()
    assert (descriptors(), mappings()) == before
    assert sorted(LEFT_OVERS.glob("distopt*")) == files


def test_a_ticket_of_a_file_that_is_gone_is_an_error():
    segment = Segment(100)
    process, fd, device, inode, size = TICKET.unpack(segment.ticket)
    with pytest.raises(OSError, match="process numbers mean other processes there"):
        map_segment(TICKET.pack(process, fd, device, inode + 1, size))
    del segment
    with pytest.raises(OSError):  # noqa: PT011 (no such file, or that of another one by now)
        map_segment(TICKET.pack(process, 10_000, device, inode, size))


def test_a_closed_segment_keeps_its_memory_and_no_file():
    segment, before = Segment(100), descriptors()
    other = map_segment(segment.ticket)
    segment.close()
    assert descriptors() == before - 1
    segment.bytes[:3] = 1, 2, 3
    assert other[:3].tolist() == [1, 2, 3]
    with pytest.raises(OSError, match="closed"):
        _ = segment.ticket
    del segment  # its file is closed once
    assert descriptors() == before - 1


def test_the_limit_of_open_files_is_raised_where_the_system_allows_more():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = descriptors() + 8
    resource.setrlimit(resource.RLIMIT_NOFILE, (few, hard))
    try:
        segments = [Segment(100) for _ in range(20)]
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(segments) == 20


def test_no_room_is_an_error_that_leaves_nothing(monkeypatch):
    def is_full(*_):
        raise OSError(28, "No space left on device")

    before = descriptors()
    monkeypatch.setattr(os, "ftruncate", is_full)
    with pytest.raises(OSError, match="No space left"):
        Segment(100)
    monkeypatch.setattr(os, "memfd_create", is_full)
    monkeypatch.setattr(os, "posix_fallocate", is_full)
    with pytest.raises(OSError, match="No space left"):
        Segment(100)
    monkeypatch.setattr(shared_memory, "_FALLBACK", "/nowhere")
    with pytest.raises(FileNotFoundError):
        Segment(100)
    assert descriptors() == before
    assert not list(LEFT_OVERS.glob("distopt*"))


def test_more_than_can_be_mapped_is_an_error():
    gc.collect()  # what other tests have left
    before = descriptors()
    with pytest.raises(OSError, match="mmap of"):
        Segment(1 << 60)
    gc.collect()
    assert descriptors() == before


def test_exit_handlers_still_read_what_lies_there():
    script = """
import atexit
atexit.register(lambda: print("total", sum(array.sum() for array in held)))
held = []
import numpy as np, distopt
def train():
    for update in ("replicated", "shared"):
        with distopt.Strategy(distopt.get_strategy().communicator, update=update).scope():
            v, optimizer = distopt.Variable(np.zeros(100_000)), distopt.optimizers.SGD(1.0)
            held.extend([v.value, *optimizer.gradient_buffers([v])])
            optimizer.apply_gradients([(np.ones(100_000), v)])
distopt.simulate(2, train)
"""
    environment = os.environ | {"DISTOPT_KERNELS": "reference"}
    result = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "total " in result.stdout
