"""One instruction: what is sent, what is shown, and what is said when it goes wrong."""

import json
import re

import pytest
from playwright.sync_api import expect
from steps import AWKWARD, answer, drop, fill, hold, indices, order, rank, ranked

QUERY = "How do I undo the last commit?"
DOCUMENTS = [
    "Commit messages begin with a summary.",
    "git reset --soft HEAD~1 removes the last commit.",
    "A fork is a copy.",
]


def test_the_page_shows_the_servers_order_scores_and_facts(page, ask, shots):
    fill(page, QUERY, DOCUMENTS, "Prefer exact commands.")
    rank(page)
    reply = ask(query=QUERY, documents=DOCUMENTS, instruction="Prefer exact commands.")
    assert order(page) == indices(reply)
    first = page.locator(".card").first
    row = reply["results"][0]
    expect(first.locator(".text")).to_have_text(DOCUMENTS[row["index"]])
    expect(first.locator(".score")).to_have_text(f"score {row['relevance_score']:.3f}")
    expect(first).to_contain_text(f"{row['tokens_read']} tokens read")
    facts = page.locator(".run").inner_text()
    for fact in (
        "queue",
        "tokenize",
        "forward",
        "total",
        f"mode\n{reply['meta']['mode']}",
        "slates\n1",
        f"tokens\n{reply['usage']['total_tokens']}",
    ):
        assert fact in facts
    assert re.search(r"request\n[0-9a-f-]{36}", facts)
    page.screenshot(path=shots / "ranking.png", full_page=True)


def test_the_rank_change_is_against_the_input_order(page):
    fill(page, QUERY, DOCUMENTS)
    rank(page)
    for place, index in enumerate(order(page)):
        by = index - place
        words = f"up {by}" if by > 0 else f"down {-by}" if by < 0 else "same place"
        expect(page.locator(".card").nth(place).locator(".move")).to_contain_text(f"{words} against the input order")


def test_a_truncated_document_and_the_servers_warnings_are_marked(page):
    fill(page, QUERY, ["commit " * 50, "short"], "Prefer [SEP] commands.")
    page.locator("#options summary").click()
    page.get_by_label("Tokens per document").fill("10")
    rank(page)
    expect(page.locator(".cut")).to_have_text("Cut: 10 of 50 tokens read")
    expect(page.locator(".warnings")).to_contain_text("control token")
    expect(page.locator(".numbers").nth(0)).to_contain_text("1 document")


def test_the_winning_passage_of_a_long_document_is_marked(page, ask):
    filler = "The museum opens at nine and closes at five, except on public holidays. " * 12
    answer = "To undo the last commit, run git reset --soft HEAD~1 and keep your changes staged."
    document = f"🍎 {filler}\n\n{filler}\n\n{answer}"
    fill(page, QUERY, [{"text": document}, "short"])
    page.locator("#options summary").click()
    page.get_by_label("Long documents").select_option("chunk")
    rank(page)
    row = next(row for row in ask(query=QUERY, documents=[document, "short"], long_documents="chunk")["results"] if row["index"] == 0)
    start, end = row["passage"]["start"], row["passage"]["end"]
    assert document[start:end].endswith(answer)
    card = page.locator('.card[data-document="0"]')
    expect(card).to_contain_text(f"best of {row['passage']['count']} passages")
    card.get_by_role("button", name="Show all").click()
    expect(card.locator("mark.passage")).to_have_text(document[start:end])


def test_every_option_is_sent(page):
    sent = []
    page.on("request", lambda request: sent.append(request) if request.method == "POST" else None)
    fill(page, QUERY, [{"text": "a", "title": "A", "price": 3}, "b"])
    page.locator("#options summary").click()
    page.get_by_text("listwise", exact=True).click()
    page.get_by_label("Results (top_n)").fill("1")
    page.get_by_label("Tokens per document").fill("64")
    page.get_by_label("Minimum score").fill(".001")
    page.get_by_label("Orders (stability)").fill("2")
    page.get_by_label("Model").select_option(index=1)
    page.get_by_label("API key").fill("sesame-123")
    rank(page)
    model = page.get_by_label("Model").input_value()
    assert json.loads(sent[-1].post_data) == {
        "query": QUERY,
        "documents": [{"text": "a", "title": "A", "price": 3}, "b"],
        "top_n": 1,
        "max_tokens_per_doc": 64,
        "min_score": 0.001,
        "stability": 2,
        "mode": "listwise",
        "model": model,
    }
    assert sent[-1].headers["authorization"] == "Bearer sesame-123"
    assert "sesame" not in page.url
    expect(page.locator(".legend")).to_contain_text("1 document not shown because of top_n")


@pytest.mark.parametrize(
    ("text", "how", "count"),
    [
        ("one\n\ntwo\nmore of two\n \nthree", "paragraphs", 3),
        ("one\ntwo\n\n", "one per line", 2),
        ('"one"\n{"text": "two", "n": 1}', "JSON Lines", 2),
        ('"A quotation," she said.\nAnother line.', "one per line", 2),
        ('[\n "one",\n {"text": "two"}\n]', "JSON", 2),
        ("[1] A footnote.\n[2] Another.", "one per line", 2),
    ],
)
def test_pasted_text_is_split_as_it_looks(page, text, how, count):
    page.get_by_label("Documents", exact=True).fill(text)
    expect(page.locator("#count")).to_have_text(f"{count} documents, {how}")


def test_the_split_can_be_chosen(page):
    page.get_by_label("Documents", exact=True).fill("one\n\ntwo\nthree")
    page.get_by_label("How the text is split").select_option("lines")
    expect(page.locator("#count")).to_have_text("3 documents, one per line")


def test_a_dropped_jsonl_file_is_ranked(page):
    page.get_by_label("Query").fill(QUERY)
    drop(
        page,
        "corpus.jsonl",
        "\n".join(json.dumps({"_id": str(i), "title": f"T{i}", "text": text}) for i, text in enumerate(DOCUMENTS)),
    )
    expect(page.locator("#count")).to_have_text("3 documents, JSON Lines")
    rank(page)
    expect(page.locator(".card .title").first).to_have_text(f"T{order(page)[0]}")


def test_a_chosen_file_of_a_thousand_documents_is_drawn_in_pages(page, tmp_path):
    file = tmp_path / "many.jsonl"
    file.write_text(
        "".join(json.dumps({"text": f"Commit number {i} " + "filler words " * 20}) + "\n" for i in range(1000))
    )
    page.locator("#file").set_input_files(file)
    expect(page.locator("#attached")).to_contain_text("many.jsonl")
    expect(page.locator("#count")).to_have_text("1,000 documents, JSON Lines")
    page.locator("#options summary").click()
    page.get_by_label("Tokens per document").fill("8")
    rank(page)
    expect(page.locator(".card")).to_have_count(100)
    page.get_by_role("button", name="Show 100 more of 900").click()
    expect(page.locator(".card")).to_have_count(200)
    assert len(set(order(page))) == 200
    expect(page.locator(".card").nth(100)).to_be_focused()


def test_text_stays_text(page):
    fill(page, "<b>query</b>", [*AWKWARD, {"title": "<i>title</i>", "text": "x"}], "<script>window.broken = 1</script>")
    rank(page)
    assert page.evaluate("window.broken") is None
    assert page.locator("#ranking b, #ranking i:not(.bar i, .time i), #ranking img").count() == 0
    assert sorted(page.locator(".card .text").evaluate_all("nodes => nodes.map(node => node.textContent)")) == sorted(
        [*AWKWARD, "x"]
    )


@pytest.mark.may_fail(422)
def test_an_error_stands_by_its_field_and_the_document_is_found(page, shots):
    fill(page, QUERY, ["fine", {"text": 2024}, "fine"])
    page.locator("#rank").click()
    expect(page.get_by_role("alert")).to_contain_text("documents[1].text: expected a string")
    expect(page.locator("#wrong-documents")).to_contain_text("this is document 2")
    documents = page.get_by_label("Documents", exact=True)
    expect(documents).to_have_attribute("aria-invalid", "true")
    expect(documents).to_be_focused()
    page.screenshot(path=shots / "error.png", full_page=True)
    page.get_by_role("button", name="Go to it").click()
    assert page.evaluate("getSelection().toString()") == '{"text": 2024}'
    documents.press("Delete")
    expect(page.locator("#wrong-documents")).to_be_hidden()
    rank(page)
    expect(page.get_by_role("alert")).to_be_empty()


@pytest.mark.may_fail(422, 404)
@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("query", " ", "query: must not be empty"),
        ("top_n", "ten", "top_n: expected a whole number"),
        ("top_n", "-1", "top_n: "),
        ("max_tokens_per_doc", "2.5", "max_tokens_per_doc: 2.5 is not a whole number"),
    ],
)
def test_each_field_gets_its_own_error(page, field, value, message):
    page.locator("#options summary").click()
    page.locator(f"#{field}").fill(value)
    page.locator("#options summary").click()
    page.locator("#rank").click()
    expect(page.locator(f"#wrong-{field}")).to_contain_text(message)
    expect(page.locator(f"#{field}")).to_be_focused()
    assert f"wrong-{field}" in page.locator(f"#{field}").get_attribute("aria-describedby")


def test_json_that_cannot_be_read_is_named_by_its_line(page):
    page.get_by_label("Documents", exact=True).fill('{"text": "one"}\n\n{"text": oops}')
    page.locator("#rank").click()
    expect(page.locator("#wrong-documents")).to_contain_text("Line 3 is not JSON")


@pytest.mark.may_fail(429, 502, "net::ERR")
def test_busy_broken_and_absent_servers_are_told_apart(page):
    busy = {
        "error": {"message": "the queue is full", "type": "rate_limit_error", "param": None, "code": "overloaded"},
        "id": "abc",
    }
    answer(page, 429, json.dumps(busy), retry_after="7")
    page.locator("#rank").click()
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("The server is busy")
    expect(alert).to_contain_text("Try again in7 s")
    answer(page, 502, "<html>Bad gateway</html>")
    page.locator("#rank").click()
    expect(alert).to_contain_text("HTTP 502: <html>Bad gateway</html>")
    page.route("**/v1/rerank", lambda route: route.abort())
    page.locator("#rank").click()
    expect(alert).to_contain_text("could not be reached")
    page.unroute("**/v1/rerank")
    rank(page)
    expect(alert).to_be_empty()


def test_a_request_is_sent_once_and_can_be_cancelled(page):
    held = hold(page)
    page.locator("#rank").click()
    expect(page.locator("#cancel")).to_be_visible()
    page.locator("#rank").click(force=True)
    page.keyboard.press("Control+Enter")
    expect(page.locator("#state")).to_contain_text("Ranking 8 documents")
    expect(page.locator("#view-ranking")).to_have_attribute("aria-busy", "true")
    assert len(held) == 1
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#state")).to_have_text("Cancelled.")
    expect(page.locator("#rank")).to_be_focused()
    page.unroute("**/v1/rerank")
    rank(page)


def test_what_is_edited_after_a_ranking_is_said_to_be(page):
    page.get_by_label("Query").fill("something else")
    rank(page)
    expect(page.locator("#stale")).to_be_hidden()
    page.get_by_label("Query").fill("and another")
    expect(page.locator("#stale")).to_be_visible()


def test_named_instructions_fill_the_box(open_page):
    profiles = {
        "object": "list",
        "data": [
            {"id": "newest", "text": "Prefer the newest.", "default": True},
            {"id": "brief", "text": "Be brief.", "default": False},
        ],
    }

    def serve_profiles(page):
        page.route("**/v1/instructions", lambda route: route.fulfill(json=profiles))
        page.route(
            lambda address: address.endswith("/"),
            lambda route: (
                route.fallback()
                if route.request.resource_type == "document"
                else route.fulfill(
                    json={"name": "podium", "version": "9", "model": "m", "routes": ["/", "/v1/instructions"]}
                )
            ),
        )

    page = open_page(prepare=serve_profiles)
    chooser = page.get_by_label("Named instruction", exact=True)
    assert chooser.locator("option").all_inner_texts() == ["Named instructions", "newest (default)", "brief"]
    chooser.select_option("brief")
    expect(page.locator("#instruction-a")).to_have_value("Be brief.")
    page.locator("#instruction-a").fill("My own.")
    expect(chooser).to_have_value("")


def test_without_named_instructions_there_is_no_chooser(open_page):
    index = {"name": "podium", "version": "9", "model": "m", "routes": ["/"]}
    page = open_page(
        prepare=lambda page: page.route(
            lambda address: address.endswith("/"),
            lambda route: route.fallback() if route.request.resource_type == "document" else route.fulfill(json=index),
        )
    )
    expect(page.locator("#about")).to_have_text("version 9 · m")
    expect(page.locator("#profile-a")).to_be_hidden()


def test_each_example_can_be_ranked(page):
    for button in page.locator("#examples button").all():
        button.click()
        expect(button).to_have_attribute("aria-pressed", "true")
        page.locator("#rank").click()
        ranked(page)
        assert page.locator(".card").count() == int(page.locator("#count").inner_text().split()[0])


@pytest.mark.may_fail(401)
def test_a_server_that_wants_a_key_gets_it(open_page):
    refusal = {
        "error": {"message": "a key is required", "type": "authentication_error", "param": None, "code": "no_key"}
    }

    def guard(page):
        def answer_or_refuse(route):
            allowed = route.request.headers.get("authorization") == "Bearer sesame"
            return route.fallback() if allowed else route.fulfill(status=401, json=refusal)

        page.route("**/v1/*", answer_or_refuse)

    page = open_page(prepare=guard)
    page.locator("#rank").click()
    expect(page.get_by_role("alert")).to_contain_text("a key is required")
    expect(page.locator("#wrong-key")).to_be_visible()
    expect(page.locator("#key-wanted")).to_be_visible()
    key = page.get_by_label("API key")
    expect(key).to_be_focused()
    key.fill("sesame")
    rank(page)
    expect(page.locator("#key-wanted")).to_be_hidden()
    expect(page.get_by_label("Model").locator("option")).not_to_have_count(1)
