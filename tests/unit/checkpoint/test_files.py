"""Files are not trusted: damaged ones are named and gone past; names, sizes and ranges in them lead nowhere else."""

import json
import os
import shutil
from itertools import pairwise

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from distopt import Variable
from distopt.checkpoint import Checkpointer
from distopt.checkpoint.files import BadFileError
from distopt.checkpoint.manifest import read_manifest
from distopt.checkpoint.pieces import Piece, check_cover, cut
from distopt.errors import CheckpointError

SIZE = 5000
PART = "part-00000.safetensors"


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A directory with two checkpoints: v is 1 in the first, and 2 in the second."""
    directory = tmp_path_factory.mktemp("two")
    v = Variable(np.full(SIZE, 1.0), dtype="float32", name="v")
    with Checkpointer(directory, variables=[v]) as checkpointer:
        checkpointer.save()
        v.assign(np.full(SIZE, 2.0))
        checkpointer.save()
    return directory


@pytest.fixture
def directory(two, tmp_path):
    """A copy of it."""
    return shutil.copytree(two, tmp_path / "copy")


def restored(directory):
    v = Variable(np.zeros(SIZE), dtype="float32", name="v")
    step = Checkpointer(directory, variables=[v]).restore()
    assert len(set(v.numpy().tolist())) == 1
    return step, float(v.numpy()[0])


def goes_back(directory, reason):
    with pytest.warns(UserWarning, match=f"went back to step 1, for the checkpoint of step 2 is damaged: .*{reason}"):
        assert restored(directory) == (1, 1.0)


def flip(path, position):
    data = bytearray(path.read_bytes())
    data[position] ^= 4
    path.write_bytes(data)


# Damage


def test_nothing_is_wrong_with_them(directory):
    assert restored(directory) == (2, 2.0)


@pytest.mark.parametrize("position", [0, 3, 20, 60, 200, SIZE * 3, -1])
def test_a_flipped_bit(directory, position):
    flip(directory / "step-00000002" / PART, position)
    goes_back(directory, f"{PART} has the checksum")


def test_a_flipped_bit_anywhere_in_a_manifest(directory):
    path = directory / "step-00000002" / "manifest.json"
    whole = path.read_bytes()
    for position in range(0, len(whole), 7):
        flip(path, position)
        try:
            found = read_manifest(path.parent, 2)
        except BadFileError:
            found = None
        if found is not None:  # white space, or upper case in a number's exponent: nothing that counts
            path.write_bytes(whole)
            assert found == read_manifest(path.parent, 2)
        path.write_bytes(whole)


def test_a_file_that_was_cut_off(directory):
    os.truncate(directory / "step-00000002" / PART, SIZE)
    goes_back(directory, f"{PART} has {SIZE} bytes instead of")


@pytest.mark.parametrize("name", [PART, "manifest.json"])
def test_a_file_that_is_missing(directory, name):
    (directory / "step-00000002" / name).unlink()
    goes_back(directory, f"No such file or directory: {name}")


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"manifest": 3}', b"\xff\xfe", b"[" * 100_000])
def test_a_manifest_that_is_none(directory, content):
    (directory / "step-00000002" / "manifest.json").write_bytes(content)
    goes_back(directory, "manifest.json is damaged")


def test_none_that_is_good(directory):
    flip(directory / "step-00000002" / PART, 500)
    (directory / "step-00000001" / "manifest.json").unlink()
    with pytest.raises(CheckpointError) as caught:
        restored(directory)
    assert "step 2 is damaged: part-00000.safetensors has the checksum" in str(caught.value)
    assert "step 1 is damaged: No such file or directory: manifest.json" in str(caught.value)


def test_a_bad_one_is_replaced_when_the_run_comes_there_again(directory):
    flip(directory / "step-00000002" / PART, 500)
    v = Variable(np.zeros(SIZE), dtype="float32", name="v")
    with Checkpointer(directory, variables=[v], keep=1) as checkpointer:
        with pytest.warns(UserWarning, match="went back"):
            checkpointer.restore()
        checkpointer.save()
    assert restored(directory) == (2, 1.0)
    assert [path.name for path in directory.iterdir()] == ["step-00000002"]


# A stranger's files: checksums that are right, and contents that are not


def forge(directory, change):
    """Change a manifest, and give it the checksum that it then has."""
    path = directory / "step-00000002" / "manifest.json"
    content = json.loads(path.read_text())["manifest"]
    change(content)
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    path.write_text(json.dumps({"xxh3_64": xxhash.xxh3_64_hexdigest(text.encode()), "manifest": content}))


def resign(directory, data):
    """Replace the second checkpoint's file, and let the manifest say so."""
    (directory / "step-00000002" / PART).write_bytes(data)
    digest = xxhash.xxh3_64_hexdigest(data)
    forge(directory, lambda manifest: manifest["files"][0].update(size=len(data), xxh3_64=digest))


@pytest.mark.parametrize(
    "name",
    ["../../secret", "/etc/passwd", "part-00000.safetensors/../x", "manifest.json", "", "part-\u0660.safetensors"],
)
def test_names_that_lead_elsewhere(directory, name):
    forge(directory, lambda manifest: manifest["files"][0].update(name=name))
    goes_back(directory, r"Expected `str` matching regex .* at `\$.files\[0\].name`")


def put(place, value):
    def change(manifest):
        *path, last = place
        for key in path:
            manifest = manifest[key]
        manifest[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (put(["files", 0, "pieces"], [["variables/v", 0, SIZE + 1]]), "do not make up its 5000 elements"),
        (put(["files", 0, "pieces"], [["variables/v", 0, 10]]), "do not make up its 5000 elements"),
        (put(["files", 0, "pieces"], [["variables/v", 0, 3000], ["variables/v", 2000, SIZE]]), "do not make up"),
        (put(["files", 0, "pieces"], [["variables/v", -10, SIZE]]), r">= 0 - at `\$.files\[0\].pieces\[0\]\[1\]`"),
        (put(["files", 0, "pieces"], [["variables/v", 0, True]]), "Expected `int`, got `bool`"),
        (put(["files", 0, "pieces"], [["variables/v", 0, 1e9]]), "Expected `int`, got `float`"),
        (put(["files", 0, "pieces"], [["variables/x", 0, SIZE]]), "which is no variable of the checkpoint"),
        (put(["files", 0, "pieces"], 7), "Expected `array`, got `int`"),
        (put(["files", 0, "size"], 10**30), "Expected `int` <="),
        (put(["files", 0, "size"], 2**61), f"bytes instead of {2**61}"),
        (put(["files", 0, "xxh3_64"], "?"), r"Expected `str` matching regex .* at `\$.files\[0\].xxh3_64`"),
        (put(["files"], []), "0 files of 1 replicas"),
        (put(["variables", "variables/v", "shape"], [2**40, 2**40]), "of shape"),
        (put(["variables", "variables/v", "shape"], ["5000"]), "Expected `int`, got `str`"),
        (put(["variables", "variables/v", "dtype"], "object"), "dtype 'object'"),
        (put(["step"], 3), "is that of step 3"),
        (put(["format"], 0), r"Invalid enum value 0 - at `\$.format`"),
        (put(["replicas"], [3]), "Expected `object`, got `int`"),
    ],
)
def test_what_can_not_be(directory, change, reason):
    forge(directory, change)
    goes_back(directory, reason)


def test_a_later_format_is_no_damage(directory):
    forge(directory, put(["format"], 2))
    with pytest.raises(CheckpointError, match="is of format 2, and this distopt reads 1"):
        restored(directory)


def test_shapes_are_those_of_the_run_before_anything_is_allocated(directory):
    huge = [2**30, 2**20]

    def change(manifest):
        manifest["variables"]["variables/v"]["shape"] = huge
        manifest["files"][0]["pieces"] = [["variables/v", 0, 2**50]]

    forge(directory, change)
    goes_back(directory, "holds other pieces than the manifest says")


def header(**entries):
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text


def entry(dtype="F32", shape=(SIZE,), offsets=(0, 4 * SIZE)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


NAME = f"variables/v[0:{SIZE}]"
DATA = bytes(4 * SIZE)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01",
        (2**63).to_bytes(8, "little") + DATA,
        (10).to_bytes(8, "little") + b"not JSON at all" + DATA,
        header(**{NAME: entry(offsets=(8, 4 * SIZE + 8))}) + DATA,
        header(**{NAME: entry(offsets=(0, 8 * SIZE))}) + DATA,
        header(**{NAME: entry(offsets=(-4, 4 * SIZE - 4))}) + DATA,
        header(**{NAME: entry(dtype="F64")}) + DATA,
        header(**{NAME: entry(dtype="I32")}) + DATA,
        header(**{NAME: entry(shape=(SIZE // 2, 2))}) + DATA,
        header(**{"variables/x[0:5000]": entry()}) + DATA,
        header() + DATA,
        header(**{NAME: entry()}) + DATA + b"more",
    ],
)
def test_headers_that_can_not_be(directory, data):
    resign(directory, data)
    goes_back(directory, f"{PART} (is no safetensors file|holds other pieces)")


def test_a_file_by_another_writer_is_read(directory):
    resign(directory, header(__metadata__={"by": "hand"}, **{NAME: entry()}) + DATA)
    assert restored(directory) == (2, 0.0)


@pytest.mark.parametrize("name", [PART, "manifest.json"])
def test_pipes_and_links_are_not_opened(directory, tmp_path, name):
    path = directory / "step-00000002" / name
    path.rename(tmp_path / "elsewhere")
    os.mkfifo(path)
    goes_back(directory, f"{name} is no plain file")
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    goes_back(directory, f"{name} is no plain file")


# Pieces


SIZES = st.lists(st.tuples(st.integers(0, 30_000), st.sampled_from([1, 2, 4, 8])), max_size=6)


@settings(max_examples=200)
@given(sizes=SIZES, replicas=st.integers(1, 9))
def test_what_replicas_write_is_the_whole_once(sizes, replicas):
    variables = {f"v{k}": each for k, each in enumerate(sizes)}
    by_replica = [cut(variables, replicas, index) for index in range(replicas)]
    check_cover({key: size for key, (size, _) in variables.items()}, (p for pieces in by_replica for p in pieces))
    written = [sum((p.end - p.begin) * variables[p.key][1] for p in pieces) for pieces in by_replica]
    assert max(written) <= sum(size * width for size, width in sizes) / replicas + 8 * 4096 + 1


@settings(max_examples=100)
@given(size=st.integers(1, 50), limits=st.sets(st.integers(1, 49)), drop=st.integers(0, 50), twice=st.booleans())
def test_pieces_with_a_gap_or_twice_are_found(size, limits, drop, twice):
    cuts = [0, *sorted(limit for limit in limits if limit < size), size]
    pieces = [Piece("v", begin, end) for begin, end in pairwise(cuts)]
    check_cover({"v": size}, reversed(pieces))
    chosen = drop % len(pieces)
    changed = [*pieces, pieces[chosen]] if twice else pieces[:chosen] + pieces[chosen + 1 :]
    with pytest.raises(ValueError, match="do not make up its"):
        check_cover({"v": size}, changed)
