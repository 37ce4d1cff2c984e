"""The table of optimizers in the docs, from the code: ``python tests/optimizers_in_docs.py`` writes it there."""

import re
from pathlib import Path

import numpy as np

from distopt import Variable, optimizers
from distopt.optimizers.common.access import family_of

PAGE = Path(__file__).parent.parent / "docs" / "optimizers.md"
BEGIN, END = "<!-- optimizers, from the code -->\n", "<!-- end of optimizers -->\n"
SHAPE = (64, 64)
SPARSE = {"all": "as dense", "rows": "rows named", "slots": "slots as dense, weights of rows named"}
OPTIONS = [{"momentum": 0.5}, {"amsgrad": True}, {"momentum": 0.5, "centered": True}]
"""What makes further slots, where a class has such arguments."""


def classes():
    """Every optimizer of both families, by family and name; not the bases and what wraps other optimizers."""
    for family, module in (("Keras 3", optimizers), ("legacy", optimizers.legacy)):
        for name in module.__all__:
            cls = getattr(module, name)
            if isinstance(cls, type) and issubclass(cls, module.Optimizer) and cls is not module.Optimizer:
                try:
                    yield family, name, cls()
                except TypeError:
                    continue  # it needs an optimizer to wrap


def slots(optimizer):
    """The optimizer's slots for one float32 matrix: names and bytes per parameter."""
    variable = Variable(np.ones(SHAPE, "f4"), name="w")
    optimizer.apply_gradients([(np.ones(SHAPE, "f4"), variable)])
    if hasattr(optimizer, "get_slot_names"):
        found = {name: optimizer.get_slot(variable, name) for name in optimizer.get_slot_names()}
    else:
        found = {v.name.split("/w_")[1]: v for v in optimizer.variables if "/w_" in v.name}
    return list(found), sum(v.storage.array.nbytes for v in found.values()) / np.prod(SHAPE)


def further_slots(optimizer):
    """The slots that options add."""
    cls, plain = type(optimizer), slots(type(optimizer)())[0]
    names = {}
    for options in OPTIONS:
        if all(name in optimizer.get_config() for name in options):
            names |= dict.fromkeys(slots(cls(**options))[0])
    return [name for name in names if name not in plain]


def cells(family, name, optimizer):
    """One row."""
    held, size = slots(optimizer)
    more = further_slots(optimizer) if name != "Muon" else []
    shown = ", ".join([f"`{each}`" for each in held] + [f"(`{each}`)" for each in more]) or "none"
    is_flat = family_of(optimizer).updates_flat
    if family == "legacy":
        sparse = SPARSE[optimizer._distopt_known_rule().sparse]
    else:
        sparse = "rows named" if is_flat and not held else "as dense"
    fused = "yes" if is_flat else "by variable"
    modes = "both" if is_flat else "replicated"
    said = " ".join(type(optimizer).__doc__.split()).split("Source: ")[1]
    source = re.match(r"[^`.;]*(?:et al\. )?\d{4}|``.*?``|Keras 3 ``.*?``", said).group().replace("``", "`")
    return [f"`{name}`", family, shown, f"{size:.2g}", sparse, fused, modes, source]


def table():
    """The table as Markdown."""
    head = ["optimizer", "family", "slots", "bytes", "sparse gradients", "one kernel", "modes", "source"]
    rows = [head, ["---"] * len(head), *(cells(*each) for each in classes())]
    return "".join("| " + " | ".join(row) + " |\n" for row in rows)


def written(text):
    """The page with the table in its place."""
    before, rest = text.split(BEGIN)
    return before + BEGIN + table() + END + rest.split(END)[1]


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
