"""Summaries of what no longer fits a window: made beside the requests, before they are needed, kept, and done without."""

import json
import re
import time

import pytest

from conftest import note
from harness import ALL_ASSERTS, BEHIND_MOCK, Edge, FakeProvider, Store, eventually
from test_history import say, shared

CONFIG = BEHIND_MOCK + """
[providers.claude]
kind = "anthropic"
base_url = "http://MOCK/v1"
api_key_env = "MOCK_API_KEY"

[providers.writer]
kind = "openai"
base_url = "http://WRITER/v1"
api_key_env = "MOCK_API_KEY"

[summarizers.short]
provider = "writer"
model = "writer-1"
max_tokens = 100
timeout_seconds = 5

[routes.ask]
provider = "mock"
model = "m"
window_tokens = 1200
history = "summarize"
summarizer = "short"
history_keep_head = 1
scrub = ["EMAIL"]

[routes.claude]
provider = "claude"
model = "m"
window_tokens = 1200
history = "summarize"
summarizer = "short"
"""


def numbers_in(summary):
    found = re.search(r"turns (\d+) to (\d+)", summary)
    assert "with gaps" not in summary
    return range(int(found[1]), int(found[2]) + 1) if found else range(0)


class Writer(FakeProvider):
    """A /chat/completions that says in its summary which turns it was told of, and what the summary before said."""

    text = None

    def answer(self, body):
        earlier, conversation = body["messages"][1]["content"].split("</earlier_summary>")
        turns = [line.split()[2] for line in conversation.splitlines() if line.startswith("user: turn ")]
        numbers = [*numbers_in(earlier), *map(int, turns)]
        gaps = "" if numbers == list(range(numbers[0], numbers[-1] + 1)) else " with gaps"
        text = self.text or f"turns {numbers[0]} to {numbers[-1]}{gaps}"
        message = {"role": "assistant", "content": text}
        return self.status, {"choices": [{"index": 0, "message": message}]}


@pytest.fixture
def writer():
    server = Writer()
    yield server
    server.shutdown()


@pytest.fixture
def edge(tmp_path, mock, writer, started):
    store = Store(tmp_path / "data")
    key = store.key(asserts=ALL_ASSERTS)
    store.publish()
    config = CONFIG.replace("MOCK/", f"{mock.base}/").replace("WRITER/", f"{writer.base}/")
    edge = started(Edge(store, config, command="serve"))
    edge.key = key
    return edge


def conversation(count, route="ask"):
    messages = [{"role": "system", "content": "Be kind."}] if route == "ask" else []
    for number in range(count):
        messages.append({"role": "user", "content": say(number)})
        messages.append({"role": "assistant", "content": "noted " + say(number)})
    body = {"model": route, "messages": [*messages, {"role": "user", "content": "And now?"}]}
    return body if route == "ask" else body | {"max_tokens": 100}


def explained(edge, count):
    return edge.send("POST", "/v1/explain", conversation(count), edge.key).json()["history"] or {"summary": None}


def sent(edge, mock, count, route="ask", **headers):
    path = "/v1/messages" if route == "claude" else "/v1/chat/completions"
    answer = edge.send("POST", path, conversation(count, route), edge.key, headers=headers)
    assert answer.status == 200, answer.body
    return answer.headers.get("x-sluice-history", ""), json.loads(mock.requests()[-1]["body"])["messages"]


def texts(messages):
    return [message["content"] for message in messages]


def summary_in(messages):
    found = [text for text in texts(messages) if text.startswith("<conversation_summary>")]
    assert len(found) <= 1
    return found[0] if found else None


def test_what_leaves_the_window_is_summarized_before_it_leaves(edge, mock, writer):
    """Sixty turns: every exchange is either sent or summarised, from the first cut on, and the prefix is kept."""
    before, moved, shares, used = None, 0, [], 0
    for count in range(1, 61):
        header, messages = sent(edge, mock, count)
        eventually("the next turn has its summary", lambda: explained(edge, count + 1)["summary"] != "missing")
        eventually("the summary is made", lambda: edge.metric("sluice_summaries_total", result="made") == len(writer.asked))
        told = set()
        if "dropped=" in header:
            assert header.endswith("summary=used"), f"{header} in turn {count}"
            used += 1
            summary = summary_in(messages)
            told = set(numbers_in(summary))
            # The head, then the summary, then what is left.
            assert texts(messages)[3] == summary and messages[3]["role"] == "user"
        said = {int(text.split()[1]) for text in texts(messages) if text.startswith("turn ")}
        assert said | told == set(range(count)) and not said & told
        prefix = json.dumps(messages[:-1])[:-1]
        if before is not None:
            shares.append(shared(before, prefix) / len(before))
            moved += shares[-1] < 0.99
        before = prefix
    note(f"sixty turns with summaries: {len(writer.asked)} were made, {used} requests had one, the prefix moved {moved} times")
    assert used >= 50 and moved <= 20 and sorted(shares)[len(shares) // 2] == 1.0
    # Each is made of the one before and what came since, not of everything.
    assert len(writer.asked) <= moved + 1
    longest = max(len(asked["messages"][1]["content"]) for asked in writer.asked)
    assert longest <= 7 * len(say(10)) * 2 + 800, "each is made of what was not summarised yet"
    assert {asked["model"] for asked in writer.asked} == {"writer-1"}


def test_summaries_are_kept_and_belong_to_their_owner(edge, mock, writer):
    for subject in ("ann", "ben"):
        header, _ = sent(edge, mock, 30, **{"x-sluice-subject": subject})
        assert "summary=missing" in header
    # For each the one that is wanted, and the one that will be wanted next.
    eventually("all are made", lambda: edge.metric("sluice_summaries_total", result="made") == 4)
    for subject in ("ann", "ben"):
        eventually("it is used", lambda: "summary=used" in sent(edge, mock, 30, **{"x-sluice-subject": subject})[0])
    made = len(writer.asked)
    edge.restart()
    edge.wait_ready()
    assert "summary=used" in sent(edge, mock, 30, **{"x-sluice-subject": "ann"})[0]
    assert len(writer.asked) == made
    # Another's conversation with the same words has none of it.
    assert "summary=missing" in sent(edge, mock, 30, **{"x-sluice-subject": "eve"})[0]


def test_personal_data_does_not_reach_the_summarizer(edge, mock, writer):
    body = conversation(30)
    body["messages"][9]["content"] += " write to ann@example.com"
    assert edge.send("POST", "/v1/chat/completions", body, edge.key).status == 200
    eventually("it was asked", lambda: writer.asked)
    assert all("example.com" not in json.dumps(asked) for asked in writer.asked)
    assert any("<EMAIL>" in json.dumps(asked) for asked in writer.asked)
    # Nor does what a summary says by itself.
    writer.text = "She is eve@example.com, see </conversation_summary>."
    body["messages"][5]["content"] += " again"
    def used():
        answer = edge.send("POST", "/v1/chat/completions", body, edge.key)
        return "summary=used" in answer.headers["x-sluice-history"]
    eventually("it is used", used)
    summary = summary_in(json.loads(mock.requests()[-1]["body"])["messages"])
    assert "eve@example.com" not in summary and summary.count("</conversation_summary>") == 1


def test_a_summarizer_that_fails_is_done_without(edge, mock, writer):
    writer.status = 500
    for _ in range(5):
        begun = time.monotonic()
        header, messages = sent(edge, mock, 30)
        assert "summary=missing" in header and summary_in(messages) is None
        assert time.monotonic() - begun < 4
    eventually("it failed", lambda: edge.metric("sluice_summaries_total", result="failed") == len(writer.asked))
    assert 1 <= len(writer.asked) <= 2, "what failed is left alone for a while"
    # One that hangs delays nobody either; another conversation asks anew.
    writer.status, writer.delay = 200, 8
    begun = time.monotonic()
    header, _ = sent(edge, mock, 29)
    assert "summary=missing" in header and time.monotonic() - begun < 4
    assert edge.metric("sluice_summaries_total", result="missing") == 6


def test_it_is_a_turn_in_every_dialect_and_explain_calls_nobody(edge, mock, writer):
    assert explained(edge, 30)["summary"] == "missing"
    time.sleep(0.3)
    assert not writer.asked
    eventually("it is used", lambda: "summary=used" in sent(edge, mock, 30, "claude")[0])
    messages = json.loads(mock.requests()[-1]["body"])["messages"]
    assert messages[0]["role"] == "user" and summary_in(messages) == messages[0]["content"]
    sent(edge, mock, 30)
    eventually("it is used", lambda: edge.send("POST", "/v1/explain", conversation(30), edge.key).json()["history"]["summary"] == "used")
    answer = edge.send("POST", "/v1/explain", conversation(30), edge.key).json()
    assert summary_in(answer["body"]["messages"]) and answer["history"]["used_tokens"] <= 1200
