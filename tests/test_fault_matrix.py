"""Every way in which a provider fails, in every dialect: what the client saw, how long it took, how many calls it cost.

The matrix is run once, each lane (a dialect pair with a provider of its own) beside the others; the tests then judge
what was seen. The table goes to target/tests/fault-matrix.md.
"""

import gzip
import http.client
import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from email.utils import formatdate

import pytest

import dialects
from conftest import TABLES
from dialects import CHAT, GEMINI, MESSAGES, RESPONSES, check_error_shape, error_code
from harness import ROOT, Edge, Mock, Store, eventually, free_port, mark, open_chat, read_head

TEXT = "one two three four five six"
# What any exchange may take, from the time-outs below: two attempts, each cut after the total time-out, and a wait.
BOUND = 14.0

PROVIDER = """\
[providers.NAME]
kind = "KIND"
base_url = "http://ADDRESS"
api_key_env = "MOCK_API_KEY"
connect_timeout_milliseconds = 500
header_timeout_seconds = 3
first_token_timeout_milliseconds = 2_000
idle_timeout_seconds = 2
total_timeout_seconds = 4
breaker_failures = 0
retry_budget_percent = 100
"""

ROUTE = """\
[routes.ROUTE]
provider = "NAME"
model = "m"
retries = 1
scrub = []
"""


@dataclass(frozen=True)
class Lane:
    """A client's dialect, a provider's, and whether the answer is streamed."""

    name: str
    client: str
    kind: str
    stream: bool

    @property
    def base(self):
        return "/v1beta" if self.kind == "gemini" else "/v1"

    @property
    def translated(self):
        spoken = {"openai": (CHAT, RESPONSES), "anthropic": (MESSAGES,), "gemini": (GEMINI,)}[self.kind]
        return self.client not in spoken


LANES = [
    Lane("chat-plain", CHAT, "openai", False),
    Lane("chat-stream", CHAT, "openai", True),
    Lane("messages-stream", MESSAGES, "anthropic", True),
    Lane("gemini-stream", GEMINI, "gemini", True),
    Lane("responses-stream", RESPONSES, "openai", True),
    Lane("chat-on-anthropic-stream", CHAT, "anthropic", True),
]


@dataclass(frozen=True)
class Case:
    """A fault and what must come of it.

    `whole`: the answer is fine, after `calls` calls. `early`: it fails before content, so another target can save it;
    without one the client sees one of `statuses`. `late`: it fails with content out, so nothing may be repeated.
    `final`: the provider's word stands, whoever else could be asked.
    """

    name: str
    outcome: str
    script: dict = field(default_factory=dict)
    statuses: tuple = ()
    code: str | None = None
    calls: int = 1
    waits: float = 0
    """Seconds that pass at least when there is one target."""
    rests: float = 0
    """Seconds that the provider is left alone after it."""
    lanes: tuple = tuple(lane.name for lane in LANES)
    route: str = "failing"


PLAIN = ("chat-plain",)
CHATS = ("chat-plain", "chat-stream")
STREAMS = tuple(lane.name for lane in LANES if lane.stream)
TIMEOUT = {"statuses": (504,), "code": "upstream_timeout", "calls": 2}
INTERRUPTED = {"statuses": (502,), "code": "upstream_stream_interrupted", "calls": 2}
PROTOCOL = {"statuses": (502,), "code": "upstream_protocol_error", "calls": 2}


def fault(name, **more):
    return {"fault": name, **more}


def busy_once(**retry_after):
    return fault("status:429", fault_times=1, **retry_after)


def in_two_seconds():
    """An HTTP date has whole seconds, so this is one to two seconds away."""
    return formatdate(time.time() + 2, usegmt=True)


CASES = [
    # Before content: another attempt may save it.
    Case("connection refused", "early", statuses=(502,), code="upstream_connect_failed", calls=0, route="refused"),
    Case("close before the header", "early", fault("close_before_header"), **PROTOCOL),
    Case("reset before the header", "early", fault("reset_before_header"), **PROTOCOL),
    Case("silence before the header", "early", fault("stall_before_header"), **TIMEOUT),
    Case("close after the header", "early", fault("close_after_header"), **INTERRUPTED),
    Case("reset after the header", "early", fault("reset_after_header"), **INTERRUPTED),
    Case("silence after the header", "early", fault("stall_after_header"), **TIMEOUT),
    Case("metadata, then silence", "early", fault("stall_first_token"), lanes=STREAMS, **TIMEOUT),
    Case("alive without ever a token", "early", fault("metadata_forever"), lanes=STREAMS, **TIMEOUT),
    Case("status 500", "early", fault("status:500"), (500,), calls=2),
    Case("status 503", "early", fault("status:503"), (503,), calls=2),
    Case("status 529", "early", fault("status:529"), (529,), calls=2),
    Case("HTML error page", "early", fault("html_error"), (502,), calls=2),
    Case("wrong content type", "early", fault("wrong_content_type"), **PROTOCOL),
    Case("empty stream", "early", fault("empty_stream"), statuses=(502,), calls=2),
    Case("in-band error first", "early", fault("error_first"), (500, 502, 503, 529), calls=2),
    # A provider that recovers: the second attempt is fine.
    Case("503 once", "early", fault("status:503", fault_times=1), (200,), calls=2),
    Case("reset once", "early", fault("reset_before_header", fault_times=1), (200,), calls=2),
    Case("silence once", "early", fault("stall_before_header", fault_times=1), (200,), calls=2),
    Case("429, retry after three seconds", "early", busy_once(retry_after="3"), (200,), calls=2, waits=2.9, rests=3.1),
    Case("429, retry after 300 ms", "early", busy_once(retry_after_ms="300"), (200,), calls=2, waits=0.25, rests=0.4),
    Case("429, retry after a date", "early", busy_once(retry_after=in_two_seconds), (200,), calls=2, waits=0.8, rests=2.1),
    # With content out: never again.
    Case("close in mid-stream", "late", fault("close_mid_stream")),
    Case("reset in mid-stream", "late", fault("reset_mid_stream")),
    Case("silence in mid-stream", "late", fault("stall_mid_stream")),
    Case("in-band error in mid-stream", "late", fault("error_mid_stream"), lanes=STREAMS),
    Case("missing terminator", "late", fault("no_done"), lanes=STREAMS),
    Case("spaces for ever", "late", fault("metadata_forever"), lanes=PLAIN),
    Case("malformed JSON", "late", fault("malformed_json")),
    Case("invalid UTF-8", "late", fault("invalid_utf8")),
    Case("close in mid-stream, once", "late", fault("close_mid_stream", fault_times=1), lanes=STREAMS),
    # The provider's word.
    # Another target may have a larger window, or an account and a model that are in order.
    Case("context length", "early", fault("context_length"), (400,)),
    Case("status 400", "final", fault("status:400"), (400,)),
    Case("status 401", "early", fault("status:401"), (401,)),
    Case("status 404", "early", fault("status:404"), (404,)),
    # No fault to the client.
    Case("split UTF-8", "whole", fault("split_utf8")),
    Case("a byte at a time", "whole", fault("trickle")),
    Case("gzip", "whole", fault("gzip")),
    Case("terminator, then garbage", "whole", fault("garbage_after_done"), lanes=STREAMS),
    Case("slow but alive", "whole", {"fault": "none", "first_token_milliseconds": 200, "token_milliseconds": 300}),
    Case("idle connections closed", "whole", {"fault": "none", "idle_close_milliseconds": 30}),
    # Last, as the provider is left alone for a minute from then on.
    Case("429 for an hour", "early", fault("status:429", retry_after="3600"), (429,), calls=1),
    Case("429 for an absurd time", "early", fault("status:429", retry_after="99999999999999999999"), (429,), calls=1),
]
RUNS = [
    pytest.param(case, lane, target, id=f"{case.name}-{lane.name}-{target}")
    for case in CASES
    for lane in LANES
    for target in ("alone", "fallback")
    if lane.name in case.lanes
]


@dataclass
class Seen:
    """What came of one exchange."""

    status: int | None
    said: dialects.Said | None
    code: str | None
    answer: object
    seconds: float
    calls: int
    spare_calls: int
    cut: bool = False
    """The connection ended before the body did."""

    @property
    def summary(self):
        if self.cut:
            return f"{self.status}, cut"
        if self.status != 200:
            return f"{self.status} {self.code or ''}".strip()
        if self.said.error is not None:
            return f"200, {len(self.said.text.split())} words, then error {self.code or ''}".strip()
        if self.said.broken:
            return "200, with a broken frame"
        return "200, whole" if self.whole else f"200, {self.said.text!r}, done: {self.said.done}"

    @property
    def whole(self):
        return self.status == 200 and self.said.done and self.said.text == TEXT and self.said.error is None


def routes_of(lane):
    """`failing` and `refused`, each alone and with a fallback."""
    fallback = f'fallbacks = [{{ provider = "spare-{lane.kind}", model = "m" }}]\n'
    for route in ("failing", "refused"):
        text = ROUTE.replace("NAME", f"{route}-{lane.name}")
        yield text.replace("ROUTE", f"{route}-{lane.name}-alone")
        yield text.replace("ROUTE", f"{route}-{lane.name}-fallback") + fallback


def provider(name, kind, address):
    return PROVIDER.replace("NAME", name).replace("KIND", kind).replace("ADDRESS", address)


def config(mocks, spare):
    parts = ['[server]\nlisten = "LISTEN"\nadmin_listen = "ADMIN"\nworker_threads = 2\n']
    for kind, base in (("openai", "/v1"), ("anthropic", "/v1"), ("gemini", "/v1beta")):
        parts.append(provider(f"spare-{kind}", kind, spare.base + base))
    for lane in LANES:
        parts.append(provider(f"failing-{lane.name}", lane.kind, mocks[lane.name].base + lane.base))
        parts.append(provider(f"refused-{lane.name}", lane.kind, f"127.0.0.1:{free_port()}{lane.base}"))
        parts += routes_of(lane)
    return "\n".join(parts)


@pytest.fixture(scope="module")
def spare(folder):
    mock = Mock(folder)
    yield mock
    mock.stop()


@pytest.fixture(scope="module")
def mocks(folder):
    made = {lane.name: Mock(folder) for lane in LANES}
    yield made
    for mock in made.values():
        mock.stop()


@pytest.fixture(scope="module")
def edge(folder, mocks, spare):
    store = Store(folder / "matrix")
    edge = Edge(store, config(mocks, spare))
    edge.key = edge.new_key()
    yield edge
    edge.stop()


def received(mock, marked):
    return len([r for r in mock.requests() if r["headers"].get("x-custom") == marked])


def observe(edge, mock, spare, case, lane, target):
    """One exchange. The mock is the lane's own, so its script is nobody else's."""
    script = {name: value() if callable(value) else value for name, value in case.script.items()}
    mock.script(**({"fault": "none"} | script))
    if "idle_close_milliseconds" in script:
        exchange(edge, mock, spare, case, lane, target)
        time.sleep(0.1)
    return exchange(edge, mock, spare, case, lane, target)


def exchange(edge, mock, spare, case, lane, target):
    marked, start = mark(), time.monotonic()
    route = f"{case.route}-{lane.name}-{target}"
    answer, cut = None, False
    try:
        answer = dialects.ask(edge, lane.client, route, TEXT, edge.key, lane.stream, mark=marked)
    except (http.client.HTTPException, OSError):
        cut = True
    seconds = time.monotonic() - start
    seen = Seen(None, None, None, answer, seconds, received(mock, marked), received(spare, marked), cut)
    if answer is not None:
        read(lane, answer, seen)
    return seen


def read(lane, answer, seen):
    seen.status = answer.status
    body = gzip.decompress(answer.body) if answer.headers.get("content-encoding") == "gzip" else answer.body
    if answer.status != 200:
        seen.code = code_of(lane, body)
    elif lane.stream:
        seen.said = dialects.read_stream(lane.client, body)
        seen.said.broken = seen.said.broken or b"\xff" in body
        seen.code = seen.said.error and error_code(lane.client, seen.said.error)
    else:
        seen.said = read_plain(lane, body)


def read_plain(lane, body):
    try:
        told = json.loads(body)
        if told.get("error"):
            return dialects.Said(error=told["error"])
        return dialects.read_plain(lane.client, told)
    except ValueError:
        return dialects.Said(broken=True)


def code_of(lane, body):
    try:
        return error_code(lane.client, json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return None


@pytest.fixture(scope="module")
def seen(edge, mocks, spare):
    """The whole matrix, by case, lane and target."""
    found = {}

    def run(lane):
        for case in CASES:
            for target in ("alone", "fallback"):
                if lane.name in case.lanes:
                    found[case.name, lane.name, target] = observe(edge, mocks[lane.name], spare, case, lane, target)
                    time.sleep(case.rests)

    with ThreadPoolExecutor(len(LANES)) as pool:
        for done in [pool.submit(run, lane) for lane in LANES]:
            done.result()
    write_table(found)
    return found


LINES = []


def write_table(found):
    for (case, lane, target), was in found.items():
        LINES.append((case, lane, target, was.summary, f"{was.seconds:.2f}", was.calls, was.spare_calls))
    order = {case.name: place for place, case in enumerate(CASES)}
    LINES.sort(key=lambda line: order.get(line[0], len(order)))
    write_lines()


def write_lines():
    rows = ["| fault | lane | targets | the client saw | seconds | calls | calls of the spare |", "| --- " * 7 + "|"]
    rows += ["| " + " | ".join(str(cell) for cell in line) + " |" for line in LINES]
    folder = ROOT / "target/tests"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "fault-matrix.md").write_text("\n".join(rows) + "\n")
    TABLES["fault matrix"] = rows


@pytest.mark.timeout(240)
@pytest.mark.parametrize("case, lane, target", RUNS)
def test_a_fault_is_never_a_silent_success(seen, case, lane, target):
    was = seen[case.name, lane.name, target]
    assert was.seconds < BOUND, was
    JUDGES[case.outcome](case, lane, target, was)


def judge_whole(case, lane, target, was):
    assert was.whole, was
    assert (was.calls, was.spare_calls) == (case.calls, 0)


def judge_early(case, lane, target, was):
    if target == "fallback":
        assert was.whole, was
        if case.name == "reset once" and was.spare_calls == 0:
            # On a pooled connection it looks like one that had gone stale, and is sent again on a fresh one.
            assert was.calls == 2
            return
        assert was.spare_calls == 1
        # The next target is asked at once, not after a wait that belongs to the first; a time-out takes its time.
        timed_out = case.code == "upstream_timeout" or case.name == "silence once"
        assert was.seconds < 2.5 or timed_out, was
        # One that asked for an hour is asked last from then on.
        assert was.calls == (0 if case.route == "refused" else 1) or (was.calls == 0 and case.name.startswith("429 for"))
        return
    assert was.spare_calls == 0
    assert was.status in case.statuses, was
    assert was.seconds >= case.waits
    if case.statuses == (200,):
        assert was.whole, was
    else:
        judge_error(case, lane, was)
    assert was.calls == case.calls, was


def judge_error(case, lane, was):
    if was.status == 200:
        assert was.said.error is not None and not was.said.done, was
        return
    check_error_shape(lane.client, was.answer)
    assert case.code in (None, was.code), was
    assert "html" not in was.answer.body.decode().lower()


def judge_late(case, lane, target, was):
    assert (was.calls, was.spare_calls) == (1, 0) or not lane.stream, was
    assert not was.whole or was.spare_calls == 1 or was.calls == 2, was
    if not lane.stream:
        judge_late_plain(case, lane, was)
        return
    assert was.status == 200, was
    # Content came once and in order.
    assert TEXT.startswith(was.said.text.strip()) or was.said.broken, was
    if case.name in ("malformed JSON", "invalid UTF-8") and not lane.translated:
        # A relayed stream may pass on what its provider wrote; whoever reads it stumbles.
        assert was.said.broken or was.said.error is not None, was
        return
    assert was.said.text, was
    assert was.said.error is not None and not was.said.done, was
    if case.name != "in-band error in mid-stream":
        # How Responses and Gemini word it is theirs, the code is ours.
        assert was.code in ("upstream_stream_interrupted", "upstream_timeout", "upstream_protocol_error"), was


def judge_late_plain(case, lane, was):
    """A plain answer is whole, an error, or visibly broken."""
    assert was.cut or was.status >= 500 or was.whole or was.said.broken, was


def judge_final(case, lane, target, was):
    assert was.status in case.statuses, was
    assert (was.calls, was.spare_calls) == (1, 0)
    check_error_shape(lane.client, was.answer)


JUDGES = {"whole": judge_whole, "early": judge_early, "late": judge_late, "final": judge_final}


@pytest.mark.timeout(240)
def test_the_longest_wait_that_a_provider_asks_for_is_told_to_the_client(seen):
    was = seen["429 for an hour", "chat-plain", "alone"]
    assert was.answer.headers["retry-after"] == "3600"
    assert was.seconds < 2


@pytest.mark.timeout(240)
@pytest.mark.parametrize("lane", [lane for lane in LANES if lane.stream], ids=lambda lane: lane.name)
def test_a_translated_context_length_keeps_what_the_provider_said(seen, lane):
    was = seen["context length", lane.name, "alone"]
    message = check_error_shape(lane.client, was.answer)["message"]
    assert re.search(r"too long|maximum|context", message), message


# What the client does wrong. These make their own exchanges; nothing else runs beside them.


def record(name, lane, saw, seconds, calls):
    LINES.append((name, lane, "alone", saw, f"{seconds:.2f}", calls, 0))
    write_lines()


def leave(connection, started, mock, before):
    connection.close()
    eventually("the provider's work has ended", lambda: mock.stats()["cancelled"] == before + 1, 3)
    return time.monotonic() - started


@pytest.fixture
def failing(mocks):
    """The provider of streamed chats, without a script."""
    mock = mocks["chat-stream"]
    mock.script(fault="none")
    return mock


def ask_to_stream(edge, script, **more):
    body = {"model": "failing-chat-stream-alone", "messages": [{"role": "user", "content": TEXT}], "stream": True}
    return open_chat(edge, edge.key, body, script, **more)


@pytest.mark.timeout(240)
def test_a_client_that_leaves_before_the_header_ends_the_call(edge, failing):
    before = failing.stats()
    connection = ask_to_stream(edge, {"fault": "stall_before_header"})
    eventually("the provider has it", lambda: failing.stats()["in_flight"] == before["in_flight"] + 1, 3)
    took = leave(connection, time.monotonic(), failing, before["cancelled"])
    time.sleep(0.3)
    assert failing.stats()["started"] == before["started"] + 1, "it was tried again for nobody"
    record("client leaves before the header", "chat-stream", "-", took, 1)


@pytest.mark.timeout(240)
def test_a_client_that_leaves_in_mid_stream_ends_the_call(edge, failing):
    before = failing.stats()
    connection = ask_to_stream(edge, {"token_milliseconds": 400})
    head = read_head(connection)
    while b"one" not in head:
        head += connection.recv(4096)
    took = leave(connection, time.monotonic(), failing, before["cancelled"])
    assert failing.stats()["started"] == before["started"] + 1
    record("client leaves in mid-stream", "chat-stream", "-", took, 1)


@pytest.mark.timeout(240)
def test_a_client_that_leaves_during_the_wait_for_a_retry_ends_the_wait(edge, failing):
    before = failing.stats()
    started = time.monotonic()
    connection = ask_to_stream(edge, {"fault": "status:429", "retry_after": "3"})
    eventually("the provider has refused", lambda: failing.stats()["completed"] == before["completed"] + 1, 3)
    connection.close()
    time.sleep(3.5)
    assert failing.stats()["started"] == before["started"] + 1, "it was tried again for nobody"
    record("client leaves during the wait for a retry", "chat-stream", "-", time.monotonic() - started, 1)


@pytest.mark.timeout(240)
def test_a_client_that_stops_reading_holds_the_provider_up_and_not_the_edge(edge, failing):
    """The answer waits in the provider; the edge keeps no more of it than its buffers hold."""
    before, resident = failing.stats(), edge.resident_kib()
    failing.script(reply={"text": "lorem ipsum dolor sit amet " * 1_000_000}, split=1000)
    started = time.monotonic()
    connection = ask_to_stream(edge, {}, receive_buffer=4096)
    time.sleep(1.0)
    grown = edge.resident_kib() - resident
    assert grown < 16 * 1024, f"{grown} KiB"
    other = dialects.ask(edge, CHAT, "failing-chat-stream-alone", TEXT, edge.key, True, {"reply": "last"})
    assert dialects.read_stream(CHAT, other.body).text == TEXT
    took = leave(connection, started, failing, before["cancelled"])
    record("client stops reading", "chat-stream", f"-, {grown} KiB more in the edge", took, 1)


@pytest.mark.timeout(240)
def test_a_flapping_provider_never_costs_a_client_an_answer(edge, failing):
    """Every other call fails before content; one more attempt serves every client."""
    results = []

    def many():
        script = {"fault": "status:503", "fault_times": 1}
        for _ in range(10):
            answer = dialects.ask(edge, CHAT, "failing-chat-stream-alone", TEXT, edge.key, True, script, mark())
            results.append(dialects.read_stream(CHAT, answer.body).text if answer.status == 200 else answer)

    threads = [threading.Thread(target=many) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [TEXT] * 30
