"""The official clients work with the base URL and the key changed, and nothing else."""

import json
import os
import subprocess

import openai
import pytest

from conftest import SUPPORT_BOT_RENDERED
from harness import TESTS

TOOLS = [{"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}]


@pytest.fixture(scope="session")
def client(edge, master):
    with openai.OpenAI(base_url=edge.url, api_key=master, max_retries=0) as client:
        yield client


def ask(client, text, model="plain", script=None, **more):
    headers = {"x-mock": json.dumps(script)} if script else {}
    messages = [{"role": "user", "content": text}]
    return client.chat.completions.create(model=model, messages=messages, extra_headers=headers, **more)


def test_openai_python_reads_a_plain_chat_completion(client):
    answer = ask(client, "good morning")
    assert answer.choices[0].message.content == "good morning"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == "upstream-model"
    assert answer.usage.total_tokens > 0


def test_openai_python_reads_a_streamed_chat_completion(client):
    chunks = list(ask(client, "one two three", stream=True))
    deltas = [c.choices[0].delta.content for c in chunks if c.choices and c.choices[0].delta.content]
    assert "".join(deltas) == "one two three"
    assert len(deltas) >= 3
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_openai_python_steers_with_extra_body(client):
    script = {"reply": "echo"}
    answer = ask(client, "hi", "prompted", script, extra_body={"sluice": {"variables": {"topic": "tents"}}})
    assert answer.choices[0].message.content == f"{SUPPORT_BOT_RENDERED}\nhi"


def test_openai_python_reads_a_tool_call(client):
    script = {"tool_call": {"name": "look_up", "arguments": '{"order": 17}'}}
    answer = ask(client, "look", script=script, tools=TOOLS)
    call = answer.choices[0].message.tool_calls[0]
    assert (call.function.name, call.function.arguments) == ("look_up", '{"order": 17}')
    assert answer.choices[0].finish_reason == "tool_calls"


def test_openai_python_reads_a_streamed_tool_call(client):
    script = {"tool_call": {"name": "look_up", "arguments": '{"order": 17}'}, "split": 1}
    calls = [
        call
        for chunk in ask(client, "look", script=script, tools=TOOLS, stream=True)
        for choice in chunk.choices
        for call in choice.delta.tool_calls or []
    ]
    assert [c.function.name for c in calls if c.function.name] == ["look_up"]
    assert "".join(c.function.arguments or "" for c in calls) == '{"order": 17}'
    assert len(calls) >= 13


def test_openai_python_reads_embeddings(client):
    answer = client.embeddings.create(model="text-embedding-3-small", input=["a", "b"], encoding_format="float")
    assert [row.index for row in answer.data] == [0, 1]
    assert all(isinstance(number, float) for row in answer.data for number in row.embedding)
    assert len(answer.data[0].embedding) > 0


def test_openai_python_lists_the_routes_as_models(client):
    names = {model.id for model in client.models.list()}
    # The catch-all is no model that one could ask for, so it may be left out, but no other route.
    assert names - {"*"} == {
        "support-bot", "prompted", "knowing", "guide", "plain", "scrubbed", "impatient", "refusing",
    }


def test_openai_python_retrieves_one_route_as_a_model(client):
    assert client.models.retrieve("plain").id == "plain"
    # What no route names is for the wildcard's provider to tell of.
    assert client.models.retrieve("no-such-route").to_dict()["path"].endswith("/models/no-such-route")


def test_a_wrong_key_is_an_authentication_error(edge):
    with openai.OpenAI(base_url=edge.url, api_key="sk-sluice-wrong", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError) as caught:
            ask(client, "hi")
    assert caught.value.code == "invalid_api_key"


def test_a_used_up_limit_is_a_rate_limit_error_with_retry_after(edge):
    key = edge.new_key(rpm=2)
    with openai.OpenAI(base_url=edge.url, api_key=key, max_retries=0) as client:
        with pytest.raises(openai.RateLimitError) as caught:
            for _ in range(4):
                ask(client, "hi")
    assert caught.value.code == "rate_limit_exceeded"
    assert int(caught.value.response.headers["retry-after"]) >= 1


def test_an_unknown_model_is_a_not_found_error(edge):
    key = edge.new_key(routes="plain")
    with openai.OpenAI(base_url=edge.url, api_key=key, max_retries=0) as client:
        with pytest.raises(openai.NotFoundError) as caught:
            ask(client, "hi", "no-such-route")
    assert caught.value.code == "model_not_found"


def test_a_missing_variable_is_a_bad_request_error_that_names_it(client):
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, "hi", "prompted")
    assert caught.value.code == "missing_variable"
    assert caught.value.body["message"] == "Missing variable: {{topic}}"


def node(edge, key, scenario, question="hello there", script=None):
    done = subprocess.run(
        ["node", TESTS / "node/client.mjs", scenario],
        capture_output=True,
        text=True,
        timeout=60,
        env={
            **os.environ,
            "BASE_URL": edge.url,
            "API_KEY": key,
            "QUESTION": question,
            "X_MOCK": json.dumps(script) if script else "",
        },
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_openai_node_reads_a_plain_chat_completion(edge, master):
    assert node(edge, master, "chat", "write to ann@brightwater.com") == {
        "text": "write to ann@brightwater.com",
        "model": "upstream-model",
    }


def test_openai_node_reads_a_streamed_chat_completion(edge, master):
    read = node(edge, master, "stream", "write to ann@brightwater.com today", {"split": 1})
    assert read["text"] == "write to ann@brightwater.com today"
    assert read["finish"] == "stop"
    assert read["deltas"] > 5


def test_openai_node_reads_a_tool_call(edge, master):
    script = {"tool_call": {"name": "look_up", "arguments": "echo"}}
    read = node(edge, master, "tools", "ann@brightwater.com", script)
    assert read["name"] == "look_up"
    assert json.loads(read["arguments"]) == {"text": "ann@brightwater.com"}


def test_openai_node_throws_an_authentication_error_for_a_wrong_key(edge):
    read = node(edge, "sk-sluice-wrong", "refused")
    assert read == {"kind": "AuthenticationError", "isAuthentication": True, "status": 401, "code": "invalid_api_key"}
