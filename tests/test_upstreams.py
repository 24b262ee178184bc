"""How requests reach providers: which target, over what, and what else belongs to the way."""

import collections
import concurrent.futures
import http.client
import json
import socket
import ssl
import subprocess
import threading
import time

import pytest
import websockets.sync.client

from harness import PROVIDER_KEY, Edge, Mock, Process, Store, eventually, free_port, mark, request, user

PROVIDER = """
[providers.NAME]
kind = "openai"
base_url = "http://ADDRESS/v1"
api_key_env = "MOCK_API_KEY"
"""

CONFIG = """\
[server]
listen = "LISTEN"
admin_listen = "ADMIN"
cors_allowed_origins = ["https://app.example"]
worker_threads = 2
FIRST
breaker_failures = 0
SECOND
breaker_failures = 0
FRAIL
breaker_failures = 2
breaker_open_milliseconds = 3_000
NARROW
max_concurrent_requests = 1

[routes.shared]
targets = [{ provider = "first", model = "m", weight = 3 }, { provider = "second", model = "m" }]
aliases = ["also-shared", "share-*"]

[routes.hedged]
provider = "first"
model = "m"
fallbacks = [{ provider = "second", model = "m" }]
hedge_after_milliseconds = 150

[routes.frail]
provider = "frail"
model = "m"
retries = 0

[routes.narrow]
provider = "narrow"
model = "m"

[routes.patient]
provider = "first"
model = "m"
keepalive_comment_seconds = 1

[routes.own]
provider = "first"
model = "m"
pass_credentials = true

[routes.limited]
targets = [{ provider = "first", model = "m", max_output_tokens = 100, context_window = 50 }]
fallbacks = [{ provider = "second", model = "m", context_window = 100_000 }]

[routes."*"]
provider = "first"
scrub = []
"""


@pytest.fixture(scope="module")
def two(folder):
    mocks = Mock(folder), Mock(folder)
    yield mocks
    for mock in mocks:
        mock.stop()


@pytest.fixture(scope="module")
def edge(folder, two):
    def provider(name, mock):
        return PROVIDER.replace("NAME", name).replace("ADDRESS", mock.base)

    text = CONFIG.replace("FIRST", provider("first", two[0])).replace("SECOND", provider("second", two[1]))
    text = text.replace("FRAIL", provider("frail", two[0])).replace("NARROW", provider("narrow", two[0]))
    store = Store(folder / "upstreams")
    edge = Edge(store, text)
    edge.key = edge.new_key(asserts="variables,session")
    yield edge
    edge.stop()


@pytest.fixture(autouse=True)
def plain(two):
    for mock in two:
        mock.script(fault="none")


def hi(model, **more):
    return user("one two three", model=model, **more)


def targets(edge, count, **more):
    answers = [edge.chat(edge.key, hi("shared", **more)) for _ in range(count)]
    assert all(answer.status == 200 for answer in answers)
    return collections.Counter(answer.headers["x-sluice-target"] for answer in answers)


def test_a_session_stays_with_one_target_and_sessions_are_spread(edge):
    # The tenant, which is new in every run, goes into the choice: a quarter of the sessions, by the weights, give or take.
    homes = collections.Counter()
    for session in range(200):
        found = targets(edge, 3, sluice={"session": f"s{session}"})
        assert len(found) == 1, found
        homes.update(found.keys())
    assert 15 <= homes["second/m"] <= 100, homes


def test_without_a_session_both_targets_share_the_load(edge, two):
    # One request at a time may all go to the target that was quicker; many at once may not, as far as they are at once.
    for mock in two:
        mock.script(latency_milliseconds=300)
    found = collections.Counter()
    for _ in range(5):
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            found += sum(pool.map(lambda _: targets(edge, 3), range(16)), collections.Counter())
        if min(found["first/m"], found["second/m"]) >= 8:
            break
    assert min(found["first/m"], found["second/m"]) >= 8, found


@pytest.mark.parametrize("name", ["shared", "also-shared", "share-anything"])
def test_a_route_has_aliases_and_prefixes(edge, name):
    answer = edge.chat(edge.key, hi(name))
    assert (answer.status, answer.headers["x-sluice-route"]) == (200, "shared")


def test_a_second_attempt_is_begun_when_the_first_is_slow_and_the_loser_is_ended(edge, two):
    two[0].script(latency_milliseconds=10_000)
    before, start = two[0].stats(), time.monotonic()
    answer = edge.chat(edge.key, hi("hedged"))
    assert answer.status == 200 and answer.headers["x-sluice-target"] == "second/m"
    assert answer.headers["x-sluice-attempts"] == "2"
    assert 0.14 < time.monotonic() - start < 8
    eventually("the slow call is ended", lambda: two[0].stats()["cancelled"] == before["cancelled"] + 1)
    assert edge.metric("sluice_attempts_total", provider="first", outcome="hedge_lost") >= 1


def test_a_breaker_opens_refuses_probes_and_closes(edge, two):
    two[0].script(fault="status:500")
    assert [edge.chat(edge.key, hi("frail")).status for _ in range(2)] == [500, 500]
    started = two[0].stats()["started"]
    answer = edge.chat(edge.key, hi("frail"))
    assert (answer.status, answer.error["code"]) == (503, "upstream_unavailable")
    assert int(answer.headers["retry-after-ms"]) <= 3000
    assert two[0].stats()["started"] == started, "nothing was sent"
    two[0].script(fault="none")
    eventually("a probe closes it", lambda: edge.chat(edge.key, hi("frail")).status == 200, every=0.1)
    assert edge.chat(edge.key, hi("frail")).status == 200


def test_a_provider_gets_no_more_at_once_than_it_may_have(edge, two):
    two[0].script(latency_milliseconds=3000)
    busy = two[0].stats()["in_flight"]
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        first = pool.submit(edge.chat, edge.key, hi("narrow"))
        eventually("the provider has it", lambda: two[0].stats()["in_flight"] == busy + 1, every=0.01)
        assert [edge.chat(edge.key, hi("narrow")).status for _ in range(2)] == [503, 503]
        assert first.result().status == 200
    two[0].script(fault="none")
    assert edge.chat(edge.key, hi("narrow")).status == 200, "the place was given back"


def test_comments_keep_a_silent_stream_open(edge, two):
    two[0].script(first_token_milliseconds=4600, token_milliseconds=1)
    start = time.monotonic()
    answer = edge.chat(edge.key, hi("patient", stream=True))
    # One for each second, less what each is late.
    assert answer.status == 200 and 2 <= answer.body.count(b": keep-alive\n\n") <= time.monotonic() - start
    assert answer.streamed_text == "one two three" and answer.events[-1] == "[DONE]"
    two[0].script(fault="status:500", latency_milliseconds=1500)
    answer = edge.chat(edge.key, hi("patient", stream=True))
    assert answer.status == 200 and "[DONE]" not in answer.events
    assert json.loads(answer.events[-1])["error"]["message"], "a failure after the head is said in band"


def test_the_callers_own_provider_key_goes_on_where_the_route_says_so(edge, two):
    tag = mark()
    headers = {"x-sluice-key": edge.key, "x-custom": tag, "content-type": "application/json"}
    body = json.dumps(hi("own"))
    answer = request(edge.base, "POST", "/v1/chat/completions", body, {**headers, "authorization": "Bearer sk-own"})
    assert answer.status == 200
    received = two[0].received(tag)["headers"]
    assert received["authorization"] == "Bearer sk-own" and "x-sluice-key" not in received
    assert PROVIDER_KEY not in json.dumps(received)
    answer = request(edge.base, "POST", "/v1/chat/completions", body, headers)
    assert (answer.status, answer.error["code"]) == (400, "invalid_request")


def test_tokens_are_limited_and_long_requests_go_where_they_fit(edge, two):
    tag = mark()
    assert edge.chat(edge.key, hi("limited", max_tokens=5000), mark=tag).status == 200
    assert json.loads(two[0].received(tag)["body"])["max_tokens"] == 100
    answer = edge.chat(edge.key, user("word " * 300, model="limited"))
    assert answer.headers["x-sluice-target"] == "second/m"


def test_browsers_may_call_from_listed_origins(edge):
    asked = {"origin": "https://app.example", "access-control-request-method": "POST"}
    answer = request(edge.base, "OPTIONS", "/v1/chat/completions", None, asked)
    assert answer.status == 204 and answer.headers["access-control-allow-origin"] == "https://app.example"
    assert answer.headers["access-control-allow-methods"] == "POST"
    answer = edge.chat(edge.key, hi("own"), headers={"origin": "https://app.example"})
    assert answer.headers["access-control-allow-origin"] == "https://app.example", "errors too"
    answer = edge.chat(edge.key, hi("shared"), headers={"origin": "https://evil.example"})
    assert answer.status == 200 and "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("way", ["header", "subprotocol"])
def test_a_websocket_is_authenticated_and_passed_through(edge, two, way):
    url = f"ws://{edge.base}/v1/realtime?model=gpt-realtime"
    if way == "header":
        more = {"additional_headers": {"authorization": f"Bearer {edge.key}"}}
    else:
        more = {"subprotocols": ["realtime", f"openai-insecure-api-key.{edge.key}"]}
    before = two[0].stats()["completed"]
    with websockets.sync.client.connect(url, open_timeout=5, **more) as socket_:
        assert json.loads(socket_.recv(5))["type"] == "session.created"
        for text in ("hello", "x" * 100_000):
            socket_.send(text)
            assert socket_.recv(5) == text
    eventually("the provider sees the end", lambda: two[0].stats()["completed"] > before)
    assert edge.metric("sluice_websocket_bytes_total", direction="input") > 100_000
    with pytest.raises(websockets.exceptions.InvalidStatus) as refused:
        websockets.sync.client.connect(url, open_timeout=5, additional_headers={"authorization": "Bearer wrong"})
    assert refused.value.response.status_code == 401


@pytest.fixture(scope="module")
def certified(folder):
    certificate, private = folder / "provider.pem", folder / "provider.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost", "-addext", "basicConstraints=critical,CA:FALSE", "-keyout", private, "-out", certificate],
        check=True, capture_output=True,
    )
    return certificate, private


class Proxy:
    """A proxy that connects where it is asked to, and remembers where."""

    def __init__(self):
        self.asked = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            client, _ = self.listener.accept()
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += client.recv(1)
            authority = head.split()[1].decode()
            self.asked.append(authority)
            target = socket.create_connection(("localhost", int(authority.rsplit(":", 1)[1])))
            client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            for source, sink in ((client, target), (target, client)):
                threading.Thread(target=self.copy, args=(source, sink), daemon=True).start()

    @staticmethod
    def copy(source, sink):
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass


@pytest.mark.parametrize("http2", [False, True], ids=["http1", "http2"])
@pytest.mark.parametrize("proxied", [False, True], ids=["direct", "proxied"])
@pytest.mark.parametrize("tls", [False, True], ids=["cleartext", "tls"])
def test_providers_are_reached_over_tls_and_http2_and_through_a_proxy(folder, started, certified, tls, http2, proxied):
    port = free_port()
    arguments = ["mock", "--listen", f"127.0.0.1:{port}"]
    if tls:
        arguments += ["--tls-certificate", certified[0], "--tls-key", certified[1]]
    mock = started(Process("mock-tls", arguments, folder))
    eventually("the mock listens", lambda: socket.create_connection(("127.0.0.1", port)).close() is None)
    proxy = Proxy()
    lines = ["[server]", 'listen = "LISTEN"', 'admin_listen = "ADMIN"', "[providers.p]", 'kind = "openai"']
    lines += [f'base_url = "{"https" if tls else "http"}://localhost:{port}/v1"', f"http2 = {str(http2).lower()}"]
    lines += [f'ca_file = "{certified[0]}"'] if tls else []
    lines += [f'proxy = "http://127.0.0.1:{proxy.port}"'] if proxied else []
    lines += ['[routes."*"]', 'provider = "p"']
    store = Store(folder / f"way-{tls}-{http2}-{proxied}")
    key = store.key()
    edge = started(Edge(store, "\n".join(lines)))
    edge.wait_key(key)
    for stream in (False, True):
        answer = edge.chat(key, hi("m", stream=stream))
        assert answer.status == 200, answer
        assert (answer.streamed_text if stream else answer.text) == "one two three"
    assert proxy.asked == ([f"localhost:{port}"] * len(proxy.asked) if proxied else [])
    assert bool(proxy.asked) == proxied
    context = ssl.create_default_context(cafile=certified[0]) if tls else None
    connection = (
        http.client.HTTPSConnection("localhost", port, context=context)
        if tls
        else http.client.HTTPConnection("localhost", port)
    )
    connection.request("GET", "/mock/requests")
    seen = [r["version"] for r in json.loads(connection.getresponse().read()) if r["path"].endswith("completions")]
    assert seen == ["HTTP/2.0" if http2 else "HTTP/1.1"] * 2
    assert mock.child.poll() is None


def test_a_provider_whose_certificate_is_not_believed_is_not_spoken_to(folder, started, certified):
    port = free_port()
    more = ["--tls-certificate", certified[0], "--tls-key", certified[1]]
    started(Process("mock-tls", ["mock", "--listen", f"127.0.0.1:{port}", *more], folder))
    eventually("the mock listens", lambda: socket.create_connection(("127.0.0.1", port)).close() is None)
    config = (
        '[server]\nlisten = "LISTEN"\nadmin_listen = "ADMIN"\n[providers.p]\nkind = "openai"\n'
        f'base_url = "https://localhost:{port}/v1"\n[routes."*"]\nprovider = "p"\n'
    )
    store = Store(folder / "unbelieved")
    key = store.key()
    edge = started(Edge(store, config))
    answer = edge.chat(edge.wait_key(key), hi("m"))
    assert (answer.status, answer.error["code"]) == (502, "upstream_connect_failed")
