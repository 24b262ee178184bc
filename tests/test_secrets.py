"""Neither what people write nor a key is in any line of the log, even at trace."""

import json
import uuid

import pytest

from conftest import CONFIG, config_for, fill
from harness import ALL_ASSERTS, PROVIDER_KEY, Edge, Store, eventually, open_chat, raw, read_head, user

CANARY = f"canary{uuid.uuid4().hex}"


@pytest.mark.parametrize("form", ["human", "json"])
def test_no_text_and_no_key_is_in_the_log(folder, mock, started, form):
    store = fill(Store(folder / f"trace-{form}"))
    store.put("secretive", f"The {{{{ word }}}} of {CANARY}-prompt.")
    store.put("failing", f"{{{{ word / 0 }}}} {CANARY}-prompt")
    store.ingest_texts("handbook", secret=f"# {CANARY}-title\n\nRefunds of {CANARY}-passage.\n")
    log = f'level = "trace"\nformat = "{form}"'
    extra = "".join(
        f'\n[routes.{alias}]\nprovider = "mock"\nmodel = "m"\nprompt = "{alias}"\ncollections = ["handbook"]\nscrub = ["EMAIL"]\n'
        for alias in ("secretive", "failing")
    )
    key = store.key(asserts=ALL_ASSERTS)
    edge = started(Edge(store, config_for(mock, CONFIG.replace('level = "debug"', log) + extra)))
    edge.wait_key(key)
    mail = f"{CANARY}@brightwater.com"
    said = f"refunds {CANARY}-user {mail}"
    steering = {"variables": {"word": f"{CANARY}-variable"}, "subject": f"{CANARY}-subject"}
    body = user(said, model="secretive", sluice=steering, user=mail)

    # Success, plain and streamed, echoed so that every text is in the answer too.
    plain = edge.chat(key, body, {"reply": "echo"})
    assert plain.status == 200 and CANARY in plain.text
    streamed = edge.chat(key, {**body, "stream": True}, {"reply": "echo", "split": 3})
    assert CANARY in streamed.streamed_text
    assert edge.send("POST", "/v1/explain", body, key).status == 200
    # The key in each place a client may put it.
    for path, headers in [
        (f"/v1/chat/completions?key={key}", {}),
        ("/v1/chat/completions", {"x-api-key": key}),
        ("/v1/chat/completions", {"api-key": key}),
        ("/v1/chat/completions", {"x-goog-api-key": key}),
    ]:
        assert edge.send("POST", path, body, headers=headers).status == 200
    # Refusals.
    wrong = f"sk-sluice-{CANARY}"
    for headers in ({"authorization": f"Bearer {wrong}"}, {"x-api-key": wrong}):
        assert edge.send("POST", "/v1/chat/completions", body, headers=headers).status == 401
    assert edge.send("POST", f"/v1/chat/completions?key={wrong}", body).status == 401
    assert edge.chat(key, f'{{"model":"plain","messages":"{CANARY}').status == 400
    assert edge.chat(key, user(said, model="failing", sluice={"variables": {"word": f"{CANARY}-variable"}})).status == 400
    assert edge.chat(key, user(said, model="secretive")).status == 400
    assert edge.chat(key, user([{"type": "image_url", "image_url": {"url": CANARY}}], model="secretive", sluice=steering)).status == 400
    assert raw(edge.base, f"GET /v1/models HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\nbad {CANARY}\r\n\r\n".encode())
    # Failures of the provider.
    for fault, stream, status in [
        ("status:503", False, 503), ("close_before_header", False, 502), ("close_mid_stream", True, 200),
        ("no_done", True, 200), ("malformed_json", False, None),
    ]:
        answer = edge.chat(key, {**body, "stream": stream}, {"fault": fault, "reply": "echo"})
        assert status is None or answer.status == status
    assert edge.chat(key, user(said, model="refusing")).status == 502
    assert edge.chat(key, user(said, model="impatient"), {"fault": "stall_before_header"}).status == 504
    # A client that leaves.
    connection = open_chat(edge, key, {**body, "stream": True}, {"reply": "echo", "token_milliseconds": 200})
    read_head(connection)
    connection.close()
    eventually("the departure is counted", lambda: edge.metric("sluice_upstream_cancelled_total") >= 1, 5)
    edge.stop()

    lines = edge.log().splitlines()
    assert len(lines) > 20, "the log is too short to prove anything"
    assert [line for line in lines if "DEBUG" in line or "TRACE" in line], "the level is not in force"
    if form == "json":
        assert all(isinstance(json.loads(line), dict) for line in lines)
    secret = key.removeprefix("sk-sluice-")
    leaks = [line for line in lines if CANARY in line or secret in line or PROVIDER_KEY in line]
    assert leaks == []


def test_a_log_line_tells_of_each_exchange(edge, simple):
    answer = edge.chat(simple, user("hi", model="plain"))
    request_id = answer.headers["x-sluice-request-id"]
    eventually("the exchange is logged", lambda: request_id in edge.log(), 3)
