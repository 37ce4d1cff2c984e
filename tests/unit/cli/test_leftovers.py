"""Files of MPICH's launcher that nobody uses are removed; those of daemons that run are not."""

import os
import time

import pytest

from distopt.cli.leftovers import remove_topology_files

TICKS = os.sysconf("SC_CLK_TCK")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "tmp").mkdir()
    (tmp_path / "proc").mkdir()
    return tmp_path


def add_process(folder, pid, name, started):
    ticks = round((started - (time.time() - time.clock_gettime(time.CLOCK_BOOTTIME))) * TICKS)
    fields = ["S", *["0"] * 18, str(ticks), "0"]
    (folder / "proc" / str(pid)).mkdir()
    (folder / "proc" / str(pid) / "stat").write_text(f"{pid} ({name}) {' '.join(fields)}\n")


def add_file(folder, name, written):
    path = folder / "tmp" / name
    path.write_text("<topology/>")
    os.utime(path, (written, written))


def left(folder):
    remove_topology_files(folder / "tmp", folder / "proc")
    return sorted(path.name for path in (folder / "tmp").iterdir())


def test_without_daemons_all_are_removed(folder):
    add_file(folder, "hydra_hwloc_xmlfile_abcdef", time.time())
    add_file(folder, "hydra_hwloc_xmlfile_of_mine.txt", time.time())
    add_process(folder, 12, "python", time.time() - 100)
    assert left(folder) == ["hydra_hwloc_xmlfile_of_mine.txt"]


def test_what_a_daemon_may_have_written_stays(folder):
    now = time.time()
    add_process(folder, 12, "hydra_pmi_proxy", now - 100)
    add_process(folder, 13, "hydra_pmi_proxy", now - 10)
    add_file(folder, "hydra_hwloc_xmlfile_bdeads", now - 200)
    add_file(folder, "hydra_hwloc_xmlfile_alives", now - 99.9)
    add_file(folder, "hydra_hwloc_xmlfile_unsure", now - 50)
    assert left(folder) == ["hydra_hwloc_xmlfile_alives", "hydra_hwloc_xmlfile_unsure"]
