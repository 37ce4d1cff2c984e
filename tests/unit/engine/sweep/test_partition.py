"""Who owns what: every element once, cut where the norms allow it, the same whatever list it is asked for."""

from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distopt import Variable
from distopt.distribute.node.node_sum import maximal_subtrees
from distopt.engine.sweep import partition
from distopt.engine.sweep.partition import BLOCK, Block, blocks_of, parts_of, ranges_of, runs_of
from distopt.memory import flat_buffer
from distopt.memory.arena import allocate
from distopt.memory.flat_buffer import FlatBuffer
from distopt.memory.layout import SPAN_UNIT
from distopt.slabs.slab import Slab

SIZES = st.lists(st.one_of(st.integers(0, 50), st.integers(4000, 30_000), st.just(BLOCK + 100)), min_size=1, max_size=8)
REPLICAS = st.integers(1, 7)
FEW = settings(max_examples=60)
F4 = np.dtype("float32")


@pytest.fixture(autouse=True, scope="module")
def small_chunks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flat_buffer, "CHUNK", 3 * SPAN_UNIT)
        yield


class Replicas:
    """Those that share a buffer: nobody of them writes here."""

    node = None

    def write(self, name, target, value):
        raise AssertionError("nothing is assigned in these tests")


def placed(sizes, cut, *, shared=False):
    """Variables of these sizes in two homes, which are one replica's or exist once per node."""
    variables = [Variable(np.zeros(size, F4), name=f"v{k}") for k, size in enumerate(sizes)]
    allocate(variables[:cut])
    allocate(variables)
    for home in {variable.storage.allocated_buffer for variable in variables} if shared else ():
        home.share(Replicas(), [])
    return variables


@FEW
@given(sizes=SIZES, replicas=REPLICAS)
def test_owners_cover_a_home_once_and_cut_it_where_norms_allow(sizes, replicas):
    home = FlatBuffer(sizes, F4, shareable=False)
    owned = home.split_among(replicas)
    spans = sorted(span for ranges in owned for span in ranges)
    assert len(owned) == replicas
    assert [begin for begin, _ in spans] == [0, *[end for _, end in spans[:-1]]][: len(spans)]
    assert sum(end - begin for begin, end in spans) == home.length
    for begin, _ in spans:
        starts = [(start, size) for start, size in zip(home.starts, sizes, strict=True) if start <= begin]
        assert begin in home.starts or (begin - starts[-1][0]) % SPAN_UNIT == 0
    for ranges in owned:
        assert ranges == sorted(ranges)


@given(size=st.integers(100_000, 1_000_000), replicas=st.integers(1, 8))
@FEW
def test_owners_of_a_large_home_have_about_equal_parts(size, replicas):
    shares = [
        sum(end - begin for begin, end in ranges)
        for ranges in FlatBuffer([size], F4, shareable=False).split_among(replicas)
    ]
    chunks = max(1, round(size / flat_buffer.CHUNK))
    assert max(shares) - min(shares) <= 2 * SPAN_UNIT * chunks


@FEW
@given(sizes=SIZES, replicas=REPLICAS, data=st.data())
def test_parts_cover_the_chosen_entries_and_keep_their_owners(sizes, replicas, data):
    is_shared = data.draw(st.booleans())
    variables = placed(sizes, data.draw(st.integers(0, len(sizes))), shared=is_shared)
    chosen = data.draw(st.lists(st.sampled_from(range(len(sizes))), unique=True, min_size=1))
    slab = Slab([variables[k] for k in chosen])
    entries = [k for k in range(len(chosen)) if data.draw(st.booleans())]
    seen = {k: np.zeros(slab.variables[k].size, int) for k in range(len(chosen))}
    for owner, parts in enumerate(parts_of(slab, F4, entries, replicas)):
        for part in parts:
            variable = slab.variables[part.entry]
            seen[part.entry][part.first : part.first + part.length] += 1
            assert part.first % SPAN_UNIT == 0
            assert part.begin == slab.starts[part.entry] + part.first
            is_last = part.first + part.length == variable.size
            assert part.end == (slab.ends[part.entry] if is_last else part.begin + part.length)
            home, begin_in_home = variable.storage.buffer, variable.storage.start + part.first
            owns = (home.split_among if is_shared else partial(slab.split_among, F4))(replicas)[owner]
            first = begin_in_home if is_shared else part.begin
            assert any(begin <= first and first + part.length <= end for begin, end in owns)
        ranges = ranges_of(parts)
        assert all(end < begin for (_, end), (begin, _) in pairwise(ranges))
        assert [part for run in runs_of(parts) for part in run] == parts
    for k, counts in seen.items():
        assert (counts == (k in entries)).all()


@FEW
@given(sizes=SIZES, replicas=REPLICAS, cut=st.integers(0, 8))
def test_blocks_hold_every_element_and_every_norm_block_once(sizes, replicas, cut):
    slab = Slab(placed(sizes, cut))
    flats = [flat := slab.flats[F4], np.arange(flat.size, dtype=F4)]
    elements = np.zeros(flat.size, int)
    places = []
    for parts in parts_of(slab, F4, slab.all_entries, replicas):
        for pieces in blocks_of(parts):
            block = Block(slab, pieces, flats, 1)
            assert block.end - block.begin <= BLOCK + 16
            assert block.total is block.rows[1]
            np.testing.assert_array_equal(block.total, np.arange(block.begin, block.end))
            for (start, length), entry in zip(block.spans.tolist(), block.entries, strict=True):
                assert slab.starts[entry] <= block.begin + start
                assert block.begin + start + length <= slab.starts[entry] + slab.variables[entry].size
                elements[block.begin + start : block.begin + start + length] += 1
            check_updates(slab, block)
            rows, mine = block.norm_blocks
            for (start, length), place_in_table in zip(rows.tolist(), mine.tolist(), strict=True):
                entry = np.searchsorted(slab.first_norm_block, place_in_table, "right") - 1
                first = block.begin + start - slab.starts[entry]
                assert first == (place_in_table - slab.first_norm_block[entry]) * SPAN_UNIT
                assert length == min(SPAN_UNIT, slab.variables[entry].size - first)
            places += mine.tolist()
    assert sorted(places) == list(range(slab.first_norm_block[-1]))
    for start, variable in zip(slab.starts, slab.variables, strict=True):
        assert (elements[start : start + variable.size] == 1).all()
    assert elements.sum() == sum(sizes)


def check_updates(slab, block):
    """Its tables lead from the block to where the variables lie."""
    tables = [(home, row) for home, _, table in block.updates for row in table.tolist()]
    assert len(tables) == len(block.spans)
    for home, (target, source, length) in tables:
        inside = [
            v.storage.buffer is home and v.storage.start <= target and target + length <= v.storage.start + v.size
            for v in slab.variables
        ]
        assert sum(inside) == 1
        entry = inside.index(True)
        first = block.begin + source - slab.starts[entry]
        assert target == slab.variables[entry].storage.start + first


def test_the_list_alone_says_who_owns_what_every_replica_has_for_itself():
    sizes, owned = [30_000, 7, 9000, 0, 20_000], []
    for cut in (0, 3, 5):  # whatever was placed together before
        slab = Slab(placed(sizes, cut))
        owned.append(parts_of(slab, F4, slab.all_entries, 3))
    assert owned[0] == owned[1] == owned[2]


def test_a_shared_element_has_one_owner_in_all_lists():
    variables = placed([30_000, 7, 9000, 0, 20_000], 3, shared=True)
    owners = {}
    for chosen in ([0, 1, 2, 3, 4], [4, 0], [2], [3, 1, 4]):
        slab = Slab([variables[k] for k in chosen])
        for owner, parts in enumerate(parts_of(slab, F4, slab.all_entries, 3)):
            for part in parts:
                for unit in range(part.first, part.first + part.length, SPAN_UNIT):
                    assert owners.setdefault((chosen[part.entry], unit), owner) == owner
    assert len(set(owners.values())) == 3


def test_parts_of_two_dtypes_are_apart():
    variables = [Variable(np.zeros(10_000, dtype)) for dtype in ("float32", "float64")]
    allocate(variables)
    slab = Slab(variables)
    for k, dtype in enumerate((F4, np.dtype("float64"))):
        entries = {part.entry for parts in parts_of(slab, dtype, slab.all_entries, 2) for part in parts}
        assert entries == {k}


@given(nodes=st.lists(st.integers(0, 2), min_size=1, max_size=12))
def test_maximal_subtrees(nodes):
    leaves = maximal_subtrees(nodes)
    assert [r for leaf in leaves for r in range(*leaf)] == list(range(len(nodes)))
    for first, last in leaves:
        width = 1 << (last - first - 1).bit_length()
        assert first % width == 0
        assert last == min(first + width, len(nodes))
        assert len(set(nodes[first:last])) == 1
        parent = first - first % (2 * width)
        if width < len(nodes):
            whole = nodes[parent : parent + 2 * width]
            assert len(set(whole)) > 1 or (parent, min(parent + 2 * width, len(nodes))) == (first, last)


def test_blocks_are_as_large_as_the_cache_allows():
    assert partition.BLOCK % SPAN_UNIT == 0
    slab = Slab(placed([3 * BLOCK + 5, *[100] * 20], 0))
    lengths = [
        pieces[-1].end - pieces[0].begin
        for parts in parts_of(slab, F4, slab.all_entries, 1)
        for pieces in blocks_of(parts)
    ]
    assert sum(lengths) == slab.flats[F4].size
    assert len(lengths) <= 5
