"""What a request may steer, with which key, and what explain tells about it."""

import json

import pytest

from conftest import SUPPORT_BOT_RENDERED
from harness import ALL_ASSERTS, mark, user
from test_keys import check_refused

VARIABLES = {"topic": "tents"}


@pytest.mark.parametrize(
    "steering",
    [
        {"prompt": "guide"},
        {"environment": "staging"},
        {"collections": []},
        {"context_tokens": 10},
        {"filter": {}},
        {"session": "s"},
        {"subject": "s"},
        {"agent": "a"},
        {"explain": True},
    ],
    ids=lambda steering: next(iter(steering)),
)
def test_a_default_key_may_steer_variables_and_nothing_else(edge, simple, steering):
    body = user("hi", model="support-bot", sluice={"variables": VARIABLES})
    assert edge.chat(simple, body).status == 200
    body["sluice"].update(steering)
    check_refused(edge.chat(simple, body), 403, "not_permitted")


@pytest.mark.parametrize(
    "header, value",
    [
        ("x-sluice-prompt", "guide"),
        ("x-sluice-environment", "staging"),
        ("x-sluice-collections", "handbook"),
        ("x-sluice-context-tokens", "10"),
    ],
)
def test_a_header_needs_the_same_permission_as_the_field(edge, simple, master, header, value):
    body = user("hi", model="support-bot", sluice={"variables": VARIABLES})
    check_refused(edge.chat(simple, body, headers={header: value}), 403, "not_permitted")
    assert edge.chat(master, body, headers={header: value}).status != 403


def test_a_key_without_variables_may_not_set_them(edge):
    key = edge.new_key(asserts="explain")
    check_refused(edge.chat(key, user("hi", model="prompted", sluice={"variables": VARIABLES})), 403, "not_permitted")


def test_variables_come_by_body_and_by_header(edge, mock, simple):
    for body, headers in [
        (user("hi", model="prompted", sluice={"variables": {"topic": "boots", "tone": "kind"}}), {}),
        (user("hi", model="prompted"), {"x-sluice-variables": '{"topic":"boots","tone":"kind"}'}),
    ]:
        tag = mark()
        assert edge.chat(simple, body, mark=tag, headers=headers).status == 200
        sent = json.loads(mock.received(tag)["body"])
        assert sent["messages"][0]["content"] == "You answer about boots. Be kind."


def test_a_steered_prompt_replaces_the_route_s(edge, mock, master):
    tag = mark()
    answer = edge.chat(master, user("hi", model="prompted", sluice={"prompt": "guide"}), mark=tag)
    assert answer.headers["x-sluice-prompt"] == "guide@1"
    sent = json.loads(mock.received(tag)["body"])
    assert sent["messages"][0]["content"] == "Questions go to lead@brightwater-outdoor.com."


@pytest.mark.parametrize("steering", [{"prompt": "nobody-s"}, {"prompt": "guide", "environment": "nowhere"}])
def test_an_unknown_prompt_or_environment_is_not_found(edge, master, steering):
    check_refused(edge.chat(master, user("hi", model="prompted", sluice=steering)), 404, "prompt_not_found")


def test_steered_collections_are_cut_to_the_route_s(edge, master):
    def hits(steering):
        body = user("refunds office", model="support-bot", sluice={"variables": VARIABLES, **steering})
        answer = edge.send("POST", "/v1/explain", body, master)
        assert answer.status == 200, answer
        context = answer.json()["context"] or {"hits": []}
        return {hit["collection"] for hit in context["hits"]}

    assert hits({}) == {"handbook"}
    assert hits({"collections": ["handbook", "contacts"]}) == {"handbook"}
    assert hits({"collections": ["contacts"]}) == set()
    assert hits({"collections": []}) == set()


@pytest.mark.parametrize("stream", [False, True])
def test_a_missing_variable_is_named(edge, simple, stream):
    answer = edge.chat(simple, user("hi", model="prompted", stream=stream))
    check_refused(answer, 400, "missing_variable")
    assert answer.error["message"] == "Missing variable: {{topic}}"


@pytest.mark.parametrize(
    "body, code",
    [
        ("{", "invalid_json"),
        ("", "invalid_json"),
        ("[]", "invalid_request"),
        ('{"model":"plain","messages":[]} x', "invalid_json"),
        ('{"model":"plain","model":"scrubbed","messages":[]}', "duplicate_field"),
        ('{"model":"plain","messages":[],"messages":[]}', "duplicate_field"),
        ('{"model":"plain","messages":[{"role":"user","content":"hi"}],"sluice":{},"sluice":{}}', "duplicate_field"),
        ('{"mod\\u0065l":"plain","model":"scrubbed","messages":[]}', "duplicate_field"),
        ('{"messages":[{"role":"user","content":"hi"}]}', "invalid_request"),
        ('{"model":1,"messages":[{"role":"user","content":"hi"}]}', "invalid_request"),
        ('{"model":"plain","messages":[{"role":"user","content":"hi"}],"sluice":[]}', "invalid_request"),
        ('{"model":"plain","messages":[{"role":"user","content":"hi"}],"sluice":{"variabels":{}}}', "invalid_request"),
        ('{"model":"support-bot","messages":"hi","sluice":{"variables":{"topic":"x"}}}', "invalid_request"),
    ],
)
def test_a_faulty_body_is_refused_by_name(edge, mock, master, body, code):
    before = mock.stats()["started"]
    check_refused(edge.chat(master, body), 400, code)
    assert mock.stats()["started"] == before


def test_explain_needs_its_permission(edge, simple):
    check_refused(edge.send("POST", "/v1/explain", user("hi", model="plain"), simple), 403, "not_permitted")


def test_explain_tells_what_would_be_sent_and_sends_nothing(edge, mock, master):
    before = mock.stats()["started"]
    body = user(
        "How long do refunds take? ann@brightwater.com",
        model="support-bot",
        temperature=0.5,
        sluice={"variables": VARIABLES},
    )
    answer = edge.send("POST", "/v1/explain", body, master)
    assert answer.status == 200, answer
    told = answer.json()
    assert mock.stats()["started"] == before
    assert told["request_id"] == answer.headers["x-sluice-request-id"]
    assert (told["route"], told["provider"], told["model"]) == ("support-bot", "mock", "gpt-4o-mini")
    assert told["prompt"] == {"alias": "support-bot", "version": 1, "environment": "production", "experiment": None}
    context = told["context"]
    assert context["budget_tokens"] == 1500
    assert 0 < context["used_tokens"] <= 1500
    assert context["cache"] in ("hit", "miss")
    assert context["dropped"] == 0
    first = context["hits"][0]
    assert {"id", "title", "collection", "tokens", "score", "lexical_rank", "vector_rank"} <= set(first)
    assert (first["id"], first["collection"], first["lexical_rank"]) == ("refunds.md", "handbook", 1)
    assert told["scrub"] == {"EMAIL": 1}
    assert told["body"]["model"] == "gpt-4o-mini"
    assert told["body"]["temperature"] == 0.5
    contents = [m["content"] for m in told["body"]["messages"]]
    assert contents[0] == SUPPORT_BOT_RENDERED
    assert "five working days" in contents[1]
    assert contents[2] == "How long do refunds take? <EMAIL_1>"
    assert told["timing_us"]["identify"] > 0


def test_explain_of_a_bare_route_has_no_prompt_and_no_context(edge, master):
    told = edge.send("POST", "/v1/explain", user("hi", model="plain"), master).json()
    assert told["prompt"] is None
    assert told["context"] is None
    assert told["body"] == user("hi", model="upstream-model")


def test_explain_and_the_sent_body_agree(edge, mock, master):
    body = user("refunds for ann@brightwater.com", model="guide")
    told = edge.send("POST", "/v1/explain", body, master).json()["body"]
    tag = mark()
    assert edge.chat(master, body, mark=tag).status == 200
    sent = json.loads(mock.received(tag)["body"])
    # The nonce is fresh each time.
    assert [m["role"] for m in sent["messages"]] == [m["role"] for m in told["messages"]]
    assert (sent["messages"][0], sent["messages"][-1]) == (told["messages"][0], told["messages"][-1])


def test_every_permission_can_be_given(edge):
    key = edge.new_key(asserts=ALL_ASSERTS)
    steering = {
        "variables": VARIABLES, "prompt": "support-bot", "environment": "production", "collections": ["handbook"],
        "context_tokens": 100, "session": "s", "subject": "u", "agent": "a",
    }
    assert edge.chat(key, user("refunds", model="support-bot", sluice=steering)).status == 200
