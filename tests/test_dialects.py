"""Every client speaks its own dialect to every provider, whatever dialect that one speaks.

The first half drives the client libraries (sdks.py), the second sends raw requests (dialects.py) for what no library
shows.
"""

import json
import time

import pytest

import dialects
from dialects import CHAT, DIALECTS, GEMINI, MESSAGES, RESPONSES, SCHEMA, TOOL, asked, check_error_shape, error_code
from harness import ALL_ASSERTS, PROVIDER_KEY, Edge, Mock, Store, eventually, mark
from sdks import CALLED, RESULT, SDKS

PROVIDERS = """\
[server]
listen = "LISTEN"
admin_listen = "ADMIN"
worker_threads = 2

[providers.o]
kind = "openai"
base_url = "http://MOCK/v1"
api_key_env = "MOCK_API_KEY"
breaker_failures = 0

[providers.a]
kind = "anthropic"
base_url = "http://MOCK/v1"
api_key_env = "MOCK_API_KEY"
breaker_failures = 0

[providers.g]
kind = "gemini"
base_url = "http://MOCK/v1beta"
api_key_env = "MOCK_API_KEY"
breaker_failures = 0

[providers.hasty-o]
kind = "openai"
base_url = "http://MOCK/v1"
api_key_env = "MOCK_API_KEY"
breaker_failures = 0
first_token_timeout_milliseconds = 400

[providers.hasty-a]
kind = "anthropic"
base_url = "http://MOCK/v1"
api_key_env = "MOCK_API_KEY"
breaker_failures = 0
first_token_timeout_milliseconds = 400

[providers.hasty-g]
kind = "gemini"
base_url = "http://MOCK/v1beta"
api_key_env = "MOCK_API_KEY"
breaker_failures = 0
first_token_timeout_milliseconds = 400

[providers.z]
kind = "azure"
base_url = "http://MOCK/openai"
api_version = "2024-10-21"
api_key_env = "MOCK_API_KEY"
breaker_failures = 0
"""

TARGETS = {
    "openai": ("o", "gpt-4o-mini"),
    "anthropic": ("a", "claude-sonnet-4-5"),
    "gemini": ("g", "gemini-2.5-flash"),
    "azure": ("z", "gpt-4o-mini"),
}
PLAIN_TARGETS = ["openai", "anthropic", "gemini"]

# What each kind of route adds to its provider and model.
ROUTES = {
    "to": "scrub = []",
    "dropping": "scrub = []\ndrop_unsupported = true",
    "scrubbed": 'scrub = ["EMAIL", "PHONE", "CREDIT_CARD"]',
    "prompted": 'scrub = []\nprompt = "greeter"\ncollections = ["handbook"]\ncontext_tokens = 500',
}

# What tells a prompt, a passage and the client's own words apart in a request.
PROMPT = "You are the greeter of a tent shop."
PASSAGE = "Refunds take five working days."


def config(mock):
    routes = [
        f'[routes.{kind}-{target}]\nprovider = "{provider}"\nmodel = "{model}"\nretries = 0\n{more}\n'
        for kind, more in ROUTES.items()
        for target, (provider, model) in TARGETS.items()
    ]
    routes += [
        f'[routes.hasty-{target}]\nprovider = "hasty-{TARGETS[target][0]}"\nmodel = "{TARGETS[target][1]}"\nretries = 0\nscrub = []\n'
        for target in PLAIN_TARGETS
    ]
    return PROVIDERS.replace("MOCK/", f"{mock.base}/") + "\n" + "\n".join(routes)


@pytest.fixture(scope="module")
def provider(folder):
    mock = Mock(folder)
    yield mock
    mock.stop()


@pytest.fixture(scope="module")
def edge(folder, provider):
    store = Store(folder / "dialects")
    store.put("greeter", PROMPT)
    store.ingest_texts("handbook", refunds=f"# Refunds\n\n{PASSAGE}\n")
    edge = Edge(store, config(provider))
    edge.key = edge.new_key(asserts=ALL_ASSERTS)
    yield edge
    edge.stop()


@pytest.fixture(scope="module")
def sdk(edge):
    """Gives a client library by name; each is made once."""
    made = {}

    def get(name):
        if name not in made:
            made[name] = SDKS[name](edge.base, edge.key)
        return made[name]

    yield get
    for client in made.values():
        getattr(client, "stop", lambda: None)()


every_client = pytest.mark.parametrize("name", SDKS)
every_target = pytest.mark.parametrize("target", PLAIN_TARGETS)
every_dialect = pytest.mark.parametrize("dialect", DIALECTS)


def send(client, route, text="hello there", script=None, marked=None, **job):
    headers = {"x-mock": json.dumps(script or {}), "x-custom": marked or mark()}
    return client.send({"model": route, "text": text, "headers": headers, **job})


def succeeded(said):
    assert said["error"] is None, said["error"]
    return said


# What the client libraries show.


@every_target
@every_client
def test_a_client_reads_a_plain_answer(sdk, provider, edge, name, target):
    client, marked = sdk(name), mark()
    said = succeeded(send(client, f"to-{target}", "good morning", marked=marked))
    assert said["text"] == "good morning"
    assert said["finish"] == client.finishes["whole"]
    assert min(said["usage"]) > 0
    got = provider.received(marked)
    assert asked(got).model == TARGETS[target][1]
    assert asked(got).turns == [("user", "good morning")]
    assert PROVIDER_KEY in json.dumps(got["headers"])
    assert edge.key not in json.dumps(got)


@every_target
@every_client
def test_a_client_reads_a_streamed_answer(sdk, name, target):
    client = sdk(name)
    said = succeeded(send(client, f"to-{target}", "one two three four", stream=True))
    assert said["text"] == "one two three four"
    assert said["deltas"] >= 3
    assert said["finish"] == client.finishes["whole"]


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
@every_target
@every_client
def test_a_client_reads_a_tool_call(sdk, provider, name, target, stream):
    client, marked = sdk(name), mark()
    script = {"tool_call": {"name": "look_up", "arguments": '{"order": 17}'}, "split": 3}
    said = succeeded(send(client, f"to-{target}", "look", script, marked, tools=True, stream=stream))
    assert said["calls"] == [["look_up", CALLED]]
    assert said["finish"] == client.finishes["called"]
    tools = asked(provider.received(marked)).tools
    assert list(tools) == ["look_up"]
    assert tools["look_up"]["properties"] == TOOL["parameters"]["properties"]


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
@every_target
@every_client
def test_a_client_reads_parallel_tool_calls(sdk, name, target, stream):
    calls = [{"name": "look_up", "arguments": json.dumps({"order": order})} for order in (17, 18)]
    said = succeeded(send(sdk(name), f"to-{target}", "look", {"tool_calls": calls}, tools=True, stream=stream))
    assert said["calls"] == [["look_up", {"order": 17}], ["look_up", {"order": 18}]]


@every_target
@every_client
def test_a_tool_call_and_its_result_reach_the_provider(sdk, provider, name, target):
    marked = mark()
    succeeded(send(sdk(name), f"to-{target}", "look", {"reply": {"text": "sent"}}, marked, tool_result=True))
    got = asked(provider.received(marked))
    assert got.turns == [("user", "look")]
    assert got.calls == [("look_up", CALLED)]
    [result] = got.results
    result = json.loads(result) if isinstance(result, str) else result
    # Vercel's client for Google wraps what the tool gave.
    assert result.get("content", result) == json.loads(RESULT)


@every_target
@every_client
def test_a_client_asks_for_structured_output(sdk, provider, name, target):
    marked, wanted = mark(), {"city": "Oslo", "days": 3}
    script = {"reply": {"text": json.dumps(wanted)}}
    said = succeeded(send(sdk(name), f"to-{target}", "a trip", script, marked, schema=True))
    assert json.loads(said["text"]) == wanted
    schema = asked(provider.received(marked)).schema
    assert set(schema["properties"]) == set(SCHEMA["properties"])
    assert schema["required"] == SCHEMA["required"]


@every_target
@every_client
def test_a_client_sends_an_image(sdk, provider, name, target):
    marked = mark()
    succeeded(send(sdk(name), f"to-{target}", "what is this", marked=marked, image=True))
    got = asked(provider.received(marked))
    [(kind, data)] = got.images
    # Google's own client spells base64 with `-` and `_`, which only Google takes.
    if target == "gemini":
        data = data.replace("-", "+").replace("_", "/")
    assert (kind, data) == ("image/png", dialects.PNG_BASE64)
    assert got.turns == [("user", "what is this")]


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
@every_target
@every_client
def test_a_client_sees_the_provider_s_error_as_its_own(sdk, name, target, stream):
    for fault, status in (("context_length", 400), ("status:429", 429), ("html_error", 502)):
        error = send(sdk(name), f"to-{target}", script={"fault": fault}, stream=stream)["error"]
        assert error and error["status"] == status, error
    error = send(sdk(name), f"to-{target}", script={"fault": "context_length"}, stream=stream)["error"]
    assert any(words in error["message"] for words in ("too long", "maximum", "context")), error


@every_target
@every_client
def test_a_provider_that_says_nothing_is_a_gateway_time_out_to_a_client(sdk, name, target):
    # A client that starts and connects takes time, too.
    succeeded(send(sdk(name), f"to-{target}"))
    start = time.monotonic()
    error = send(sdk(name), f"hasty-{target}", script={"fault": "stall_first_token"}, stream=True)["error"]
    assert error and error["status"] == 504, error
    assert 0.3 < time.monotonic() - start < 5


@pytest.mark.parametrize("fault", ["error_mid_stream", "close_mid_stream", "no_done"])
@every_target
@every_client
def test_a_client_throws_on_a_stream_that_breaks(sdk, name, target, fault):
    said = send(sdk(name), f"to-{target}", "one two three four five six", {"fault": fault}, stream=True)
    assert said["error"], said


@every_target
@every_client
def test_a_client_that_leaves_a_stream_ends_the_provider_s_work(sdk, provider, name, target):
    before = provider.stats()["cancelled"]
    script = {"token_milliseconds": 150, "reply": {"text": "word " * 200}}
    said = succeeded(send(sdk(name), f"to-{target}", script=script, stream=True, leave_after=1))
    assert said["text"].startswith("word")
    eventually("the provider's work has ended", lambda: provider.stats()["cancelled"] == before + 1, 3)


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
@every_target
@every_client
def test_a_client_gets_back_what_the_provider_never_saw(sdk, provider, name, target, stream):
    marked, text = mark(), "write to ann@brightwater.com or 4242 4242 4242 4242 today"
    said = succeeded(send(sdk(name), f"scrubbed-{target}", text, {"split": 2}, marked, stream=stream))
    assert said["text"] == text
    got = provider.received(marked)
    assert "brightwater" not in got["body"] and "4242" not in got["body"]
    assert asked(got).text == "write to <EMAIL_1> or <CREDIT_CARD_1> today"


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
@every_target
@every_client
def test_a_client_gets_back_what_stands_in_tool_arguments(sdk, name, target, stream):
    script = {"tool_call": {"name": "look_up", "arguments": "echo"}, "split": 2}
    said = succeeded(send(sdk(name), f"scrubbed-{target}", "ann@brightwater.com", script, tools=True, stream=stream))
    assert said["calls"] == [["look_up", {"text": "ann@brightwater.com"}]]


@every_client
def test_a_wrong_key_is_an_authentication_error(edge, name):
    client = SDKS[name](edge.base, "sk-sluice-wrong")
    try:
        error = send(client, "to-openai")["error"]
        assert error and error["status"] == 401, error
    finally:
        getattr(client, "stop", lambda: None)()


# What only raw requests show.


@every_target
@every_dialect
def test_usage_is_metered_by_route(edge, dialect, target):
    route = f"to-{target}"

    def metered():
        return [edge.metric("sluice_tokens_total", route=route, direction=way) for way in ("input", "output")]

    for stream in (False, True):
        before = metered()
        answer = dialects.ask(edge, dialect, route, "one two three", edge.key, stream)
        assert answer.status == 200, answer
        read = dialects.read_stream(dialect, answer.body) if stream else dialects.read_plain(dialect, answer.json())
        counted = eventually("the tokens are counted", lambda: metered()[1] > before[1] and metered(), 3)
        if read.usage:
            assert [after - was for after, was in zip(counted, before, strict=True)] == list(read.usage)


@pytest.mark.parametrize("target", [*PLAIN_TARGETS, "azure"])
def test_a_chat_stream_tells_its_usage_only_to_who_asked(edge, target):
    quiet = dialects.ask(edge, CHAT, f"to-{target}", "one two", edge.key, stream=True)
    assert not any(json.loads(event).get("usage") for event in quiet.events if event != "[DONE]")
    assert all(json.loads(event)["choices"] for event in quiet.events if event != "[DONE]")
    more = {"stream_options": {"include_usage": True}}
    told = dialects.ask(edge, CHAT, f"to-{target}", "one two", edge.key, stream=True, **more)
    assert json.loads(told.events[-2])["usage"]["total_tokens"] > 0
    assert json.loads(told.events[-2])["choices"] == []


@every_target
@every_dialect
def test_every_dialect_takes_the_key_in_every_place(edge, dialect, target):
    path = dialects.path(dialect, f"to-{target}")
    body = dialects.body(dialect, f"to-{target}", "hi")
    places = [
        (path, {"authorization": f"Bearer {edge.key}"}),
        (path, {"x-api-key": edge.key}),
        (path, {"x-goog-api-key": edge.key}),
        (f"{path}?key={edge.key}", {}),
    ]
    for place, headers in places:
        answer = edge.send("POST", place, body, headers=headers)
        assert answer.status == 200, (place, headers, answer)


@every_dialect
def test_a_missing_key_is_refused_in_the_dialect(edge, dialect):
    answer = edge.send("POST", dialects.path(dialect, "to-openai"), dialects.body(dialect, "to-openai", "hi"))
    assert answer.status == 401
    assert error_code(dialect, check_error_shape(dialect, answer)) == "invalid_api_key"


@every_dialect
def test_an_unknown_model_is_refused_in_the_dialect(edge, dialect):
    answer = dialects.ask(edge, dialect, "no-such-route", "hi", edge.key)
    assert answer.status == 404
    assert error_code(dialect, check_error_shape(dialect, answer)) == "model_not_found"


SAFETY = {"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}
# Per pair of dialects: what the client may say and the provider has no word for, as members of the body.
UNSUPPORTED = [
    (CHAT, "anthropic", {"logit_bias": {"50256": -100}}, "logit_bias"),
    (CHAT, "anthropic", {"seed": 7}, "seed"),
    (CHAT, "anthropic", {"temperature": 1.5}, "temperature"),
    (CHAT, "gemini", {"logit_bias": {"50256": -100}}, "logit_bias"),
    (CHAT, "gemini", {"something_new": True}, "something_new"),
    (RESPONSES, "anthropic", {"tools": [{"type": "web_search"}]}, "tools"),
    (MESSAGES, "openai", {"top_k": 5}, "top_k"),
    (MESSAGES, "gemini", {"mcp_servers": [{"type": "url", "url": "https://x.test", "name": "x"}]}, "mcp_servers"),
    (GEMINI, "openai", {"safetySettings": [SAFETY]}, "safetySettings"),
]
# What stands for a part of the conversation cannot be dropped either.
INDISPENSABLE = [
    (RESPONSES, "gemini", {"previous_response_id": "resp_1"}, "previous_response_id"),
    (GEMINI, "anthropic", {"cachedContent": "cachedContents/1"}, "cachedContent"),
]


@pytest.mark.parametrize("dialect, target, more, field", UNSUPPORTED)
def test_what_the_provider_has_no_word_for_is_refused_by_name(edge, provider, dialect, target, more, field):
    marked = mark()
    answer = dialects.ask(edge, dialect, f"to-{target}", "hi", edge.key, mark=marked, **more)
    assert answer.status == 400, answer
    error = check_error_shape(dialect, answer)
    assert error_code(dialect, error) == "unsupported_field"
    assert field in error["message"]
    assert not [r for r in provider.requests() if r["headers"].get("x-custom") == marked]


@pytest.mark.parametrize("dialect, target, more, field", INDISPENSABLE)
def test_a_part_of_the_conversation_is_never_dropped(edge, dialect, target, more, field):
    for route in ("to", "dropping"):
        answer = dialects.ask(edge, dialect, f"{route}-{target}", "hi", edge.key, **more)
        assert answer.status == 400, answer
        assert field in check_error_shape(dialect, answer)["message"]


@pytest.mark.parametrize("dialect, target, more, field", UNSUPPORTED)
def test_a_route_may_drop_it_and_tells(edge, provider, dialect, target, more, field):
    marked = mark()
    answer = dialects.ask(edge, dialect, f"dropping-{target}", "hi", edge.key, mark=marked, **more)
    assert answer.status == 200, answer
    dropped = answer.headers["x-sluice-dropped"].split(", ")
    assert any(name.startswith(field) for name in dropped), dropped
    assert field not in json.loads(provider.received(marked)["body"])


@every_target
@every_dialect
def test_nothing_is_dropped_from_a_plain_conversation(edge, dialect, target):
    for stream in (False, True):
        answer = dialects.ask(edge, dialect, f"dropping-{target}", "hi", edge.key, stream, system="Be brief.")
        assert answer.status == 200, answer
        assert "x-sluice-dropped" not in answer.headers


@every_target
@every_dialect
def test_the_client_s_system_text_reaches_the_provider(edge, provider, dialect, target):
    marked = mark()
    answer = dialects.ask(edge, dialect, f"to-{target}", "hi", edge.key, mark=marked, system="Be brief.")
    assert answer.status == 200, answer
    got = asked(provider.received(marked))
    assert got.system == "Be brief."
    assert got.turns == [("user", "hi")]


@every_target
@every_dialect
def test_prompt_and_context_stand_where_the_provider_s_dialect_wants_them(edge, provider, dialect, target):
    marked, question = mark(), "how long do refunds take"
    answer = dialects.ask(edge, dialect, f"prompted-{target}", question, edge.key, mark=marked, system="Be brief.")
    assert answer.status == 200, answer
    assert answer.headers["x-sluice-prompt"] == "greeter@1"
    got = asked(provider.received(marked))
    assert got.system.startswith(PROMPT)
    assert got.system.endswith("Be brief.")
    said = [text for role, text in got.turns if role == "user"]
    assert len(said) == len(got.turns)
    # The context is a turn before the last one; a provider whose turns alternate may have both in one.
    whole = "\n".join(said)
    assert whole.count(PASSAGE) == 1
    assert whole.index(PASSAGE) < whole.index(question)
    assert said[-1].endswith(question)


@every_target
@every_dialect
def test_max_tokens_reaches_the_provider_by_its_name(edge, provider, dialect, target):
    marked = mark()
    more = {
        CHAT: {"max_completion_tokens": 77},
        RESPONSES: {"max_output_tokens": 77},
        MESSAGES: {"max_tokens": 77},
        GEMINI: {"generationConfig": {"maxOutputTokens": 77}},
    }[dialect]
    answer = dialects.ask(edge, dialect, f"to-{target}", "hi", edge.key, mark=marked, **more)
    assert answer.status == 200, answer
    assert asked(provider.received(marked)).max_tokens == 77


@every_target
@every_dialect
def test_an_answer_that_was_cut_by_its_length_says_so(edge, dialect, target):
    cut = {CHAT: "length", RESPONSES: "incomplete", MESSAGES: "max_tokens", GEMINI: "MAX_TOKENS"}[dialect]
    for stream in (False, True):
        answer = dialects.ask(edge, dialect, f"to-{target}", "one two three four", edge.key, stream, mock={"tokens": 2})
        read = dialects.read_stream(dialect, answer.body) if stream else dialects.read_plain(dialect, answer.json())
        assert (read.finish, read.done) == (cut, True)
        assert read.text.strip() == "one two"


@every_target
@every_dialect
def test_a_streamed_answer_is_the_plain_one_in_pieces(edge, dialect, target):
    for script in ({}, {"tool_call": {"name": "look_up", "arguments": '{"order": 17}'}, "split": 1}):
        more = dialects.with_tool(dialect) if script else {}
        plain, streamed = (
            dialects.ask(edge, dialect, f"to-{target}", "Ünïcode 🏕 and more", edge.key, stream, script, **more)
            for stream in (False, True)
        )
        assert plain.status == streamed.status == 200, (plain, streamed)
        whole = dialects.read_plain(dialect, plain.json())
        pieces = dialects.read_stream(dialect, streamed.body)
        assert pieces.done and pieces.error is None
        assert (pieces.text, pieces.finish) == (whole.text, whole.finish)
        assert [(name, json.loads(text)) for name, text in pieces.calls] == [
            (name, json.loads(text)) for name, text in whole.calls
        ]


@every_target
@every_dialect
def test_split_characters_and_gzip_are_put_together_again(edge, dialect, target):
    for fault in ("split_utf8", "trickle", "gzip"):
        for stream in (False, True):
            text = "Zelt 🏕 für zwei"
            headers = {"accept-encoding": "identity"}
            script, route = {"fault": fault}, f"scrubbed-{target}"
            answer = dialects.ask(edge, dialect, route, text, edge.key, stream, script, headers=headers)
            assert answer.status == 200, (fault, answer)
            assert "content-encoding" not in answer.headers
            read = dialects.read_stream(dialect, answer.body) if stream else dialects.read_plain(dialect, answer.json())
            assert (read.text, read.done) == (text, True), fault


@every_target
def test_the_completed_events_of_responses_have_the_originals(edge, target):
    """Placeholders are replaced in the deltas and in every event that repeats the text as a whole."""
    address = "ann@brightwater.com"
    calls = {"tool_call": {"name": "look_up", "arguments": "echo"}}
    for script, more in (({}, {}), (calls, dialects.with_tool(RESPONSES))):
        answer = dialects.ask(edge, RESPONSES, f"scrubbed-{target}", address, edge.key, True, script, **more)
        assert answer.status == 200, answer
        assert b"EMAIL_1" not in answer.body
        events = [json.loads(data) for _, data in dialects.frames(answer.body)]
        done = [event for event in events if event["type"].endswith((".done", ".completed"))]
        assert any(address in json.dumps(event) for event in done)
        assert address in json.dumps(events[-1])
        numbers = [event["sequence_number"] for event in events]
        assert numbers == sorted(set(numbers))


def test_messages_can_be_counted(edge, provider):
    marked = mark()
    body = {"model": "to-anthropic", "messages": [{"role": "user", "content": "how many"}]}
    headers = {"x-api-key": edge.key, "x-custom": marked}
    answer = edge.send("POST", "/v1/messages/count_tokens", body, headers=headers)
    assert answer.status == 200, answer
    assert answer.json()["input_tokens"] > 0
    assert json.loads(provider.received(marked)["body"])["model"] == TARGETS["anthropic"][1]


def test_contents_can_be_counted(edge, provider):
    marked = mark()
    body = {"contents": [{"role": "user", "parts": [{"text": "how many"}]}]}
    headers = {"x-goog-api-key": edge.key, "x-custom": marked}
    answer = edge.send("POST", "/v1beta/models/to-gemini:countTokens", body, headers=headers)
    assert answer.status == 200, answer
    assert answer.json()["totalTokens"] > 0
    assert provider.received(marked)["path"].endswith(f"/models/{TARGETS['gemini'][1]}:countTokens")


def test_a_gemini_stream_without_alt_sse_is_an_array(edge):
    path = "/v1beta/models/to-gemini:streamGenerateContent"
    answer = edge.send("POST", path, dialects.body(GEMINI, "", "one two three"), headers={"x-goog-api-key": edge.key})
    assert answer.status == 200, answer
    chunks = answer.json()
    assert "".join(dialects.read_plain(GEMINI, chunk).text for chunk in chunks) == "one two three"


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
def test_azure_is_called_by_deployment_and_version(edge, provider, stream):
    marked = mark()
    answer = dialects.ask(edge, CHAT, "to-azure", "hi", edge.key, stream, mark=marked)
    assert answer.status == 200, answer
    got = provider.received(marked)
    assert got["path"] == "/openai/deployments/gpt-4o-mini/chat/completions?api-version=2024-10-21"
    assert got["headers"]["api-key"] == PROVIDER_KEY
    assert "authorization" not in got["headers"]


@pytest.mark.parametrize(
    "target, header", [("openai", "authorization"), ("anthropic", "x-api-key"), ("gemini", "x-goog-api-key")]
)
@every_dialect
def test_the_provider_gets_its_own_key_where_it_looks_for_it(edge, provider, dialect, target, header):
    marked = mark()
    assert dialects.ask(edge, dialect, f"to-{target}", "hi", edge.key, mark=marked).status == 200
    headers = provider.received(marked)["headers"]
    assert headers[header].removeprefix("Bearer ") == PROVIDER_KEY
    others = {"authorization", "x-api-key", "x-goog-api-key", "api-key"} - {header}
    assert not others & set(headers)
    assert ("anthropic-version" in headers) == (target == "anthropic")


@every_target
@every_dialect
def test_reasoning_is_told_in_the_client_s_dialect(edge, dialect, target):
    script = {"reasoning": "because of the rain"}
    # Responses says its reasoning in an item, chat in a field, the others in a block or part of its own.
    for stream in (False, True):
        answer = dialects.ask(edge, dialect, f"to-{target}", "take a tent", edge.key, stream, script)
        assert answer.status == 200, answer
        read = dialects.read_stream(dialect, answer.body) if stream else dialects.read_plain(dialect, answer.json())
        assert read.text == "take a tent"
        assert b"rain" in answer.body
