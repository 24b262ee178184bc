"""Who may come in, how often, and to what."""

import re
import time

import pytest

from harness import eventually, user

HI = user("hi", model="plain")
DURATION = re.compile(r"(\d+h)?(\d+m)?(\d+(\.\d+)?s)?(\d+(\.\d+)?(ms|µs|us))?")


def check_refused(answer, status, code):
    """The error has OpenAI's shape; says what may be tried again."""
    assert answer.status == status, answer
    assert set(answer.json()) == {"error"}
    assert set(answer.error) == {"message", "type", "param", "code"}
    assert answer.error["code"] == code
    assert answer.error["message"]
    assert answer.headers["x-sluice-request-id"]
    assert answer.headers["x-should-retry"] == ("true" if status in (429, 503) else "false")
    assert answer.headers["content-type"].startswith("application/json")


@pytest.mark.parametrize("key", [None, "", "sk-sluice-wrong", "sk-sluice-" + "0" * 64, "é"])
def test_a_missing_or_wrong_key_is_refused(edge, key):
    headers = {} if key is None else {"authorization": f"Bearer {key}".encode()}
    check_refused(edge.send("POST", "/v1/chat/completions", HI, headers=headers), 401, "invalid_api_key")


def test_a_key_with_one_character_more_less_or_other_is_refused(edge, simple):
    other = simple[:-1] + ("0" if simple[-1] != "0" else "1")
    for wrong in (simple[:-1], simple + "0", other, simple.upper()):
        check_refused(edge.chat(wrong, HI), 401, "invalid_api_key")


@pytest.mark.parametrize("form", ["authorization", "x-api-key", "api-key", "x-goog-api-key", "query"])
def test_each_form_of_credential_lets_in(edge, simple, form):
    def send(key):
        if form == "query":
            return edge.send("POST", f"/v1/chat/completions?key={key}", HI)
        value = f"Bearer {key}" if form == "authorization" else key
        return edge.send("POST", "/v1/chat/completions", HI, headers={form: value})

    assert send(simple).status == 200
    check_refused(send("sk-sluice-wrong"), 401, "invalid_api_key")


def test_a_refused_key_reaches_no_provider(edge, mock):
    before = mock.stats()["started"]
    check_refused(edge.chat("sk-sluice-wrong", HI), 401, "invalid_api_key")
    assert mock.stats()["started"] == before


@pytest.mark.parametrize("by", ["id", "name"])
def test_a_revoked_key_is_refused_within_seconds(edge, by):
    record = edge.store.key_record()
    edge.wait_key(record["key"])
    edge.store.run("key", "revoke", record[by])
    eventually("the key is refused", lambda: edge.chat(record["key"], HI).status == 401, 5)
    check_refused(edge.chat(record["key"], HI), 401, "invalid_api_key")


def test_a_key_is_refused_when_it_has_expired(edge):
    made = time.monotonic()
    key = edge.new_key(expires_seconds=8)
    assert edge.chat(key, HI).status == 200
    eventually("the key is refused", lambda: edge.chat(key, HI).status == 401, 20)
    assert time.monotonic() - made >= 7.5
    check_refused(edge.chat(key, HI), 401, "invalid_api_key")


def test_a_route_that_the_key_may_not_use_looks_like_one_that_is_not(edge):
    key = edge.new_key(routes="plain,scrubbed")
    assert edge.chat(key, HI).status == 200
    names = {model["id"] for model in edge.send("GET", "/v1/models", key=key).json()["data"]}
    assert names == {"plain", "scrubbed"}
    forbidden = edge.chat(key, user("hi", model="knowing"))
    unknown = edge.chat(key, user("hi", model="no-such-model"))
    check_refused(forbidden, 404, "model_not_found")
    check_refused(unknown, 404, "model_not_found")
    alike = [a.error["message"].replace(n, "NAME") for a, n in [(forbidden, "knowing"), (unknown, "no-such-model")]]
    assert alike[0] == alike[1]
    assert edge.send("GET", "/v1/models/knowing", key=key).status == 404


def test_a_key_names_only_the_provider_models_it_may(edge):
    key = edge.new_key(models="gpt-4o,gpt-4o-mini")
    assert edge.chat(key, user("hi", model="gpt-4o")).json()["model"] == "gpt-4o"
    check_refused(edge.chat(key, user("hi", model="gpt-5")), 404, "model_not_found")
    assert edge.chat(key, HI).status == 200


def test_a_limited_key_passes_its_number_and_is_then_told_when_to_retry(edge):
    key = edge.store.key(rpm=5)
    # The key is found out to be served by another request than its own, which would use up the limit.
    edge.wait_key(edge.store.key())
    answers = [edge.chat(key, HI) for _ in range(8)]
    assert [a.status for a in answers] == [200] * 5 + [429] * 3
    check_refused(answers[-1], 429, "rate_limit_exceeded")
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 60
    for answer in answers:
        assert answer.headers["x-ratelimit-limit-requests"] == "5"
        assert DURATION.fullmatch(answer.headers["x-ratelimit-reset-requests"])
    remaining = [int(a.headers["x-ratelimit-remaining-requests"]) for a in answers]
    assert remaining == [4, 3, 2, 1, 0, 0, 0, 0]


def test_after_retry_after_the_next_request_passes(edge):
    key = edge.store.key(rpm=60)
    edge.wait_key(edge.store.key())
    statuses = [edge.chat(key, HI).status for _ in range(60)]
    assert statuses.count(200) == 60
    # One more comes up each second.
    refused = eventually("it is refused", lambda: (answer := edge.chat(key, HI)).status == 429 and answer, every=0)
    end = time.monotonic() + int(refused.headers["retry-after"])
    eventually("the advised time has passed", lambda: time.monotonic() >= end, 60)
    assert edge.chat(key, HI).status == 200


def test_a_used_up_limit_survives_the_swap_of_a_snapshot(edge):
    key = edge.store.key(rpm=3)
    edge.wait_key(edge.store.key())
    assert [edge.chat(key, HI).status for _ in range(4)] == [200, 200, 200, 429]
    epoch = edge.epoch()
    edge.new_key()
    eventually("a newer snapshot is served", lambda: edge.epoch() > epoch)
    answer = edge.chat(key, HI)
    assert answer.status == 429
    assert int(answer.headers["x-sluice-epoch"]) > epoch


def test_one_key_s_limit_leaves_another_key_alone(edge, simple):
    key = edge.store.key(rpm=1)
    edge.wait_key(edge.store.key())
    assert [edge.chat(key, HI).status for _ in range(2)] == [200, 429]
    assert edge.chat(simple, HI).status == 200


def test_paths_outside_of_v1_are_unknown(edge, simple):
    for path in ("/", "/v2/chat/completions", "/metrics", "/readyz", "/v1x/models"):
        check_refused(edge.send("GET", path, key=simple), 404, "unknown_url")


def test_healthz_asks_for_no_key(edge):
    answer = edge.send("GET", "/healthz")
    assert (answer.status, answer.body.strip()) == (200, b"ok")
