"""What is said in runs, kept by tenants that want it: sealed at the edge, opened by the store alone."""

import json
import time

import pytest
from openai import OpenAI

from harness import ALL_ASSERTS, BEHIND_MOCK, Edge, Store, eventually, files_below, request, user

CONFIG = BEHIND_MOCK + """
[routes.ask]
provider = "mock"
model = "m"
prompt = "greeting"
scrub = ["ALL"]

[routes.plain]
provider = "mock"
retries = 0
model = "m"
scrub = []
"""


@pytest.fixture(params=["sqlite", "postgres"])
def up(request, tmp_path, mock, started):
    url = request.getfixturevalue("postgres").database() if request.param == "postgres" else None
    store = Store(tmp_path / "data", url)
    store.put("greeting", "You are the Brightwater helper.")
    edge = started(Edge(store, CONFIG.replace("MOCK/", f"{mock.base}/")))
    edge.key = edge.new_key("first", asserts=ALL_ASSERTS)
    return edge


def keep(up, **value):
    """Turns it on; in force at the edge when the epoch has changed."""
    before = up.epoch()
    assert up.api("PUT", "settings/run_content", {"value": {"days": 30, **value}}).status == 200
    eventually("contents are kept", lambda: up.epoch() > before)


def run_of(answer):
    return answer.headers["x-sluice-request-id"]


def stored(up, run):
    """What is kept of a run; `None` while nothing is."""
    found = up.api("GET", f"runs/{run}/content")
    assert found.status in (200, 404), found.body
    return found.json() if found.status == 200 else None


def kept(up, run):
    eventually("the content is stored", lambda: stored(up, run))
    return stored(up, run)


def is_recorded(up, run):
    return any(known["id"] == run for known in up.api("GET", "runs?limit=1000").json()["runs"])


def test_what_is_said_is_kept_sealed_where_a_tenant_wants_it(up):
    before = up.chat(up.key, user("I am ann@example.com, before", model="ask"))
    eventually("the run is recorded", lambda: is_recorded(up, run_of(before)))
    assert stored(up, run_of(before)) is None, "nothing is kept unasked"
    keep(up)
    reply = {"reply": {"text": "Dear <EMAIL_1>, marmalade."}}
    answer = up.chat(up.key, user("I am ann@example.com, tell me of jam", model="ask"), mock=reply)
    assert answer.text == "Dear ann@example.com, marmalade."
    found = kept(up, run_of(answer))
    asked = json.loads(found["request"])
    assert [message["role"] for message in asked["messages"]] == ["system", "user"]
    assert asked["messages"][0]["content"] == "You are the Brightwater helper."
    assert asked["messages"][1]["content"] == "I am <EMAIL_1>, tell me of jam"
    assert json.loads(found["answer"])["choices"][0]["message"]["content"] == "Dear <EMAIL_1>, marmalade."
    assert found["id"] == run_of(answer) and found["is_cut"] is False
    # A stream is kept as what it said, by an official client too.
    client = OpenAI(base_url=f"http://{up.base}/v1", api_key=up.key)
    with client.chat.completions.with_streaming_response.create(
        model="plain", stream=True, messages=[{"role": "user", "content": "Stream of jam"}]
    ) as response:
        run = response.headers["x-sluice-request-id"]
        events = [json.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: {")]
    said = "".join(choice["delta"].get("content") or "" for event in events for choice in event["choices"])
    found = kept(up, run)
    assert said and list(json.loads(found["answer"]).values()) == [said]
    # Who looked is noted, and only who may look can.
    read = [event["entity"] for event in up.api("GET", "events").json()["events"] if event["kind"] == "content.read"]
    assert run in read
    token = up.store.run("operator", "create", "curious", "--scopes", "read,write,deploy,keys,secrets").stdout.split()[-1]
    headers = {"authorization": f"Bearer {token}"}
    refused = request(up.admin, "GET", f"/api/v1/runs/{run}/content", None, headers)
    assert refused.status == 403 and "`contents`" in refused.json()["message"]
    assert json.loads(up.store.run("runs", "--content", run).stdout) == found
    assert "there is no content" in up.store.run("runs", "--content", "00" * 16, code=2).stderr
    # On disk, at the edge and in the objects, it is sealed. PostgreSQL's files are beside.
    for path, held in files_below(up.store.folder):
        for words in (b"tell me of jam", b"marmalade", b"Stream of jam"):
            assert words not in held, path
    assert "sluice_contents_dropped_total 0" in up.metrics()


def test_long_texts_are_cut_and_a_rotated_store_key_opens_them_still(up):
    keep(up, max_bytes=1024)
    answer = up.chat(up.key, user("lang " * 1_000, model="plain"), mock={"reply": {"text": "breit " * 1_000}})
    found = kept(up, run_of(answer))
    assert found["is_cut"] and len(found["request"]) == 1024 and len(found["answer"]) == 1024
    up.store.run("secret", "rotate")
    assert stored(up, run_of(answer)) == found
    assert "(contents)" in up.store.run("secret", "list").stdout
    # Without its secret nothing of it can be opened any more.
    before = up.epoch()
    up.store.run("secret", "delete", "(contents)")
    gone = up.api("GET", f"runs/{run_of(answer)}/content")
    assert gone.status == 400 and "cannot be opened" in gone.json()["message"]
    # What is said from here on is sealed to another key.
    eventually("the other key is in force", lambda: up.epoch() > before)
    assert kept(up, run_of(up.chat(up.key, user("y", model="plain"))).upper())["answer"]


TOOL = {"tool_calls": [{"name": "weather", "arguments": "{\"place\": \"Bern\"}"}]}


def test_tools_that_a_stream_calls_are_kept_by_name(up):
    keep(up)
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
    answer = up.chat(up.key, user("x", model="plain", stream=True, tools=tools), mock=TOOL)
    assert answer.status == 200, answer.body
    heard = json.loads(kept(up, run_of(answer))["answer"])
    assert set(heard.values()) == {"weather", '{"place": "Bern"}'}, heard
    # Through Gemini's own interface, where a call is one piece.
    request = {"contents": [{"role": "user", "parts": [{"text": "x"}]}]}
    headers = {"x-mock": json.dumps(TOOL)}
    answer = up.send("POST", "/v1beta/models/plain:streamGenerateContent?alt=sse", request, up.key, headers)
    assert answer.status == 200, answer.body
    heard = json.loads(kept(up, run_of(answer))["answer"])
    assert any("Bern" in said for said in heard.values()), heard
    # What is no conversation is not kept.
    answer = up.send("POST", "/v1/embeddings", {"model": "plain", "input": "x"}, up.key)
    eventually("the run is recorded", lambda: is_recorded(up, run_of(answer)))
    assert stored(up, run_of(answer)) is None


def test_contents_go_with_their_subject_and_with_the_setting(up):
    for wrong in ({"days": 0}, {"days": 1, "max_bytes": 5}, {}, True):
        refused = up.api("PUT", "settings/run_content", {"value": wrong})
        assert refused.status == 400 and "`run_content` must be" in refused.json()["message"], refused.body
    token = up.store.run("operator", "create", "writer", "--scopes", "read,write").stdout.split()[-1]
    headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
    for method, body in (("PUT", json.dumps({"value": {"days": 30}})), ("DELETE", None)):
        refused = request(up.admin, method, "/api/v1/settings/run_content", body, headers)
        assert refused.status == 403 and "`contents`" in refused.json()["message"], refused.body
    keep(up)
    ann = up.chat(up.key, user("x", model="plain"), headers={"x-sluice-subject": "ann"})
    ben = up.chat(up.key, user("x", model="plain"), headers={"x-sluice-subject": "ben"})
    assert kept(up, run_of(ann)) and kept(up, run_of(ben))
    assert up.api("DELETE", "subjects/ann").status == 200
    assert stored(up, run_of(ann)) is None and stored(up, run_of(ben))
    before = up.epoch()
    assert up.api("DELETE", "settings/run_content").status == 200
    assert stored(up, run_of(ben)) is None
    eventually("contents are kept no longer", lambda: up.epoch() > before)
    after = up.chat(up.key, user("x", model="plain"))
    eventually("the run is recorded", lambda: is_recorded(up, run_of(after)))
    assert stored(up, run_of(after)) is None
