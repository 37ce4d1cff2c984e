"""What programs leave out because it is known to be wrong today: ``parallel/test_hidden_state.py`` shows each alone."""

KNOWN_BROKEN = {
    "masters beside an overwriting average": "the average writes variables of other lists without marking them",
    "buffers after a step was given up": "the communication thread may write sums into them later",
    "masters that follow a write in shared mode": "a late replica overwrites masters that others have updated",
    "slots that a later step makes in shared mode": "a late replica sets them to zero when others have updated them",
    "state of what no step has shared": "in shared mode every replica updates and saves all of it, in one memory",
    "slot assign in shared mode": "writing a slot is no collective",
    "skip with master weights": "a step that is left out looks like an assignment",
}
"""Feature -> what is wrong with it."""
