"""Names that a package lacks say what takes their place, where something does."""

import pytest

import distopt


@pytest.mark.parametrize(
    ("name", "counterpart"),
    [
        ("rank", r"distopt.replica_index\(\)"), ("size", r"distopt.num_replicas\(\)"),
        ("init", "nothing to call"), ("shutdown", "nothing to call"), ("allreduce", "distopt.all_reduce"),
        ("DistributedOptimizer", "sum gradients themselves"),
    ],
)  # fmt: skip
def test_names_of_horovod(name, counterpart):
    with pytest.raises(AttributeError, match=f"no attribute '{name}': .*{counterpart}"):
        getattr(distopt, name)


def test_other_names():
    with pytest.raises(AttributeError, match=r"no attribute 'ranks'$"):
        _ = distopt.ranks
