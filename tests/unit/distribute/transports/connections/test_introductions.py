"""Strangers at a replica's port: they are turned away, and keep nobody waiting."""

import contextlib
import socket
import threading
import time

import numpy as np
import pytest
from connected import connected, make_peers, record, together
from support import SOON

from distopt.distribute.transports.connections import introductions
from distopt.distribute.transports.connections import peers as connections
from distopt.distribute.transports.connections.introductions import Door
from distopt.distribute.transports.connections.peers import Member, Peers
from distopt.errors import ReplicaError


@pytest.fixture
def knocking():
    """Begin strangers that send their data piece by piece until they are turned away, or the test is over."""
    over, threads = threading.Event(), []

    def stranger(port, pieces, has_come):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)) as connection:
            has_come.set()
            for piece in pieces:
                connection.sendall(piece)
                if over.wait(0.1):
                    return
            connection.settimeout(SOON)
            while connection.recv(1000):
                pass

    def knock(port, pieces):
        has_come = threading.Event()
        threads.append(threading.Thread(target=stranger, args=(port, pieces, has_come)))
        threads[-1].start()
        assert has_come.wait(SOON)
        return threads[-1]

    yield knock
    over.set()
    for thread in threads:
        thread.join(SOON)
        assert not thread.is_alive()


def check_that_the_group_forms(two):
    pair = connected(two)
    rows = together([lambda each=each: each.all_gather(record(each.index)).copy() for each in pair])
    np.testing.assert_array_equal(rows[0][:, 0], [0, 1])


@pytest.mark.parametrize(
    "pieces",
    [[b"GET / HTTP/1.1\r\n\r\n" * 20], [b""], [bytes(200)], [b"distopt1" + bytes(1000)], [b"d", b"i", b"s"]],
    ids=["http", "nothing", "zeros", "a wrong proof", "a few bytes"],
)
def test_strangers_are_turned_away_and_the_group_forms(pieces, two, knocking, monkeypatch):
    monkeypatch.setattr(introductions, "_CALLER_SECONDS", 0.5)
    knocking(two[0].members[0].port, pieces)
    check_that_the_group_forms(two)


@pytest.mark.parametrize("count", [3, introductions.MOST_CALLERS + 1])
def test_strangers_who_send_a_byte_now_and_then_hold_nobody_up(count, two, knocking, monkeypatch):
    monkeypatch.setattr(connections, "CONNECT_SECONDS", 5.0)
    for _ in range(count):
        knocking(two[0].members[0].port, [b"d"] * 100)
    check_that_the_group_forms(two)


def test_a_caller_has_one_deadline_for_all_that_it_has_to_say(knocking, monkeypatch):
    monkeypatch.setattr(introductions, "_CALLER_SECONDS", 0.5)
    (alone,) = make_peers((0,))
    door = Door(alone.listener, bytes(32))
    stranger = knocking(alone.members[0].port, [b"d"] * 1000)
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        door.admit(began + 3)
    stranger.join(SOON)
    assert not stranger.is_alive()
    door.close()


def test_who_called_before_it_was_awaited_has_its_time_when_it_is(two, monkeypatch):
    monkeypatch.setattr(introductions, "_CALLER_SECONDS", 0.5)
    first, second = two
    threads = [threading.Thread(target=second.connect, args=(purpose,)) for purpose in (0, 1)]
    for thread in threads:
        thread.start()
    first.connect(0)
    threading.Event().wait(1)  # longer than a caller has
    assert first.connect(1).keys() == {1}
    for thread in threads:
        thread.join(SOON)


def test_one_who_answers_a_byte_now_and_then_is_given_up_at_the_deadline(two, monkeypatch):
    monkeypatch.setattr(connections, "CONNECT_SECONDS", 1.0)
    over = threading.Event()

    def answer(server):
        with contextlib.suppress(OSError), server.accept()[0] as connection:
            while not over.wait(0.3):
                connection.sendall(b"x")

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=answer, args=(server,))
        thread.start()
        impostor = Member("node 0", "127.0.0.1", 0, server.getsockname()[1])
        peers = Peers(1, [impostor, two[1].members[1]], bytes(32), two[1].listener)
        began = time.monotonic()
        with pytest.raises(ReplicaError, match="can't connect to replica 0"):
            peers.connect(0)
        assert time.monotonic() - began < 10
        over.set()
        thread.join(SOON)
    peers.close()


def test_another_secret_is_refused_by_both_ends(two, monkeypatch):
    monkeypatch.setattr(connections, "CONNECT_SECONDS", 0.5)
    two[1] = Peers(1, two[1].members, bytes(32), two[1].listener)
    messages = []

    def connect(each):
        with pytest.raises(ReplicaError) as caught:
            each.connect(0)
        messages.append(str(caught.value))

    together([lambda each=each: connect(each) for each in two])
    assert any("does not know the secret" in text for text in messages)
    assert any("has waited 0.5 s for a connection from replica 1" in text for text in messages)
