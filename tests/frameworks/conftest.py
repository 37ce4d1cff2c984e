"""The modes in which adapters are tested."""

import pytest


@pytest.fixture(params=["replicated", "shared", "shared, streamed"])
def mode(request, monkeypatch):
    update, *streamed = request.param.split(", ")
    monkeypatch.setenv("DISTOPT_UPDATE", update)
    if streamed:
        monkeypatch.setenv("DISTOPT_BUCKET_BYTES", "64")
    return request.param
