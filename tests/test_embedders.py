"""Collections whose vectors come from a provider's /embeddings: in the background, scrubbed, cached, and done without."""

import json
import time

import pytest

from harness import ALL_ASSERTS, BEHIND_MOCK, Edge, FakeProvider, Store, eventually, user

# A model that knows what a few words mean: each meaning is a direction.
MEANINGS = [
    {"tent", "shelter", "canvas"},
    {"refund", "reimbursement", "money"},
    {"parcel", "shipment", "delivery"},
    {"boots", "shoes", "footwear"},
]


def embed(text, size):
    words = text.lower().replace(".", " ").replace("?", " ").replace("#", " ").split()
    vector = [float(sum(word in meaning for word in words)) for meaning in MEANINGS]
    return (vector + [0.01] * size)[:size]


class Embeddings(FakeProvider):
    """An OpenAI-compatible /v1/embeddings."""

    def __init__(self):
        self.size = 16
        super().__init__()

    def answer(self, body):
        refused = any("unacceptable" in text for text in body["input"])
        data = [{"index": i, "object": "embedding", "embedding": embed(t, self.size)} for i, t in enumerate(body["input"])]
        # The order is the index's to tell.
        return 400 if refused else self.status, {"object": "list", "data": data[::-1], "model": body["model"]}


CONFIG = BEHIND_MOCK + """
[providers.vectors]
kind = "openai"
base_url = "http://VECTORS/v1"
api_key_env = "MOCK_API_KEY"

[embedders.small]
provider = "vectors"
model = "meaning"
dimensions = 8
timeout_milliseconds = 300

[embedders.smaller]
provider = "vectors"
model = "meaning"
dimensions = 4

[routes.ask]
provider = "mock"
model = "m"
collections = ["shop"]
recall_vector_weight_percent = 50
scrub = ["EMAIL"]
"""
DOCUMENTS = {
    "tents": "# Tents\n\nKeep a tent dry. Ask tina@brightwater-outdoor.com.\n",
    "refunds": "# Refunds\n\nA refund takes five working days.\n",
    "parcels": "# Parcels\n\nEvery parcel leaves within two days.\n",
}


@pytest.fixture
def vectors():
    server = Embeddings()
    yield server
    server.shutdown()


@pytest.fixture(params=["sqlite", "postgres"])
def shop(request, tmp_path, mock, vectors, started):
    url = request.getfixturevalue("postgres").database() if request.param == "postgres" else None
    store = Store(tmp_path / "data", url)
    store.ingest_texts("shop", **DOCUMENTS)
    edge = started(Edge(store, CONFIG.replace("MOCK/", f"{mock.base}/").replace("VECTORS/", f"{vectors.base}/")))
    edge.key = edge.new_key(asserts=ALL_ASSERTS)
    return edge


def found(edge, question, **steering):
    """Ids of what is found by vectors, ids of all, and the header."""
    body = user(question, model="ask", sluice=steering)
    answer = edge.send("POST", "/v1/explain", body, edge.key)
    context = answer.json()["context"]
    by_vector = [hit["id"] for hit in context["hits"] if hit["vector_rank"] and hit["score"] > 0.3]
    return by_vector, [hit["id"] for hit in context["hits"]], answer.headers["x-sluice-context"]


def embedded(edge, collection="shop"):
    """Waits until every chunk has its vector and edges serve it."""
    def whole():
        rows = [row for row in edge.api("GET", "collections").json()["collections"] if row["name"] == collection]
        return rows and "model" in rows[0] and rows[0]["unembedded_chunks"] == 0

    eventually("all chunks are embedded", whole, 20)


def first_is(edge, vectors, question, document, seconds=20):
    def first():
        by_vector, everything, header = found(edge, question)
        # Asked of the model itself: the one in the program may find it, too.
        asked = any(question in body["input"] for body in vectors.asked)
        return asked and everything and everything[0] == document and document in by_vector and header

    return eventually(f"{question} finds {document} by its vector", first, seconds, 0.2)


def test_a_collection_is_embedded_anew_in_the_background_and_serves_meanwhile(shop, vectors):
    assert found(shop, "Keep a tent dry")[1][0] == "tents.md"
    vectors.delay = 1.0
    assert shop.api("PUT", "collections/shop/model", {"model": {"model": "meaning", "dimensions": 8}}).status == 200
    # While vectors are made, the old ones serve.
    by_vector, everything, _ = found(shop, "Keep a tent dry")
    assert everything[0] == "tents.md" and "tents.md" in by_vector
    embedded(shop)
    vectors.delay = 0.0
    # No word of the question is in the document.
    header = first_is(shop, vectors, "a canvas shelter", "tents.md")
    assert "degraded" not in header
    assert vectors.keys == {"Bearer provider-secret-7f3a"}
    # What left for the embedder was scrubbed, documents and questions.
    found(shop, "shelter for ann@example.com")
    sent = json.dumps(vectors.asked)
    assert "brightwater" not in sent and "ann@example.com" not in sent and "<EMAIL>" in sent
    # Another length of vectors: from the start again.
    shop.store.run("collection", "model", "shop", "meaning", "--dimensions", 4)
    embedded(shop)
    first_is(shop, vectors, "money and reimbursement", "refunds.md")
    # And back to the model in the program.
    shop.store.run("collection", "model", "shop", "--built-in")

    def own():
        _, everything, header = found(shop, "How long does a refund take?")
        return everything and everything[0] == "refunds.md" and "degraded" not in header

    eventually("the model in the program serves", own, 20, 0.2)

    def silent():
        asked = len(vectors.asked)
        return found(shop, f"How long does parcel {time.time()} take?")[1] and len(vectors.asked) == asked

    eventually("nobody is asked any more", silent, 20, 0.2)


def test_new_documents_are_found_by_words_at_once_and_by_vectors_soon(shop, vectors):
    shop.store.run("collection", "model", "shop", "meaning", "--dimensions", 8)
    embedded(shop)
    vectors.delay = 0.5
    document = {"id": "boots", "text": "Sturdy boots for the fells."}
    private = {"id": "mine", "text": "The customer's own shoes were resoled.", "subject": "u1"}
    assert shop.api("POST", "collections/shop/documents", {"documents": [document, private]}).status == 200
    eventually("words find it", lambda: found(shop, "sturdy fells")[1][:1] == ["boots"], 5, 0.05)
    vectors.delay = 0.0
    first_is(shop, vectors, "any footwear?", "boots")

    def own():
        hits = found(shop, "footwear", subject="u1")
        return "mine" in hits[0] and "mine" not in found(shop, "footwear")[1]

    eventually("the subject's own is found by its vector", own, 20, 0.2)


def test_a_slow_or_broken_embedder_costs_its_time_limit_and_no_request(shop, vectors):
    shop.store.run("collection", "model", "shop", "meaning", "--dimensions", 8)
    embedded(shop)
    first_is(shop, vectors, "a canvas shelter", "tents.md")
    # Vectors of questions are kept: another budget is another answer to the same question.
    count = len(vectors.asked)
    for tokens in (100, 200, 300):
        assert "degraded" not in found(shop, "a canvas shelter", context_tokens=tokens)[2]
    assert len(vectors.asked) == count
    vectors.delay = 5.0
    reasons = []
    for number in range(4):
        begun = time.monotonic()
        _, everything, header = found(shop, f"Keep a tent dry {number}")
        assert everything[0] == "tents.md", "words go on"
        assert time.monotonic() - begun < 4
        reasons.append(header.partition("degraded=")[2])
    assert reasons == ["embedder_timeout"] * 3 + ["embedder_rests"]
    vectors.delay, vectors.status = 0.0, 500
    eventually("it is asked again", lambda: "embedder_failed" in found(shop, f"tent {time.time()}")[2], 20, 0.3)
    vectors.status = 200
    first_is(shop, vectors, "a canvas shelter of mine", "tents.md")
    # Vectors that are too short are refused.
    vectors.size = 3
    eventually("it is refused", lambda: "embedder_failed" in found(shop, f"short {time.time()}")[2], 20, 0.3)


def test_what_fails_keeps_nothing_else_waiting(shop, vectors):
    # A collection before the others whose model nobody serves, and a text that the provider does not take.
    shop.store.ingest_texts("aardvarks", one="# One\n\nAn aardvark digs.\n")
    shop.store.run("collection", "model", "aardvarks", "unknown", "--dimensions", 8)
    shop.store.ingest_texts("shop", odd="# Odd\n\nThis is unacceptable to the model.\n")
    shop.store.run("collection", "model", "shop", "meaning", "--dimensions", 8)
    embedded(shop)
    first_is(shop, vectors, "a canvas shelter", "tents.md")
    assert "odd.md" in found(shop, "unacceptable to the model")[1]
    eventually("the log says so", lambda: "a text is refused" in shop.log(), 5)


def test_vectors_may_come_with_their_documents(shop, vectors):
    def put(**document):
        return shop.api("POST", "collections/given/documents", {"documents": [document]})

    refused = put(id="a", text="x", vector=[1, 0, 0, 0])
    assert refused.status == 400 and "sluice collection" in refused.json()["message"]
    shop.store.run("collection", "model", "given", "meaning", "--dimensions", 4)
    for vector, said in [([1, 2, 3], "has 3 numbers"), ([0, 0, 0, 0], "no direction"), (["x"], "array of numbers"), ({}, "array")]:
        refused = put(id="a", text="x", vector=vector)
        assert refused.status == 400 and said in refused.json()["message"], refused
    # The text says nothing; its vector does.
    assert put(id="opaque", text="SKU 4711", vector=[0, 0, 5, 0]).status == 200
    assert put(id="other", text="SKU 4712", vector=[0, 9, 0, 0]).status == 200
    assert vectors.asked == []
    shop.write_config(shop.config_file.read_text().replace('collections = ["shop"]', 'collections = ["given"]'))
    first_is(shop, vectors, "when is the delivery", "opaque")
    first_is(shop, vectors, "reimbursement please", "other")
    # Equal texts with other vectors are two.
    assert put(id="third", text="SKU 4712", vector=[0, 0, 0, 9]).json()["summary"]["duplicate_chunks"] == 0
    first_is(shop, vectors, "shoes please", "third")
    # With a new vector it is another document.
    assert put(id="opaque", text="SKU 4711", vector=[3, 0, 0, 0]).json()["summary"]["new"] == 1
    first_is(shop, vectors, "canvas shelter please", "opaque")


def test_a_model_that_nobody_serves_is_said(tmp_path, mock, vectors, started):
    store = Store(tmp_path / "data")
    store.ingest_texts("shop", **DOCUMENTS)
    store.run("collection", "model", "shop", "unknown", "--dimensions", 8)
    edge = started(Edge(store, CONFIG.replace("MOCK/", f"{mock.base}/").replace("VECTORS/", f"{vectors.base}/")))
    edge.key = edge.new_key(asserts=ALL_ASSERTS)
    _, everything, header = found(edge, "Keep a tent dry")
    assert everything[0] == "tents.md" and "degraded=embedder_unknown" in header
    eventually("the log names the remedy", lambda: '[embedders.NAME]' in edge.log(), 10)
    listed = json.loads(store.run("collection", "list", "--json").stdout)
    assert listed[0]["unembedded_chunks"] == 3 and listed[0]["model"] == {"model": "unknown", "dimensions": 8}
    assert "3 to come" in store.run("collection", "list").stdout
    for wrong, said in [(("x", "--dimensions", 1), "2 to 8192"), (("x",), "--dimensions"), ((), "<MODEL>")]:
        assert said in store.run("collection", "model", "shop", *wrong, code=2).stderr
