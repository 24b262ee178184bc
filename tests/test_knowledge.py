"""Collections that change: documents put and removed over CLI and API, filters, incremental segments, old stores."""

import json
import time

import httpx
import pytest

from conftest import config_for, fill, note
from harness import ALL_ASSERTS, Edge, Store, eventually, user

TOPICS = ["copper", "granite", "willow", "saffron", "falcon", "lantern", "harbour", "velvet", "thunder", "meadow"]


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "data")


def texts(store, collection, query, *flags, k=10):
    """Ids of what is found, best first."""
    queries = store.scratch / "q.jsonl"
    queries.write_text(json.dumps({"id": "q", "text": query}) + "\n")
    out = store.run("search", collection, "--queries", queries, "-k", str(k), *flags).stdout
    return [line.split("\t")[1] for line in out.splitlines()]


def ingest(store, collection, documents):
    file = store.scratch / "documents.jsonl"
    file.write_text("".join(json.dumps(document, ensure_ascii=False) + "\n" for document in documents))
    return store.ingest(collection, file)


def document(number, **payload):
    topic = TOPICS[number % len(TOPICS)]
    text = f"Note {number} tells how {topic} number {number} is kept and cared for over the year."
    return {"id": f"n{number}", "title": topic, "text": text, "payload": payload}


def manifest(store):
    raw = (store.folder / "objects" / "manifest").read_bytes()
    return json.loads(raw[108:])


def test_filters_choose_documents_inside_the_search(store):
    ingest(store, "notes", [
        document(n, language="en" if n % 3 else "zh", rating=n / 10, meta={"page": n}, at=f"2024-{n % 12 + 1:02}-01")
        for n in range(60)
    ])
    must = lambda *conditions: ("--filter", json.dumps({"must": list(conditions)}))
    chinese = texts(store, "notes", "granite care", *must({"key": "language", "match": {"value": "zh"}}), k=30)
    assert len(chinese) == 20 and all(int(id[1:]) % 3 == 0 for id in chinese)
    nested = texts(store, "notes", "granite care", *must({"key": "meta.page", "range": {"gte": 10, "lt": 13}}))
    assert sorted(nested) == ["n10", "n11", "n12"]
    time_range = {"key": "at", "range": {"gte": "2024-03-01T00:00:00Z", "lte": "2024-03-31"}}
    assert all(int(id[1:]) % 12 == 2 for id in texts(store, "notes", "granite care", *must(time_range)))
    both = must({"key": "language", "match": {"any": ["zh"]}}, {"key": "rating", "range": {"gt": 5.5}})
    assert sorted(texts(store, "notes", "anything about meadow", *both)) == ["n57"]
    nothing = must({"key": "language", "match": {"value": "fr"}})
    assert texts(store, "notes", "granite", *nothing) == []
    refused = store.run("search", "notes", "x", "--filter", '{"must":[{"key":"a","range":{"gte":"soon"}}]}', code=2)
    assert "filter.must[0].range.gte" in refused.stderr


def test_what_is_new_becomes_a_small_segment_and_the_rest_stays(store):
    ingest(store, "notes", [document(n) for n in range(400)])
    store.run("publish")
    before = manifest(store)["collections"][0]["segments"]
    assert [segment["passages"] for segment in before] == [400]
    ingest(store, "notes", [document(n) for n in range(400, 405)])
    store.run("publish")
    after = manifest(store)["collections"][0]["segments"]
    assert [segment["passages"] for segment in after] == [400, 5]
    assert after[0] == before[0]
    assert texts(store, "notes", "note 403 lantern", k=1) == ["n403"]
    # A changed document is found as it is now, and only once.
    changed = document(7) | {"text": "Note 7 now speaks of zirconium alone."}
    ingest(store, "notes", [changed])
    assert texts(store, "notes", "zirconium", k=1) == ["n7"]
    assert texts(store, "notes", "note 7 velvet number 7", k=400).count("n7") == 1


def test_many_small_segments_are_joined_and_nothing_is_lost(store):
    for start in range(0, 120, 10):
        ingest(store, "notes", [document(n) for n in range(start, start + 10)])
        store.run("publish")
    segments = manifest(store)["collections"][0]["segments"]
    assert len(segments) < 10
    assert sum(segment["passages"] for segment in segments) == 120
    firsts = [(segment["first"], segment["last"]) for segment in segments]
    assert firsts[0][0] == 1 and all(left[1] + 1 == right[0] for left, right in zip(firsts, firsts[1:]))
    for number in (0, 55, 119):
        assert texts(store, "notes", f"note {number} {TOPICS[number % 10]} number {number}", k=1) == [f"n{number}"]


def test_what_is_forgotten_is_not_found_and_a_repetition_outlives_it(store):
    shared = "The lighthouse keeper counts the quartz pebbles every evening."
    ingest(store, "notes", [
        {"id": "first", "title": "Quartz", "text": shared},
        {"id": "second", "title": "Quartz", "text": shared},
        *[document(n) for n in range(30)],
    ])
    assert texts(store, "notes", "quartz pebbles lighthouse", k=1) == ["first"]
    assert store.run("forget", "notes", "first").stdout == "notes: 1 of 1 documents removed\n"
    assert texts(store, "notes", "quartz pebbles lighthouse", k=1) == ["second"]
    store.run("forget", "notes", "first", code=1)
    store.run("forget", "notes", "second")
    assert "second" not in texts(store, "notes", "quartz pebbles lighthouse", k=50)
    store.run("forget", "notes", "--all")
    store.run("publish")
    assert manifest(store)["collections"] == []


@pytest.fixture(scope="module")
def up(folder, mock):
    """Store, publisher and edge in one process, of this module alone."""
    store = fill(Store(folder / "knowledge"))
    edge = Edge(store, config_for(mock))
    edge.key = store.key("reader", asserts=ALL_ASSERTS)
    edge.wait_key(edge.key)
    yield edge
    edge.stop()


@pytest.fixture
def operator(up):
    token = (up.store.folder / "operator.token").read_text().strip()
    with httpx.Client(
        base_url=f"http://{up.admin}", headers={"authorization": f"Bearer {token}"}, timeout=20
    ) as client:
        yield client


def test_the_api_puts_and_removes_documents(up, operator):
    answer = operator.post("/api/v1/collections/notes/documents", json={"documents": [document(n) for n in range(12)]})
    assert answer.status_code == 200, answer.text
    assert answer.json()["summary"]["new"] == 12
    listed = operator.get("/api/v1/collections").json()["collections"]
    assert {"name": "notes", "documents": 12, "chunks": 12} in listed
    assert operator.delete("/api/v1/collections/notes/documents/n3").json() == {"removed": 1}
    again = operator.delete("/api/v1/collections/notes/documents/n3")
    assert (again.status_code, again.json()["code"]) == (404, "DOCUMENT_404")
    gone = operator.post("/api/v1/collections/notes/documents/delete", json={"ids": ["n4", "n5", "n99"]})
    assert gone.json() == {"removed": 2}


@pytest.mark.parametrize("body, message", [
    ({"documents": [{"id": "a"}]}, "`documents[0]`: there is no `text`"),
    ({"documents": [{"id": "a", "text": "b", "payload": 3}]}, "`documents[0]`: `payload` must be an object"),
    ({"docs": []}, "`documents`"),
    ({"documents": [{"id": "a", "text": "b"}] * 1001}, "`documents` has 1001 members, at most 1000 are taken"),
])
def test_the_api_names_faults(operator, body, message):
    answer = operator.post("/api/v1/collections/notes/documents", json=body)
    assert answer.status_code == 400
    problem = answer.json()
    assert set(problem) == {"error", "message", "code"}
    assert (problem["error"], problem["code"]) == ("request_invalid", "REQUEST_400")
    assert message in problem["message"]


def test_the_api_needs_the_operators_token(up):
    for headers in ({}, {"authorization": "Bearer " + "0" * 64}):
        answer = httpx.post(f"http://{up.admin}/api/v1/collections/notes/documents", json={"documents": []}, headers=headers)
        assert answer.status_code == 401 and answer.json()["code"] == "TOKEN_401"


def told(edge, question, **steering):
    """What would be sent for a question."""
    body = user(question, model="knowing", sluice=steering)
    answer = edge.send("POST", "/v1/explain", body, edge.key)
    assert answer.status == 200, answer
    return answer.body.decode()


def test_a_write_is_found_within_a_second(up, operator):
    """From the acknowledgement to the first answer that holds the text, through the whole proxy."""
    waits = []
    for number in range(20):
        word = f"zq{number}xylophone"
        text = f"The {word} is stored in room {number} of the museum."
        answer = operator.post("/api/v1/collections/handbook/documents", json={"documents": [{"id": word, "text": text}]})
        assert answer.status_code == 200, answer.text
        acknowledged = time.monotonic()
        eventually(f"{word} is found", lambda: text in told(up, f"Where is the {word}?"), 5)
        waits.append(time.monotonic() - acknowledged)
    waits.sort()
    note(f"from acknowledgement to hit: median {waits[10] * 1e3:.0f} ms, slowest {waits[-1] * 1e3:.0f} ms")
    assert waits[-2] < 1.0, waits


def test_a_request_filters_by_payload_and_hears_of_its_sources(up, operator):
    documents = [
        {"id": f"tide {n}", "text": f"The tide table of pier {n} is kept in a drawer.", "payload": {"pier": n}}
        for n in range(9)
    ]
    operator.post("/api/v1/collections/handbook/documents", json={"documents": documents}).raise_for_status()
    eventually("it is found", lambda: "of pier 8 is kept" in told(up, "Where is the tide table of pier 8?"), 5)
    chosen = {"must": [{"key": "pier", "range": {"gte": 6}}]}
    found = json.loads(told(up, "Where is the tide table?", filter=chosen))["context"]["hits"]
    assert sorted(hit["id"] for hit in found) == ["tide 6", "tide 7", "tide 8"]
    body = user("Where is the tide table?", model="knowing")
    answer = up.send("POST", "/v1/chat/completions", body, up.key, headers={"x-sluice-filter": json.dumps(chosen)})
    assert answer.status == 200, answer
    assert sorted(answer.headers["x-sluice-sources"].split(", ")) == ["tide%206", "tide%207", "tide%208"]
    wrong = up.send("POST", "/v1/chat/completions", body | {"sluice": {"filter": {"must": 1}}}, up.key)
    assert wrong.status == 400 and "filter.must[0]" in wrong.body.decode()
