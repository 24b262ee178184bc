"""What the client sees when the provider fails: never a silent success."""

import json
import os
import signal
import time

import openai
import pytest

from harness import eventually, request, user

HI = user("one two three four five six", model="plain")


def streamed(model="plain"):
    return {**HI, "model": model, "stream": True}


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_provider_s_own_error_passes_unchanged(edge, mock, simple, status):
    fault = {"fault": f"status:{status}"}
    direct = request(
        mock.base, "POST", "/v1/chat/completions", json.dumps(HI), {"x-mock": json.dumps(fault)}
    )
    for body in (HI, streamed()):
        answer = edge.chat(simple, body, fault)
        assert answer.status == direct.status == status
        got, wanted = answer.json(), direct.json()
        assert got == wanted


def check_failed(answer, status, code):
    assert answer.status == status, answer
    assert answer.error["code"] == code
    assert answer.headers["x-should-retry"] in ("true", "false")
    assert answer.headers["x-sluice-request-id"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_provider_that_hangs_up_before_the_header_is_a_protocol_error(edge, simple, stream):
    answer = edge.chat(simple, {**HI, "stream": stream}, {"fault": "close_before_header"})
    check_failed(answer, 502, "upstream_protocol_error")


@pytest.mark.parametrize("stream", [False, True])
def test_a_provider_that_never_answers_times_out(edge, simple, stream):
    start = time.monotonic()
    answer = edge.chat(simple, {**HI, "model": "impatient", "stream": stream}, {"fault": "stall_before_header"})
    check_failed(answer, 504, "upstream_timeout")
    assert 0.9 <= time.monotonic() - start < 10


def test_a_time_limit_is_no_shorter_after_the_machine_held_the_edge_up(edge, simple):
    os.kill(edge.pid, signal.SIGSTOP)
    time.sleep(1.5)
    os.kill(edge.pid, signal.SIGCONT)
    start = time.monotonic()
    answer = edge.chat(simple, {**HI, "model": "impatient"}, {"fault": "stall_before_header"})
    check_failed(answer, 504, "upstream_timeout")
    assert 0.95 <= time.monotonic() - start < 10


@pytest.mark.parametrize("stream", [False, True])
def test_a_provider_that_refuses_the_connection_is_a_bad_gateway(edge, simple, stream):
    answer = edge.chat(simple, {**HI, "model": "refusing", "stream": stream})
    check_failed(answer, 502, "upstream_connect_failed")


def check_interrupted(answer, code="upstream_stream_interrupted"):
    """The stream tells of its failure in band and has no `[DONE]`."""
    assert answer.status == 200
    assert "[DONE]" not in answer.events
    assert json.loads(answer.events[-1])["error"]["code"] == code


@pytest.mark.parametrize("model", ["plain", "scrubbed"])
@pytest.mark.parametrize("fault", ["close_mid_stream", "no_done", "close_after_header"])
def test_a_broken_stream_ends_with_an_error(edge, simple, model, fault):
    answer = edge.chat(simple, streamed(model), {"fault": fault})
    if fault == "close_after_header":
        # Nothing had been shown, so the status itself can tell.
        return check_failed(answer, 502, "upstream_stream_interrupted")
    check_interrupted(answer)
    assert answer.streamed_text.startswith("one")


@pytest.mark.parametrize("model", ["plain", "scrubbed"])
@pytest.mark.parametrize("fault", ["close_mid_stream", "no_done", "close_after_header"])
def test_openai_python_raises_on_a_broken_stream(edge, simple, model, fault):
    with openai.OpenAI(base_url=edge.url, api_key=simple, max_retries=0) as client:
        with pytest.raises(openai.APIError) as caught:
            for _ in client.chat.completions.create(
                model=model,
                messages=HI["messages"],
                stream=True,
                extra_headers={"x-mock": json.dumps({"fault": fault})},
            ):
                pass
    assert caught.value.code == "upstream_stream_interrupted"


def test_a_stream_that_stalls_ends_with_an_error(edge, simple):
    start = time.monotonic()
    answer = edge.chat(simple, streamed("impatient"), {"fault": "stall_mid_stream"})
    check_interrupted(answer, "upstream_timeout")
    assert answer.streamed_text.startswith("one")
    assert 0.9 <= time.monotonic() - start < 10


@pytest.mark.parametrize("fault", ["close_mid_stream", "close_after_header", "malformed_json"])
@pytest.mark.parametrize("model", ["plain", "scrubbed"])
def test_a_broken_plain_answer_is_no_success(edge, simple, model, fault):
    """A plain answer is held until it is whole, so that an error status can tell."""
    answer = edge.chat(simple, {**HI, "model": model}, {"fault": fault})
    code = "upstream_protocol_error" if fault == "malformed_json" else "upstream_stream_interrupted"
    check_failed(answer, 502, code)


def test_a_slow_provider_within_its_time_is_waited_for(edge, simple):
    script = {"latency_milliseconds": 600, "first_token_milliseconds": 600, "token_milliseconds": 100}
    answer = edge.chat(simple, streamed("impatient"), script)
    assert answer.events[-1] == "[DONE]"
    assert answer.streamed_text == HI["messages"][0]["content"]


def test_deltas_arrive_as_they_are_made(edge, simple):
    """A stream is relayed event by event, not gathered."""
    for model in ("plain", "scrubbed"):
        with openai.OpenAI(base_url=edge.url, api_key=simple, max_retries=0) as client:
            start = time.monotonic()
            times = [
                time.monotonic() - start
                for chunk in client.chat.completions.create(
                    model=model,
                    messages=user("word " * 20)["messages"],
                    stream=True,
                    extra_headers={"x-mock": json.dumps({"token_milliseconds": 100})},
                )
                if chunk.choices and chunk.choices[0].delta.content
            ]
        # Twenty words in two seconds: what is held up for a moment comes close together, what is gathered comes at once.
        assert len(times) >= 20
        assert times[-1] - times[0] > 0.7, times


def test_faults_are_counted_by_cause(edge, simple):
    def count(cause):
        return edge.metric("sluice_errors_total", cause=cause, fault="provider")

    def both():
        return count("upstream_connect_failed"), count("upstream_stream_interrupted")

    before = both()
    edge.chat(simple, {**HI, "model": "refusing"})
    edge.chat(simple, streamed(), {"fault": "no_done"})
    eventually("both are counted", lambda: both() == (before[0] + 1, before[1] + 1))
