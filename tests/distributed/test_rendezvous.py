"""Processes that say who they are before JAX connects them; here threads stand in for them."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from jobs import free_port

from jaxtag.distributed.rendezvous import Peer, RendezvousError, rendezvous


def outcomes(*peers: Peer, seconds: float = 5.0) -> list[object]:
    """What each peer gets from `rendezvous`: peers, or why there are none."""
    port = free_port()

    def attend(peer: Peer) -> object:
        try:
            return rendezvous("localhost", port, peer, seconds)
        except RendezvousError as problem:
            return str(problem), problem.transient

    with ThreadPoolExecutor(len(peers)) as pool:
        return list(pool.map(attend, peers))


def test_all_come_in_any_order():
    peers = [Peer(index, 3, f"host{index}", 100 + index) for index in range(3)]
    last, first, middle = outcomes(peers[2], peers[0], peers[1])
    assert first == peers
    assert (middle, last) == ([peers[1]], [peers[2]])


def test_who_did_not_come_is_named_to_all_within_the_time():
    began = time.monotonic()
    reports = outcomes(Peer(0, 4), Peer(2, 4), seconds=0.5)
    assert time.monotonic() - began < 5
    assert reports == [("of 4 processes 2 did not come within 0.5 s: 1, 3", True)] * 2


def test_another_number_of_processes_is_reported_to_all():
    reports = outcomes(Peer(0, 2), Peer(1, 3, "there", 7))
    problem = "process 1 (pid 7 on there) was started as one of 3, process 0 as one of 2"
    assert reports == [(problem, False)] * 2  # starting again does not mend it


def test_a_process_that_is_there_twice_is_reported():
    reports = outcomes(Peer(0, 3), Peer(1, 3, "here", 7), Peer(1, 3, "there", 8))
    assert len(set(reports)) == 1
    problem, transient = reports[0]
    assert "process 1 (pid " in problem and " is there twice: also as pid " in problem
    assert not transient


def test_process_0_never_comes():
    ((problem, transient),) = outcomes(Peer(1, 2), seconds=0.5)
    assert problem.startswith("process 0 could not be reached at localhost:")
    assert problem.endswith("within 0.5 s (Connection refused)")
    assert transient


def test_a_port_in_use_is_named():
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(
            RendezvousError, match=f"cannot listen at port {port}: Address already in use"
        ):
            rendezvous("localhost", port, Peer(0, 2), 5)


@pytest.mark.parametrize(
    "message", [b"GET / HTTP/1.1\r\n\r\n", b"[]\n", b'{"process_id": "1"}\n', b""]
)
def test_strangers_are_no_processes(message):
    port = free_port()
    with ThreadPoolExecutor(2) as pool:
        host = pool.submit(rendezvous, "localhost", port, Peer(0, 2), 10)
        while True:
            try:
                stranger = socket.create_connection(("localhost", port))
                break
            except OSError:
                time.sleep(0.01)
        stranger.sendall(message)
        stranger.close()
        assert rendezvous("localhost", port, Peer(1, 2, "h", 1), 10) == [Peer(1, 2, "h", 1)]
        assert [peer.process_id for peer in host.result()] == [0, 1]
