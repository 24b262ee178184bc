"""`sluice bench` against servers whose latency is known."""

import html.parser
import json

import pytest

from harness import Mock, Store


@pytest.fixture
def slow(folder, started):
    return started(Mock(folder, latency_milliseconds=30))


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "data")


def bench(store, *arguments, code=0):
    figures = store.scratch / "figures.json"
    done = store.run("bench", *arguments, "--json", figures, code=code)
    return json.loads(figures.read_text()), done.stdout


def target(name, mock, more=""):
    return ("--target", f"{name}=http://{mock.base}/v1{more}")


def test_what_is_added_is_what_was_added(store, mock, slow):
    flags = ("--rate", "100", "--requests", "60", "--rounds", "5", "--warm-up", "5")
    figures, printed = bench(store, *target("direct", mock), *target("slow", slow), *flags)
    direct, other = figures["targets"]
    assert direct["good"] == other["good"] == 300 and not other["faults"]
    added = other["added_total_us"]["p50"]
    assert 28_000 < added["added"] < 40_000, added
    low, high = added["interval"]
    assert low <= added["added"] <= high
    assert "slow adds to direct, total p50: " in printed
    assert other["first_token_us"] is None


def test_the_mock_takes_the_time_that_its_distribution_says(store, folder, started):
    mock = started(Mock(folder, latency_milliseconds="lognormal:20,80"))
    flags = ("--closed", "--connections", "4", "--requests", "1000", "--rounds", "1")
    told = bench(store, *target("direct", mock), *flags)[0]["targets"][0]["total_us"]
    # What is above the distribution's 20 and 80 ms is the machine's.
    assert 18_000 < told["p50"] < 26_000 and 60_000 < told["p99"] < 130_000, told


def test_a_late_answer_counts_from_when_its_request_was_due(store, slow):
    """One connection can answer 33 requests a second; asked for 100, the last of 60 wait for more than a second."""
    flags = ("--rate", "100", "--even", "--connections", "1", "--requests", "60", "--rounds", "1", "--warm-up", "0")
    open_loop, _ = bench(store, *target("slow", slow), *flags)
    closed, _ = bench(store, *target("slow", slow), "--closed", *flags[3:])
    # Sixty answers one after another, 30 ms each; were the start left out of that, servers would seem faster.
    assert 1.8 < closed["targets"][0]["seconds"] < 5
    assert open_loop["targets"][0]["total_us"]["p99.9"] > 1_000_000
    assert closed["targets"][0]["total_us"]["p50"] < 500_000


def test_a_stream_has_a_first_token_and_gaps(store, folder, started):
    paced = started(Mock(folder, first_token_milliseconds=40, token_milliseconds=10, tokens=8))
    figures, printed = bench(store, *target("paced", paced), "--stream", "--rate", "20", "--requests", "100", "--rounds", "1")
    told = figures["targets"][0]
    assert 40_000 <= told["first_token_us"]["p50"] < 70_000
    assert 9_000 <= told["gap_us"]["p50"] < 16_000
    assert told["tokens"] == 100 * 8
    assert "first token" in printed and "between tokens" in printed


@pytest.mark.parametrize("fault, stream, named", [
    ("status:500", False, "status 500"),
    ("close_mid_stream", True, "broken connection"),
    ("no_done", True, "cut stream"),
    ("error_mid_stream", True, "error in the stream"),
])
def test_faults_are_counted_by_cause(store, folder, started, fault, stream, named):
    failing = started(Mock(folder, fault=fault, fault_times=100000))
    flags = ("--requests", "10", "--rounds", "1", "--warm-up", "0", *(["--stream"] if stream else []))
    figures, printed = bench(store, *target("failing", failing), *flags, code=1)
    faults = figures["targets"][0]["faults"]
    assert faults == {named: 10}
    assert f"failing: 10 × {named}" in printed


def test_nothing_at_the_other_end_is_said(store):
    figures, printed = bench(store, "--target", "gone=http://127.0.0.1:1/v1", "--requests", "5", "--rounds", "1", "--warm-up", "0", code=1)
    assert figures["targets"][0]["faults"] == {"no connection": 5}
    assert "gone: 5 × no connection" in printed


def test_the_page_needs_nothing_else_and_holds_the_figures(store, mock, slow):
    page = store.scratch / "page.html"
    flags = ("--requests", "20", "--rounds", "3", "--html", page)
    figures, _ = bench(store, *target("direct", mock), *target("slow & <odd>", slow), *flags)
    text = page.read_text()
    assert "http" not in text.replace("http-equiv", "").split("<h2>Figures")[0]
    assert "slow &amp; &lt;odd&gt;" in text and "<odd>" not in text
    held = json.loads(text.split('id="figures">')[1].split("</script>")[0])
    assert held == figures

    class Reader(html.parser.HTMLParser):
        lines = 0

        def handle_starttag(self, tag, attributes):
            self.lines += tag == "polyline"

    reader = Reader()
    reader.feed(text)
    assert reader.lines == 4


def test_recorded_bodies_are_sent_as_they_are(store, mock):
    file = store.scratch / "recorded.jsonl"
    bodies = [{"model": "a", "messages": [{"role": "user", "content": f"recorded {n}"}], "seed": n} for n in range(3)]
    file.write_text("".join(json.dumps(body) + "\n" for body in bodies))
    bench(store, *target("mock", mock), "--replay", file, "--repeat", "--requests", "6", "--rounds", "1", "--warm-up", "0")
    sent = [json.loads(r["body"]) for r in mock.requests() if "recorded" in str(r["body"])]
    assert sorted(body["seed"] for body in sent) == [0, 0, 1, 1, 2, 2]
    file.write_text('{"model":"a"}\n')
    done = store.run("bench", *target("mock", mock), "--replay", file, code=2)
    assert "recorded.jsonl:1: a body is an object with an array `messages`" in done.stderr


def test_a_target_that_is_none_is_refused(store):
    assert "is no target; write NAME=BASE_URL" in store.run("bench", "--target", "http://x", code=2).stderr
    gone = store.run("bench", "--target", "a=http://127.0.0.1:1/v1,key-env=NOT_SET_ANYWHERE", code=2)
    assert "`NOT_SET_ANYWHERE` is not set" in gone.stderr
