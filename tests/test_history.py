"""Conversations longer than a route's window: what leaves, that the cut stays where it is, and that nothing is split."""

import json

import pytest

from conftest import config_for, fill, note
from harness import ALL_ASSERTS, Edge, Store

ROUTES = """
[routes.short]
provider = "mock"
model = "m"
window_tokens = 1200
scrub = ["EMAIL"]

[routes.keeping]
provider = "mock"
model = "m"
window_tokens = 1200
history = "importance"
history_keep_head = 1
scrub = []

[routes.recalling]
provider = "mock"
model = "m"
collections = ["handbook"]
window_tokens = 1200
context_tokens = 1500
scrub = []
"""


@pytest.fixture(scope="module")
def windowed(folder, mock):
    store = fill(Store(folder / "history"))
    edge = Edge(store, config_for(mock) + ROUTES)
    edge.key = store.key("reader", asserts=ALL_ASSERTS)
    edge.wait_key(edge.key)
    yield edge
    edge.stop()


def say(number, words=60):
    return f"turn {number} " + " ".join(f"w{number}x{place % 17}" for place in range(words // 3))


def turns(count, **more):
    messages = [{"role": "system", "content": "Be kind."}]
    for number in range(count):
        messages.append({"role": "user", "content": say(number)})
        messages.append({"role": "assistant", "content": "noted " + say(number)})
    return {"model": "short", "messages": [*messages, {"role": "user", "content": "And now?"}], **more}


def told(edge, body, path="/v1/explain"):
    answer = edge.send("POST", path, body, edge.key)
    assert answer.status == 200, answer
    return answer.json()


def shared(left, right):
    for place, (a, b) in enumerate(zip(left, right)):
        if a != b:
            return place
    return min(len(left), len(right))


def test_a_short_conversation_leaves_whole(windowed):
    answer = told(windowed, turns(2))
    assert answer["history"]["dropped"] == 0
    assert len(answer["body"]["messages"]) == 6


def test_the_prefix_stays_the_same_from_turn_to_turn(windowed):
    """Sixty turns through a window of 1,200 tokens: bytes shared with the turn before, and how often the cut moved."""
    before, moved, shares = None, 0, []
    for count in range(1, 61):
        answer = told(windowed, turns(count))
        messages = answer["body"]["messages"]
        assert messages[0] == {"role": "system", "content": "Be kind."}
        assert messages[1]["role"] == "user" and messages[-1]["content"] == "And now?"
        sent = json.dumps(messages[:-1])[:-1]
        history = answer["history"]
        if history:
            assert history["used_tokens"] <= 1200
            assert history["kept"] + history["dropped"] == count + 1
        if before is not None:
            share = shared(before, sent) / len(before)
            shares.append(share)
            moved += share < 0.99
        before = sent
    note(f"sixty turns in a window: the prefix was kept in {len(shares) - moved} of {len(shares)} turns, moved {moved} times")
    # 30 % of the window go at once, which is three exchanges here.
    assert moved <= len(shares) / 3
    assert sorted(shares)[len(shares) // 2] == 1.0


def test_the_answer_says_what_was_dropped(windowed):
    answer = windowed.send("POST", "/v1/chat/completions", turns(40), windowed.key)
    assert answer.status == 200
    assert answer.headers["x-sluice-history"].startswith("kept=")
    assert "dropped=" in answer.headers["x-sluice-history"]


def test_placeholders_keep_their_numbers_when_texts_are_dropped(windowed):
    body = turns(40)
    for number, message in enumerate(message for message in body["messages"] if message["role"] == "user"):
        message["content"] += f" person{number}@example.com"
    sent = told(windowed, body)["body"]["messages"]
    first = sent[1]["content"]
    number = int(first.split()[1])
    assert f"<EMAIL_{number + 1}>" in first
    assert "@example.com" not in json.dumps(sent)


def calls(number):
    return [
        {"role": "user", "content": say(number)},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": f"c{number}", "type": "function", "function": {"name": "look", "arguments": json.dumps({"q": say(number)})}},
        ]},
        {"role": "tool", "tool_call_id": f"c{number}", "content": say(number)},
        {"role": "assistant", "content": "done"},
    ]


def test_a_call_is_never_parted_from_its_result(windowed):
    for count in range(1, 30):
        messages = [message for number in range(count) for message in calls(number)]
        sent = told(windowed, {"model": "short", "messages": messages + [{"role": "user", "content": "go on"}]})
        sent = sent["body"]["messages"]
        asked = [call["id"] for message in sent for call in message.get("tool_calls") or []]
        answered = [message["tool_call_id"] for message in sent if message["role"] == "tool"]
        assert asked == answered


def anthropic(count):
    messages = []
    for number in range(count):
        messages += [
            {"role": "user", "content": [{"type": "text", "text": say(number)}]},
            {"role": "assistant", "content": [{"type": "tool_use", "id": f"t{number}", "name": "look", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": f"t{number}", "content": say(number)}]},
            {"role": "assistant", "content": "done"},
        ]
    return {"model": "short", "max_tokens": 10, "messages": [*messages, {"role": "user", "content": "go on"}]}


def gemini(count):
    contents = []
    for number in range(count):
        contents += [{"role": "user", "parts": [{"text": say(number)}]}, {"role": "model", "parts": [{"text": say(number)}]}]
    return {"contents": [*contents, {"role": "user", "parts": [{"text": "go on"}]}]}


def responses(count):
    items = []
    for number in range(count):
        items += [
            {"role": "user", "content": say(number)},
            {"type": "function_call", "call_id": f"f{number}", "name": "look", "arguments": "{}"},
            {"type": "function_call_output", "call_id": f"f{number}", "output": say(number)},
        ]
    return {"model": "short", "input": [*items, {"role": "user", "content": "go on"}]}


@pytest.mark.parametrize("path, make", [
    ("/v1/messages", anthropic),
    ("/v1beta/models/short:generateContent", gemini),
    ("/v1/responses", responses),
])
def test_every_dialect_is_cut_between_exchanges(windowed, path, make):
    answer = windowed.send("POST", path, make(60), windowed.key)
    assert answer.status == 200, answer
    kept, dropped = (int(part.split("=")[1]) for part in answer.headers["x-sluice-history"].split())
    assert kept + dropped == 61 and 1 < kept < 40


def test_importance_keeps_the_evidence_that_truncation_loses(windowed):
    """The answer to the last question was given long ago; sixty conversations with it at different places."""
    found = {"short": 0, "keeping": 0}
    facts = [("harbour", "Marseille"), ("lantern", "brass"), ("falcon", "Ophelia"), ("saffron", "Kashmir")]
    trials = [(place, fact) for place in range(2, 32, 2) for fact in facts]
    for place, (topic, value) in trials:
        body = turns(40)
        body["messages"][1 + 2 * place]["content"] = f"Remember that my {topic} is {value}."
        body["messages"][-1]["content"] = f"What did I say about my {topic}?"
        for route in found:
            sent = told(windowed, body | {"model": route})
            assert sent["history"]["used_tokens"] <= 1200
            found[route] += value in json.dumps(sent["body"])
    note(f"evidence kept in {len(trials)} conversations: importance {found['keeping']}, truncate {found['short']}")
    assert found["keeping"] == len(trials) and found["short"] < len(trials) / 2


def test_recall_gives_way_before_history(windowed):
    for count in range(1, 7):
        body = turns(count) | {"model": "recalling"}
        body["messages"][-1]["content"] = "How long do refunds take?"
        answer = told(windowed, body)
        room = 1200 - answer["history"]["used_tokens"]
        assert answer["history"]["dropped"] == 0
        assert answer["context"]["used_tokens"] <= room
        assert answer["context"]["used_tokens"] > 0 or room < 250
    roomy = told(windowed, turns(1) | {"model": "recalling", "messages": [{"role": "user", "content": "How long do refunds take?"}]})
    assert "five working days" in json.dumps(roomy["body"])
    full = told(windowed, turns(40) | {"model": "recalling"})
    used = full["history"]["used_tokens"] + full["context"]["used_tokens"]
    assert used <= 1200


def test_an_unknown_strategy_is_a_fault_of_the_configuration(windowed):
    file = windowed.store.scratch / "bad.toml"
    file.write_text('[providers.p]\nkind = "mock"\n[routes.a]\nprovider = "p"\nhistory = "forget"\n')
    said = windowed.store.run("check", file, code=1).stderr
    assert "`forget` is not a value of `history` in `[routes.a]`" in said
    assert "choose from `truncate`, `importance`" in said
