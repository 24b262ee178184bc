"""Bodies, connections and protocols: what the public listener takes, refuses and cuts."""

import asyncio
import http.client
import json
import re
import shutil
import socket
import ssl
import subprocess
import time

import h2.config
import h2.connection
import h2.events
import httpx
import pytest

from conftest import CONFIG, config_for, fill, note
from harness import Answer, Edge, Mock, Store, eventually, mark, open_chat, raw, read_answer, request, user
from test_keys import check_refused

LIMIT = 100_000
HI = user("hi", model="plain")


@pytest.fixture(scope="session")
def tight(folder, mock):
    """An edge with small limits and short times."""
    store = fill(Store(folder / "tight"))
    key = store.key()
    limits = (
        f"max_body_bytes = {LIMIT}\nheader_timeout_seconds = 1\nbody_timeout_seconds = 1\n"
        "write_timeout_seconds = 1\nkeepalive_timeout_seconds = 2\n"
    )
    edge = Edge(store, config_for(mock, CONFIG.replace("worker_threads = 2\n", "worker_threads = 2\n" + limits)))
    edge.key = edge.wait_key(key)
    yield edge
    edge.stop()


def head(edge, key, *lines, path="/v1/chat/completions"):
    """The head of a POST as bytes."""
    all_lines = [f"POST {path} HTTP/1.1", f"host: {edge.base}", f"authorization: Bearer {key}", *lines]
    return "\r\n".join(all_lines).encode() + b"\r\n\r\n"


def connect(edge):
    host, port = edge.base.split(":")
    return socket.create_connection((host, int(port)), timeout=10)


def parsed(answer):
    """Status, headers and body of raw bytes."""
    top, _, body = answer.partition(b"\r\n\r\n")
    lines = top.decode().split("\r\n")
    headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:])}
    return Answer(int(lines[0].split()[1]), headers, body)


def closes(connection):
    """Whether the server ends this connection."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def padded(size):
    """A valid chat body of exactly this many bytes."""
    body = json.dumps(user("", model="plain"))
    return body.replace('""', f'"{"x" * (size - len(body))}"')


def test_a_body_of_exactly_the_limit_passes(tight):
    assert tight.chat(tight.key, padded(LIMIT)).status == 200


def test_a_body_declared_too_large_is_refused_before_it_is_sent(tight):
    with connect(tight) as connection:
        connection.sendall(head(tight, tight.key, f"content-length: {LIMIT + 1}"))
        check_refused(parsed(read_answer(connection)), 413, "body_too_large")
        assert closes(connection)


@pytest.mark.parametrize("route", ["plain", "scrubbed"])
def test_a_chunked_body_that_grows_too_large_is_refused(tight, route):
    with connect(tight) as connection:
        connection.sendall(head(tight, tight.key, "transfer-encoding: chunked"))
        start = json.dumps(user("", model=route))[: -len('"}]}') - 20]
        connection.sendall(f"{len(start):x}\r\n{start}\r\n".encode())
        sent = 0
        chunk = b"1000\r\n" + b"x" * 4096 + b"\r\n"
        try:
            while sent < 20 * LIMIT:
                connection.sendall(chunk)
                sent += 4096
        except (ConnectionResetError, BrokenPipeError):
            pass
        try:
            answer = read_answer(connection)
        except ConnectionResetError:
            pytest.fail("the connection was reset before the answer could be read")
        check_refused(parsed(answer), 413, "body_too_large")


def test_a_chunked_body_a_little_over_the_limit_gets_its_answer(tight):
    body = padded(LIMIT + 1).encode()
    with connect(tight) as connection:
        connection.sendall(head(tight, tight.key, "transfer-encoding: chunked"))
        connection.sendall(f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n")
        check_refused(parsed(read_answer(connection)), 413, "body_too_large")
        assert closes(connection)


def test_a_chunked_request_works(edge, mock, simple):
    body = json.dumps(user("ann@brightwater.com in pieces", model="scrubbed")).encode()
    tag = mark()
    with connect(edge) as connection:
        connection.sendall(head(edge, simple, "transfer-encoding: chunked", f"x-custom: {tag}"))
        for place in range(0, len(body), 7):
            piece = body[place : place + 7]
            connection.sendall(f"{len(piece):x};ext=1\r\n".encode() + piece + b"\r\n")
        connection.sendall(b"0\r\n\r\n")
        answer = parsed(read_answer(connection))
    assert answer.status == 200
    assert answer.text == "ann@brightwater.com in pieces"
    assert json.loads(mock.received(tag)["body"])["messages"][0]["content"] == "<EMAIL_1> in pieces"


def test_expect_100_continue_is_answered(edge, simple):
    body = json.dumps(HI).encode()
    with connect(edge) as connection:
        connection.sendall(head(edge, simple, f"content-length: {len(body)}", "expect: 100-continue"))
        first = connection.recv(4096)
        assert first.startswith(b"HTTP/1.1 100 "), first
        connection.sendall(body)
        answer = parsed(read_answer(connection))
    assert (answer.status, answer.text) == (200, "hi")


def test_curl_s_expect_100_continue_works(edge, simple):
    assert shutil.which("curl"), "curl is not installed; tests/tools installs it"
    body = json.dumps(user("x" * 3_000_000, model="plain"))
    done = subprocess.run(
        ["curl", "-sS", "-m", "20", "-o", "/dev/null", "-w", "%{http_code}", f"{edge.url}/chat/completions",
         "-H", f"authorization: Bearer {simple}", "-H", "expect: 100-continue", "--data-binary", "@-"],
        input=body.encode(), capture_output=True,
    )
    assert done.stdout == b"200", done


def test_a_connection_is_used_again(edge, simple):
    connection = http.client.HTTPConnection(edge.base, timeout=10)
    connection.connect()
    port = connection.sock.getsockname()[1]
    for number in range(20):
        stream = number % 2 == 1
        body = json.dumps({**user(f"number {number}", model="scrubbed"), "stream": stream})
        connection.request("POST", "/v1/chat/completions", body, {"authorization": f"Bearer {simple}"})
        answer = connection.getresponse()
        assert answer.status == 200
        assert f"number {number}" in answer.read().decode() or stream
        assert connection.sock.getsockname()[1] == port
    connection.close()


def test_a_refusal_leaves_the_connection_usable(edge, simple):
    connection = http.client.HTTPConnection(edge.base, timeout=10)
    for key, status in ((simple, 200), (simple, 400), (simple, 200)):
        body = json.dumps(HI) if status == 200 else "{"
        connection.request("POST", "/v1/chat/completions", body, {"authorization": f"Bearer {key}"})
        answer = connection.getresponse()
        answer.read()
        assert answer.status == status
    connection.close()


def test_pipelined_requests_are_answered_in_order(edge, simple):
    def one(text):
        body = json.dumps(user(text, model="plain")).encode()
        return head(edge, simple, f"content-length: {len(body)}") + body

    with connect(edge) as connection:
        connection.sendall(one("first") + one("second"))
        read = b""
        while b"second" not in read:
            more = connection.recv(65536)
            if not more:
                break
            read += more
    # Pipelining may be refused by closing, but an answer must never go to the other request.
    assert b"first" in read
    assert b"second" not in read or read.index(b"first") < read.index(b"second")


@pytest.mark.parametrize(
    "bytes_sent",
    [
        b"NONSENSE\r\n\r\n",
        b"GET /v1/models HTTP/9.9\r\nhost: x\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nhost: x\r\nbad header\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: nine\r\n\r\n",
    ],
    ids=["nonsense", "version", "header", "two-lengths", "length"],
)
def test_malformed_http_is_a_bad_request(edge, bytes_sent):
    answer = raw(edge.base, bytes_sent, timeout=3)
    assert re.match(rb"HTTP/1\.\d 400 ", answer), answer


def test_a_body_with_length_and_chunks_is_never_read_two_ways(edge, mock, simple):
    """Request smuggling: the second request hidden in the body must not be run as one."""
    tag = mark()
    hidden_body = json.dumps(HI).encode()
    hidden = head(edge, simple, f"content-length: {len(hidden_body)}", f"x-custom: {tag}") + hidden_body
    body = b"0\r\n\r\n" + hidden
    with connect(edge) as connection:
        connection.sendall(head(edge, simple, f"content-length: {len(body)}", "transfer-encoding: chunked") + body)
        first = parsed(read_answer(connection))
        assert first.status == 400
        assert closes(connection)
    assert not [r for r in mock.requests() if r["headers"].get("x-custom") == tag]


def test_a_request_shorter_than_the_http2_preface_is_answered(edge):
    """`GET / HTTP/1.0` and two line ends are 18 bytes; telling HTTP/2 by its first 24 must not wait for more."""
    answer = raw(edge.base, b"GET / HTTP/1.0\r\n\r\n", timeout=3)
    assert answer.startswith(b"HTTP/1."), answer


def test_a_client_that_sends_nothing_is_cut(tight):
    with connect(tight) as connection:
        start = time.monotonic()
        connection.settimeout(5)
        assert connection.recv(1000) == b""
        assert 0.8 <= time.monotonic() - start < 5


def test_a_head_that_never_ends_is_cut(tight):
    with connect(tight) as connection:
        start = time.monotonic()
        connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n")
        read_answer(connection)
        assert 0.8 <= time.monotonic() - start < 5


def seconds_until_cut(connection, piece, most=8):
    """Sends the piece every tenth of a second until the server ends the connection."""
    connection.settimeout(0.1)
    start = time.monotonic()
    while time.monotonic() - start < most:
        try:
            connection.sendall(piece)
            if not connection.recv(65536):
                return time.monotonic() - start
        except TimeoutError:
            continue
        except (ConnectionResetError, BrokenPipeError):
            return time.monotonic() - start
    pytest.fail(f"still open after {most} s")


def test_a_head_that_trickles_in_is_cut(tight):
    with connect(tight) as connection:
        connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-long: ")
        assert 0.8 <= seconds_until_cut(connection, b"x") < 6


def test_a_body_that_never_ends_is_cut(tight):
    with connect(tight) as connection:
        start = time.monotonic()
        connection.sendall(head(tight, tight.key, "content-length: 1000") + b'{"model":')
        answer = read_answer(connection)
        assert 0.8 <= time.monotonic() - start < 5
    assert answer.startswith(b"HTTP/1.1 4") or answer == b"\r\n\r\n"


def check_http2(client, url, key):
    for stream in (False, True):
        body = {**user("ann@brightwater.com by two", model="scrubbed"), "stream": stream}
        answer = client.post(f"{url}/chat/completions", json=body, headers={"authorization": f"Bearer {key}"})
        assert (answer.status_code, answer.http_version) == (200, "HTTP/2")
        if stream:
            assert answer.text.rstrip().endswith("data: [DONE]")
        else:
            assert answer.json()["choices"][0]["message"]["content"] == "ann@brightwater.com by two"
    refused = client.post(f"{url}/chat/completions", json=body, headers={"authorization": "Bearer wrong"})
    assert (refused.status_code, refused.http_version) == (401, "HTTP/2")


def test_http2_with_prior_knowledge_works(edge, simple):
    with httpx.Client(http1=False, http2=True, timeout=10) as client:
        check_http2(client, edge.url, simple)


def test_many_http2_streams_share_one_connection(edge, simple):
    async def all_of_them():
        async with httpx.AsyncClient(http1=False, http2=True, timeout=20) as client:
            headers = {"authorization": f"Bearer {simple}"}
            calls = [
                client.post(f"{edge.url}/chat/completions", json=user(f"n{i}@brightwater.com", model="scrubbed"), headers=headers)
                for i in range(50)
            ]
            return await asyncio.gather(*calls)

    answers = asyncio.run(all_of_them())
    assert [a.json()["choices"][0]["message"]["content"] for a in answers] == [f"n{i}@brightwater.com" for i in range(50)]


def test_a_large_body_over_http2_is_refused_by_its_size(tight):
    with connect(tight) as connection:
        http2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        http2.initiate_connection()
        http2.send_headers(
            1,
            [
                (":method", "POST"), (":scheme", "http"), (":authority", tight.base), (":path", "/v1/chat/completions"),
                ("authorization", f"Bearer {tight.key}"), ("content-length", str(LIMIT + 1)),
            ],
        )
        http2.send_data(1, b"x" * 16_000)
        connection.sendall(http2.data_to_send())
        status, body, ended = None, b"", False
        while not ended:
            read = connection.recv(65536)
            assert read, f"the connection ended after status {status}, {body}"
            for event in http2.receive_data(read):
                if isinstance(event, h2.events.ResponseReceived):
                    status = dict(event.headers)[b":status"]
                elif isinstance(event, h2.events.DataReceived):
                    body += event.data
                elif isinstance(event, (h2.events.StreamEnded, h2.events.StreamReset)):
                    ended = True
            connection.sendall(http2.data_to_send())
    assert status == b"413"
    assert json.loads(body)["error"]["code"] == "body_too_large"


def test_a_body_of_the_limit_passes_over_http2(tight):
    with httpx.Client(http1=False, http2=True, timeout=5) as client:
        headers = {"authorization": f"Bearer {tight.key}"}
        answer = client.post(f"{tight.url}/chat/completions", content=padded(LIMIT), headers=headers)
    assert answer.status_code == 200


@pytest.fixture(scope="session")
def secure(folder, mock):
    """An edge whose public listener speaks TLS with a certificate made here."""
    certificate, private = folder / "edge.pem", folder / "edge.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", private, "-out", certificate],
        check=True, capture_output=True,
    )
    store = Store(folder / "secure")
    key = store.key()
    lines = f'tls_certificate_file = "{certificate}"\ntls_key_file = "{private}"\n'
    text = config_for(mock, CONFIG.replace("worker_threads = 2\n", "worker_threads = 2\n" + lines))
    edge = Edge(store, "\n".join(without_stored_things(text)), scheme="https")
    edge.key, edge.certificate = key, certificate
    yield edge
    edge.stop()


def without_stored_things(text):
    """The configuration without references to prompts and collections, for an empty store."""
    return [line for line in text.splitlines() if not line.startswith(("prompt =", "collections ="))]


def test_tls_with_http2_by_alpn_works(secure):
    with httpx.Client(http2=True, verify=ssl.create_default_context(cafile=secure.certificate), timeout=10) as client:
        check_http2(client, secure.url, secure.key)


def test_tls_with_http1_works(secure):
    with httpx.Client(verify=ssl.create_default_context(cafile=secure.certificate), timeout=10) as client:
        answer = client.post(f"{secure.url}/chat/completions", json=HI, headers={"x-api-key": secure.key})
    assert (answer.status_code, answer.http_version) == (200, "HTTP/1.1")


def test_plain_http_to_the_tls_listener_gets_no_service(secure):
    try:
        answer = request(secure.base, "GET", "/healthz", timeout=5)
    except (http.client.HTTPException, OSError):
        return
    assert answer.status == 400


def test_a_client_that_does_not_read_costs_bounded_memory_and_is_cut(folder, mock, started):
    # Sixty megabytes of text in deltas of 2,000 bytes, as fast as they are taken.
    big = started(Mock(folder))
    big.script(reply={"text": "lorem ipsum dolor " * 3_400_000}, split=2_000)
    limits = "worker_threads = 2\nwrite_timeout_seconds = 2\n"
    edge = started(Edge(Store(folder / "slow"), "\n".join(without_stored_things(
        config_for(big, CONFIG.replace("worker_threads = 2\n", limits))))))
    key = edge.new_key()
    assert edge.chat(key, HI, {"reply": "last"}).status == 200
    before = edge.resident_kib()
    connection = open_chat(edge, key, {**HI, "stream": True}, receive_buffer=4096)
    start = time.monotonic()
    peak = before

    def cut():
        nonlocal peak
        peak = max(peak, edge.resident_kib())
        return big.stats()["cancelled"] == 1

    eventually("the reader that does not read is cut", cut, 20)
    seconds = time.monotonic() - start
    note(f"back-pressure: resident {before} KiB, peak {peak} KiB, cut after {seconds:.1f} s")
    assert peak - before < 16 * 1024
    assert 1.5 < seconds < 10
    # What had been sent may still be read, but the end of the stream is not in it.
    read = b""
    try:
        while more := connection.recv(1 << 20):
            read += more
    except ConnectionResetError:
        pass
    assert b"[DONE]" not in read
    assert len(read) < 30_000_000


def test_a_slow_reader_that_does_read_gets_everything(folder, mock, tight):
    text = "lorem ipsum dolor " * 40_000
    connection = open_chat(tight, tight.key, {**user("x", model="plain"), "stream": True}, receive_buffer=4096,
                           mock={"reply": {"text": text[:60_000]}, "split": 500})
    read = b""
    while not read.endswith(b"0\r\n\r\n"):
        more = connection.recv(2048)
        assert more, read[-200:]
        read += more
        time.sleep(0.001)
    connection.close()
    assert b"data: [DONE]" in read
    assert len(read) > 60_000
