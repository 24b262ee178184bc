"""The whole labelled corpus through the built binary: nothing that is found reaches the provider, everything comes back
to the client, in every dialect, streamed and not; and what each action does."""

import json
import re
import subprocess
import time

import pytest

import dialects
from dialects import CHAT, DIALECTS, GEMINI, MESSAGES, RESPONSES
from harness import BINARY, ROOT, Edge, Mock, Store, eventually, files_below, mark, user

CORPUS = ROOT / "policies/scrub/tests/corpus/dev.jsonl"
# Texts to a request: the last is the user's turn, which the mock says again, the others the instructions.
TOGETHER = 4

CONFIG = """\
[server]
listen = "LISTEN"
admin_listen = "ADMIN"
worker_threads = 2

[providers.o]
kind = "openai"
base_url = "http://MOCK/v1"
api_key_env = "MOCK_API_KEY"

[providers.a]
kind = "anthropic"
base_url = "http://MOCK/v1"
api_key_env = "MOCK_API_KEY"

[providers.g]
kind = "gemini"
base_url = "http://MOCK/v1beta"
api_key_env = "MOCK_API_KEY"

[routes.all-o]
provider = "o"
model = "m"
scrub = ["ALL"]

[routes.all-a]
provider = "a"
model = "m"
scrub = ["ALL"]

[routes.all-g]
provider = "g"
model = "m"
scrub = ["ALL"]

[routes.actions]
provider = "o"
model = "m"
scrub = ["ALL"]
scrub_allow = ["help@example.com"]

[[routes.actions.scrub_rules]]
kind = "EMAIL"
action = "hash"

[[routes.actions.scrub_rules]]
kind = "PHONE"
action = "mask"

[[routes.actions.scrub_rules]]
kind = "IP_ADDRESS"
action = "report"

[[routes.actions.scrub_rules]]
kind = "US_SSN"
action = "refuse"

[[routes.actions.scrub_rules]]
kind = "EMPLOYEE"
pattern = '\\bE\\d{6}\\b'

[routes.outbound-o]
provider = "o"
model = "m"
scrub = ["EMAIL"]
scrub_outbound_tools = ["look_up"]

[routes.outbound-a]
provider = "a"
model = "m"
scrub = ["EMAIL"]
scrub_outbound_tools = ["look_up"]

[routes.outbound-g]
provider = "g"
model = "m"
scrub = ["EMAIL"]
scrub_outbound_tools = ["look_up"]

[routes.forgiving]
provider = "o"
model = "m"
scrub = ["EMAIL"]
scrub_forgiving = true

[routes.guarded-o]
provider = "o"
model = "m"
scrub = ["ALL"]
scrub_answers = true

[routes.guarded-a]
provider = "a"
model = "m"
scrub = ["ALL"]
scrub_answers = true

[routes.guarded-g]
provider = "g"
model = "m"
scrub = ["ALL"]
scrub_answers = true

[routes.kept]
provider = "o"
model = "m"
scrub = ["ALL"]
scrub_session_seconds = 3600

[routes.kept-briefly]
provider = "o"
model = "m"
scrub = ["ALL"]
scrub_session_seconds = 1

[routes.withheld]
provider = "o"
model = "m"
scrub = ["EMAIL"]
scrub_answers = true
scrub_action = "refuse"
"""
ROUTES = {CHAT: "all-o", RESPONSES: "all-o", MESSAGES: "all-a", GEMINI: "all-g"}


@pytest.fixture(scope="module")
def provider(folder):
    mock = Mock(folder)
    yield mock
    mock.stop()


@pytest.fixture(scope="module")
def edge(folder, provider):
    store = Store(folder / "scrub-corpus")
    edge = Edge(store, CONFIG.replace("MOCK/", f"{provider.base}/"))
    edge.key = edge.new_key()
    yield edge
    edge.stop()


def scan(texts, *arguments):
    """What `sluice scrub` finds, per text."""
    lines = "".join(json.dumps({"id": number, "text": text}) + "\n" for number, text in enumerate(texts))
    run = subprocess.run([BINARY, "scrub", *arguments], input=lines, capture_output=True, text=True, check=True)
    found = [json.loads(line) for line in run.stdout.splitlines()]
    assert [line["id"] for line in found] == list(range(len(texts)))
    return [line["entities"] for line in found]


@pytest.fixture(scope="module")
def groups():
    """Pairs of instructions and a user's turn, and what is found in either."""
    texts = [json.loads(line)["text"] for line in CORPUS.read_text().splitlines()]
    parts = [texts[start : start + TOGETHER] for start in range(0, len(texts), TOGETHER)]
    pairs = [("\n\n".join(part[:-1]), part[-1]) for part in parts]
    structured = [kind for kind in kinds() if kind not in ("PERSON", "ADDRESS")]
    found = [scan(side, "--types", ",".join(structured)) for side in zip(*pairs)]
    originals = [{entity["text"] for entity in one + other} for one, other in zip(*found)]
    assert sum(map(len, originals)) > 1_800
    return [(system, turn, values) for (system, turn), values in zip(pairs, originals)]


def kinds():
    return sorted({e["type"] for line in CORPUS.read_text().splitlines() for e in json.loads(line)["entities"]})


def strings(value):
    match value:
        case str():
            yield value
        case list():
            for inner in value:
                yield from strings(inner)
        case dict():
            for inner in value.values():
                yield from strings(inner)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_nothing_that_is_found_leaves_and_everything_comes_back(edge, provider, groups, dialect, stream):
    leaked = []
    for start in range(0, len(groups), 50):
        # The mock keeps its last requests only.
        provider.clear()
        sent = {}
        for system, turn, originals in groups[start : start + 50]:
            tag = mark()
            sent[tag] = originals
            script = {"split": 7} if stream else None
            answer = dialects.ask(edge, dialect, ROUTES[dialect], turn, edge.key, stream, script, tag, system=system)
            assert answer.status == 200, answer
            said = dialects.read_stream(dialect, answer.body) if stream else dialects.read_plain(dialect, answer.json())
            assert said.text == turn and said.done
        received = {request["headers"].get("x-custom"): request["body"] for request in provider.requests()}
        for tag, originals in sent.items():
            whole = "\n".join(strings(json.loads(received[tag])))
            leaked += [value for value in originals if value in whole]
    # A value may stand a second time where nothing shows what it is; that one was not found.
    assert len(leaked) <= 5, leaked


def test_every_label_of_a_structured_kind_is_covered_on_the_command_line():
    lines = [json.loads(line) for line in CORPUS.read_text().splitlines()]
    found = scan([line["text"] for line in lines])
    right = labels = 0
    for line, entities in zip(lines, found):
        core = {(e["type"], e["start"], e["end"]) for e in line["entities"] if e["type"] not in ("PERSON", "ADDRESS")}
        labels += len(core)
        right += len(core & {(e["type"], e["start"], e["end"]) for e in entities})
        assert all(line["text"][e["start"] : e["end"]] == e["text"] for e in entities)
    assert right / labels >= 0.95


def received_text(edge, provider, model, text, mock=None):
    tag = mark()
    answer = edge.chat(edge.key, user(text, model=model), mock, tag)
    return answer, answer.status == 200 and json.loads(provider.received(tag)["body"])["messages"][0]["content"]


def test_each_kind_is_dealt_with_as_its_rule_says(edge, provider):
    text = "ann@example.com help@example.com +1 415-555-0132 10.2.3.4 E123456 4111 1111 1111 1111"
    answer, sent = received_text(edge, provider, "actions", text)
    hashed, allowed, masked, reported, own, card = sent.split(" ")
    assert hashed.startswith("<EMAIL_h") and (allowed, masked, reported) == ("help@example.com", "[PHONE]", "10.2.3.4")
    assert (own, card) == ("<EMPLOYEE_1>", "<CREDIT_CARD_1>")
    assert answer.text == text.replace("+1 415-555-0132", "[PHONE]")
    counted = dict(pair.split("=") for pair in answer.headers["x-sluice-scrubbed"].split(","))
    assert counted == {"CREDIT_CARD": "1", "EMAIL": "1", "EMPLOYEE": "1", "IP_ADDRESS": "1", "PHONE": "1"}
    _, again = received_text(edge, provider, "actions", "to ann@example.com")
    assert again == f"to {hashed}"


def test_what_a_rule_refuses_does_not_leave(edge, provider):
    before = len(provider.requests())
    answer, _ = received_text(edge, provider, "actions", "my SSN is 605-10-4040")
    assert (answer.status, answer.error["code"]) == (400, "personal_data_refused")
    assert "US_SSN" in answer.error["message"] and "605-10-4040" not in answer.body.decode()
    assert len(provider.requests()) == before


@pytest.mark.parametrize("spelling", ["email_1", "[EMAIL_1]", "＜EMAIL_1＞", "&lt;EMAIL_1&gt;", "<EMAIL\\_1>"])
def test_spellings_of_models_are_forgiven_where_the_route_says_so(edge, provider, spelling):
    reply = {"reply": {"text": f"Write to {spelling}, please."}}
    for model, shown in (("forgiving", "ann@example.com"), ("all-o", spelling)):
        answer, _ = received_text(edge, provider, model, "I am ann@example.com", reply)
        assert answer.text == f"Write to {shown}, please."
        tag = mark()
        streamed = edge.chat(edge.key, user("I am ann@example.com", model=model, stream=True), {**reply, "split": 2}, tag)
        assert streamed.streamed_text == f"Write to {shown}, please."


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_arguments_of_tools_that_send_things_away_keep_their_placeholders(edge, dialect, stream):
    route = ROUTES[dialect].replace("all", "outbound")
    for name, kept in (("look_up", True), ("other", False)):
        script = {"tool_call": {"name": name, "arguments": '{"to": "<EMAIL_1>"}'}, "split": 3}
        more = dialects.with_tool(dialect)
        answer = dialects.ask(edge, dialect, route, "I am ann@example.com", edge.key, stream, script, **more)
        assert answer.status == 200, answer
        said = dialects.read_stream(dialect, answer.body) if stream else dialects.read_plain(dialect, answer.json())
        [(called, arguments)] = said.calls
        assert (called, json.loads(arguments)) == (name, {"to": "<EMAIL_1>" if kept else "ann@example.com"})
        assert (b"ann@example.com" in answer.body) != kept or b"<EMAIL_1>" not in answer.body


SAID = "Ask Bob (bob@example.org, +1 415-555-0132), card 4111 1111 1111 1111; you are <EMAIL_1>."
SHOWN = "Ask Bob ([EMAIL], [PHONE]), card [CREDIT_CARD]; you are ann@example.com."


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_what_the_provider_says_by_itself_is_masked(edge, dialect, stream):
    route = ROUTES[dialect].replace("all", "guarded")
    for split in (1, 5, 1000):
        script = {"reply": {"text": SAID}, "split": split}
        answer = dialects.ask(edge, dialect, route, "I am ann@example.com", edge.key, stream, script)
        assert answer.status == 200, answer
        said = dialects.read_stream(dialect, answer.body) if stream else dialects.read_plain(dialect, answer.json())
        assert said.text == SHOWN and said.done
        assert b"bob@example.org" not in answer.body and b"4111 1111" not in answer.body
        script = {"tool_call": {"name": "send", "arguments": '{"to": "bob@example.org", "cc": "<EMAIL_1>"}'}, "split": split}
        more = dialects.with_tool(dialect)
        answer = dialects.ask(edge, dialect, route, "I am ann@example.com", edge.key, stream, script, **more)
        said = dialects.read_stream(dialect, answer.body) if stream else dialects.read_plain(dialect, answer.json())
        [(_, arguments)] = said.calls
        assert json.loads(arguments) == {"to": "[EMAIL]", "cc": "ann@example.com"}
    eventually("it is counted", lambda: edge.metric("sluice_scrubbed_answers_total", kind="CREDIT_CARD") >= 3)


def test_an_answer_that_says_what_the_route_refuses_is_withheld(edge, provider):
    reply = {"reply": {"text": "It is bob@example.org, as you know."}, "split": 3}
    answer = edge.chat(edge.key, user("Who?", model="withheld"), reply)
    assert (answer.status, answer.error["code"]) == (403, "answer_withheld")
    assert "EMAIL" in answer.error["message"] and b"bob@example.org" not in answer.body
    streamed = edge.chat(edge.key, user("Who?", model="withheld", stream=True), reply)
    assert b"answer_withheld" in streamed.body and b"bob@" not in streamed.body and b"[DONE]" not in streamed.body
    # The first content refuses already: the status can still say so.
    at_once = {"reply": {"text": "bob@example.org is he."}, "split": 1000}
    streamed = edge.chat(edge.key, user("Who?", model="withheld", stream=True), at_once)
    assert (streamed.status, streamed.error["code"]) == (403, "answer_withheld")
    fine = edge.chat(edge.key, user("Who?", model="withheld"), {"reply": {"text": "Nobody."}})
    assert fine.text == "Nobody."


def test_what_a_provider_keeps_is_hashed(edge, provider):
    """A later call refers to what was stored, so a placeholder must mean the same in both."""
    sent = []
    for more in ({"store": True}, {"previous_response_id": "resp_1"}):
        tag = mark()
        answer = dialects.ask(edge, RESPONSES, "all-o", "I am ann@example.com", edge.key, mark=tag, **more)
        assert answer.status == 200, answer
        assert dialects.read_plain(RESPONSES, answer.json()).text == "I am ann@example.com"
        sent.append(json.loads(provider.received(tag)["body"])["input"][0]["content"])
    assert sent[0] == sent[1] and "<EMAIL_h" in sent[0]


def test_a_session_keeps_its_originals_where_the_route_lets_it(edge, provider):
    key = edge.new_key(asserts="session,subject")

    def ask(model, text, reply, session="s1", subject="u1"):
        tag = mark()
        steering = {"session": session, "subject": subject}
        answer = edge.chat(key, user(text, model=model, sluice=steering), {"reply": {"text": reply}}, tag)
        assert answer.status == 200, answer
        return json.loads(provider.received(tag)["body"])["messages"][0]["content"], answer.text

    assert ask("kept", "I am ann@example.com", "Hello <EMAIL_1>.") == ("I am <EMAIL_1>", "Hello ann@example.com.")
    # A later turn that does not send the first again: numbers go on, and what was said before comes back.
    later = ask("kept", "Copy bob@example.com", "<EMAIL_1> and <EMAIL_2>")
    assert later == ("Copy <EMAIL_2>", "ann@example.com and bob@example.com")
    # Who types a placeholder gets it back.
    assert ask("kept", "What is <EMAIL_1>?", "<EMAIL_1>, <EMAIL_2>")[1] == "<EMAIL_1>, bob@example.com"
    # Neither another session nor another subject has it, nor a route that keeps nothing.
    for more in ({"session": "s2"}, {"subject": "u2"}):
        assert ask("kept", "Hello", "<EMAIL_1>", **more)[1] == "<EMAIL_1>"
    assert ask("all-o", "Hello", "<EMAIL_1>")[1] == "<EMAIL_1>"
    # It outlives the process, however that ends.
    time.sleep(3)
    edge.restart(kill=True)
    edge.wait_ready()
    assert ask("kept", "Hello again", "<EMAIL_2>")[1] == "bob@example.com"
    files = dict(files_below(edge.store.folder))
    assert any(path.name == "sessions.redb" for path in files)
    assert not [path for path, content in files.items() if b"ann@example.com" in content]
    assert ask("kept-briefly", "I am ann@example.com", "x", session="s3")[0] == "I am <EMAIL_1>"
    time.sleep(2.1)
    assert ask("kept-briefly", "Hello", "<EMAIL_1>", session="s3")[1] == "<EMAIL_1>"


def test_a_session_restores_what_an_earlier_stateful_call_held(edge, provider):
    key = edge.new_key(asserts="session")
    first, tag = {"sluice": {"session": "r1"}, "store": True}, mark()
    answer = dialects.ask(edge, RESPONSES, "kept", "I am ann@example.com", key, mark=tag, **first)
    assert answer.status == 200, answer
    [placeholder] = re.findall(r"<EMAIL_h\w+>", provider.received(tag)["body"])
    for stream in (False, True):
        more = {"sluice": {"session": "r1"}, "previous_response_id": "resp_1"}
        script = {"reply": {"text": f"You are {placeholder}."}, "split": 3}
        answer = dialects.ask(edge, RESPONSES, "kept", "Who am I?", key, stream, script, **more)
        said = dialects.read_stream(RESPONSES, answer.body) if stream else dialects.read_plain(RESPONSES, answer.json())
        assert said.text == "You are ann@example.com."


def test_the_command_line_names_its_faults(tmp_path):
    def run(*arguments, text=""):
        return subprocess.run([BINARY, "scrub", *arguments], input=text, capture_output=True, text=True)

    wrong = run("--types", "MAIL")
    assert wrong.returncode == 2 and "unknown kind" in wrong.stderr
    bad = run(text='{"id": 1, "text": "x"}\n{"id": 2}\n')
    assert bad.returncode == 2 and "standard input:2: there is no string `text`" in bad.stderr
    missing = run(str(tmp_path / "none.jsonl"))
    assert missing.returncode == 2 and "none.jsonl" in missing.stderr
    file = tmp_path / "texts.jsonl"
    file.write_text('{"id": "a", "text": "é 🏕 bob@example.com"}\n')
    found = json.loads(run("--types", "EMAIL", str(file)).stdout)
    assert found["entities"] == [{"type": "EMAIL", "start": 4, "end": 19, "text": "bob@example.com", "score": 0.95}]
