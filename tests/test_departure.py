"""A client that leaves takes its provider call with it, within a tenth of a second."""

import socket
import time
from pathlib import Path

import pytest

from conftest import CONFIG, config_for, note
from harness import Edge, Mock, Store, eventually, open_chat, read_head, user
from test_connections import without_stored_things

HI = user("one two three four", model="plain")
WITHIN = 0.1


def assert_soon(times):
    """All but one within a tenth of a second: one may be held up by whatever else runs on the machine."""
    assert sorted(times)[-2] < WITHIN and max(times) < 3, times


@pytest.fixture(scope="module")
def lone_mock(folder):
    """A mock that only this module talks to, so that its counters tell of one request."""
    mock = Mock(folder)
    yield mock
    mock.stop()


@pytest.fixture(scope="module")
def lone_edge(folder, lone_mock):
    edge = Edge(Store(folder / "departure"), "\n".join(without_stored_things(config_for(lone_mock))))
    edge.key = edge.new_key()
    yield edge
    edge.stop()


def close_now(connection, how):
    """Ends the client's connection: an orderly FIN, or a reset."""
    if how == "reset":
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    connection.close()


def seconds_to_cancel(mock, before, connection, how):
    start = time.monotonic()
    close_now(connection, how)
    eventually("the mock sees the cancellation", lambda: mock.stats()["cancelled"] > before, 5, 0.002)
    return time.monotonic() - start


@pytest.mark.parametrize("how", ["closed", "reset"])
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
def test_leaving_while_waiting_for_the_header_cancels_the_provider_call(lone_edge, lone_mock, how, stream):
    times = []
    for _ in range(5):
        before = lone_mock.stats()
        script = {"latency_milliseconds": 10_000}
        connection = open_chat(lone_edge, lone_edge.key, {**HI, "stream": stream}, script)
        eventually("the mock has it", lambda: lone_mock.stats()["started"] > before["started"])
        times.append(seconds_to_cancel(lone_mock, before["cancelled"], connection, how))
    note(f"cancelled while waiting for the header ({how}, stream={stream}): " + " ".join(f"{1000 * t:.1f}" for t in times) + " ms")
    assert_soon(times)


@pytest.mark.parametrize("how", ["closed", "reset"])
@pytest.mark.parametrize("route", ["plain", "scrubbed"])
@pytest.mark.parametrize("pace", [20, 10_000], ids=["running", "between-tokens"])
def test_leaving_during_a_stream_cancels_the_provider_call(lone_edge, lone_mock, how, route, pace):
    times = []
    for _ in range(5):
        before = lone_mock.stats()["cancelled"]
        script = {"token_milliseconds": pace, "reply": {"text": "lorem ipsum " * 2_000}}
        body = {**HI, "model": route, "stream": True}
        connection = open_chat(lone_edge, lone_edge.key, body, script)
        read = read_head(connection)
        while b"data:" not in read:
            read += connection.recv(4096)
        assert b"200 OK" in read
        times.append(seconds_to_cancel(lone_mock, before, connection, how))
    note(f"cancelled during a stream ({how}, {route}, a token each {pace} ms): " + " ".join(f"{1000 * t:.1f}" for t in times) + " ms")
    assert_soon(times)


def connecting_sockets(port):
    """How many sockets of this machine are in SYN_SENT towards the port."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(1 for row in rows if row[3] == "02" and int(row[2].split(":")[1], 16) == port)


def test_leaving_while_connecting_ends_the_attempt(folder, started):
    # A listener whose queue is full drops further SYNs on Linux: whoever connects then waits.
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
            fillers.append(filler)
        # Fillers that did not fit are themselves connecting; only those that fit are kept.
        eventually("the queue is full", lambda: connecting_sockets(port) > 0, 5)
        for filler in fillers:
            if filler.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) or not writable(filler):
                filler.close()
        eventually("no filler is connecting", lambda: connecting_sockets(port) == 0, 5)

        config = CONFIG.replace("http://CLOSED/v1", f"http://127.0.0.1:{port}/v1").replace(
            '[routes.support-bot]', "connect_timeout_milliseconds = 20_000\n\n[routes.support-bot]"
        )
        # The inserted line belongs to the table above it, which is the provider `refusing`.
        mock = started(Mock(folder))
        edge = started(Edge(Store(folder / "blackhole"), "\n".join(without_stored_things(config_for(mock, config)))))
        key = edge.new_key()
        times = []
        for _ in range(3):
            connection = open_chat(edge, key, {**HI, "model": "refusing"})
            eventually("the edge is connecting", lambda: connecting_sockets(port) == 1, 5, 0.002)
            start = time.monotonic()
            connection.close()
            eventually("the edge has given up", lambda: connecting_sockets(port) == 0, 10, 0.002)
            times.append(time.monotonic() - start)
        note("cancelled while connecting: " + " ".join(f"{1000 * t:.1f}" for t in times) + " ms")
        assert_soon(times)
        for filler in fillers:
            filler.close()


def writable(connection):
    import select

    return bool(select.select([], [connection], [], 0)[1])


def test_departures_are_counted(lone_edge, lone_mock):
    before = lone_edge.metric("sluice_upstream_cancelled_total")
    cancelled = lone_mock.stats()["cancelled"]
    connection = open_chat(lone_edge, lone_edge.key, HI, {"latency_milliseconds": 10_000})
    eventually("the mock has it", lambda: lone_mock.stats()["in_flight"] > 0)
    seconds_to_cancel(lone_mock, cancelled, connection, "closed")
    eventually("it is counted", lambda: lone_edge.metric("sluice_upstream_cancelled_total") == before + 1, 3)


def test_a_served_request_cancels_nothing(lone_edge, lone_mock):
    before = lone_mock.stats()["cancelled"]
    for stream in (False, True):
        assert lone_edge.chat(lone_edge.key, {**HI, "stream": stream}).status == 200
    assert lone_mock.stats()["cancelled"] == before


def test_an_http2_client_that_resets_its_stream_cancels_the_provider_call(lone_edge, lone_mock):
    import json

    import h2.config
    import h2.connection

    host, port = lone_edge.base.split(":")
    times = []
    with socket.create_connection((host, int(port)), timeout=10) as transport:
        http2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        http2.initiate_connection()
        for _ in range(3):
            before = lone_mock.stats()
            stream = http2.get_next_available_stream_id()
            http2.send_headers(
                stream,
                [
                    (":method", "POST"), (":scheme", "http"), (":authority", lone_edge.base),
                    (":path", "/v1/chat/completions"), ("authorization", f"Bearer {lone_edge.key}"),
                    ("content-type", "application/json"), ("x-mock", '{"latency_milliseconds": 10000}'),
                ],
            )
            http2.send_data(stream, json.dumps(HI).encode(), end_stream=True)
            transport.sendall(http2.data_to_send())
            eventually("the mock has it", lambda: lone_mock.stats()["started"] > before["started"])
            start = time.monotonic()
            http2.reset_stream(stream, error_code=8)
            transport.sendall(http2.data_to_send())
            eventually("it is cancelled", lambda: lone_mock.stats()["cancelled"] > before["cancelled"], 5, 0.002)
            times.append(time.monotonic() - start)
    note("cancelled by a reset of an HTTP/2 stream: " + " ".join(f"{1000 * t:.1f}" for t in times) + " ms")
    assert_soon(times)
