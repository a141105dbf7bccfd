"""Cascades, several orders and a minimum score, as the page shows them."""

import json

import pytest
from playwright.sync_api import Page, expect
from steps import answer, fill, indices, order, rank, sideways

QUERY = "How do I undo the last commit?"
DOCUMENTS = [
    "Commit messages begin with a summary of at most fifty characters.",
    "git reset --soft HEAD~1 removes the last commit and keeps its changes staged.",
    "A fork is a copy of a repository on the server.",
    "The museum opens at nine and closes at five.",
    "git revert makes a new commit that takes back what an older commit did.",
    "Branches are names of commits.",
]


def choose(page: Page, model: str):
    page.locator("#options summary").click()
    chooser = page.get_by_label("Model")
    if chooser.locator(f'option[value="{model}"]').count() == 0:
        pytest.skip(f"the server has no model {model}")
    chooser.select_option(model)


def cards(page: Page) -> list:
    return page.locator(".card").all()


def test_a_cascade_is_in_the_list_of_models_with_its_models(page):
    choose(page, "careful")
    expect(page.get_by_label("Model").locator("option:checked")).to_have_text("careful (cascade: nano, then podium-mini)")


def test_each_result_says_its_stage_and_each_stage_what_it_did(page, ask, shots):
    fill(page, QUERY, DOCUMENTS)
    choose(page, "careful")
    rank(page)
    reply = ask(query=QUERY, documents=DOCUMENTS, model="careful")
    assert order(page) == indices(reply)
    assert [row["stage"] for row in reply["results"]] == [2, 2, 2, 1, 1, 1]
    for card, row in zip(cards(page), reply["results"], strict=True):
        expect(card.locator(".stage")).to_have_text(f"Stage {row['stage']}")
    first, second = reply["meta"]["cascade"]["stages"]
    stages = page.get_by_role("list", name="Stages").get_by_role("listitem")
    expect(stages.nth(0)).to_contain_text(f"Stage 1 nano: 6 documents, {first['tokens']} tokens")
    expect(stages.nth(1)).to_contain_text(f"Stage 2 podium-mini: 3 documents, {second['tokens']} tokens")
    page.screenshot(path=shots / "cascade.png", full_page=True)


def test_a_stage_that_did_not_run_says_why(page, ask):
    fill(page, QUERY, DOCUMENTS[:2])
    choose(page, "careful")
    rank(page)
    stages = page.get_by_role("list", name="Stages").get_by_role("listitem")
    expect(stages.nth(0)).to_have_text("Stage 1 nano: skipped: it would keep every document")
    expect(stages.nth(1)).to_contain_text("Stage 2 podium-mini: 2 documents")


def test_a_model_that_is_no_cascade_has_no_stages_and_no_spread(page):
    fill(page, QUERY, DOCUMENTS)
    rank(page)
    expect(page.locator(".card")).to_have_count(len(DOCUMENTS))
    for sign in (".stage", ".stages", ".spread"):
        expect(page.locator(sign)).to_have_count(0)


def test_the_spread_of_several_orders_stands_beside_the_score(page, ask):
    fill(page, QUERY, DOCUMENTS)
    choose(page, "ordered")
    page.get_by_label("Orders (stability)").fill("4")
    rank(page)
    reply = ask(query=QUERY, documents=DOCUMENTS, model="ordered", stability=4)
    assert order(page) == indices(reply)
    for card, row in zip(cards(page), reply["results"], strict=True):
        expect(card.locator(".spread")).to_have_text(f"± {row['spread']:.3f}")


def test_a_minimum_score_leaves_results_out_and_says_how_many(page, ask):
    fill(page, QUERY, DOCUMENTS)
    scores = [row["relevance_score"] for row in ask(query=QUERY, documents=DOCUMENTS)["results"]]
    least = round((scores[1] + scores[2]) / 2, 6)
    page.locator("#options summary").click()
    page.get_by_label("Minimum score").fill(str(least))
    expect(page.locator("#chosen")).to_have_text(f"score {least}")
    rank(page)
    expect(page.locator(".card")).to_have_count(2)
    expect(page.locator(".legend")).to_contain_text(f"4 documents left out: below {least:.3f}.")
    expect(page.locator(".numbers").first).to_contain_text(f"4 documents below {least:.3f}")
    expect(page.locator(".legend")).not_to_contain_text("top_n")
    page.get_by_label("Results (top_n)").fill("1")
    rank(page)
    expect(page.locator(".legend")).to_contain_text("1 document not shown because of top_n")


def test_a_minimum_score_that_nothing_reaches_is_no_error(page):
    fill(page, QUERY, DOCUMENTS)
    page.locator("#options summary").click()
    page.get_by_label("Minimum score").fill("1")
    rank(page)
    expect(page.locator("#state")).to_contain_text("No document reaches the minimum score.")
    expect(page.locator(".card")).to_have_count(0)
    expect(page.locator(".legend")).to_have_text("No document reaches the minimum score. 6 documents left out: below 1.000.")
    page.get_by_role("button", name="Compare with another").click()
    rank(page)
    expect(page.locator("#state")).to_contain_text("With A, no document reaches the minimum score")
    page.get_by_label("Minimum score").fill("0")
    rank(page)
    expect(page.locator(".card")).to_have_count(2 * len(DOCUMENTS))


@pytest.mark.may_fail(422)
@pytest.mark.parametrize(
    ("label", "value", "message"),
    [
        ("Minimum score", "30", "min_score: is 30; it must be between 0 and 1"),
        ("Minimum score", "high", 'min_score: expected a number between 0 and 1 or "auto"'),
        ("Orders (stability)", "17", "stability: is 17; it must be between 1 and 16"),
    ],
)
def test_an_error_in_these_options_stands_beside_them(page, label, value, message):
    page.locator("#options summary").click()
    page.get_by_label(label).fill(value)
    page.locator("#rank").click()
    note = page.locator("#wrong-min_score" if label == "Minimum score" else "#wrong-stability")
    expect(note).to_contain_text(message)
    expect(page.get_by_label(label)).to_be_focused()


def test_a_shared_link_has_these_options(page, open_page):
    page.locator("#options summary").click()
    page.get_by_label("Minimum score").fill("auto")
    page.get_by_label("Orders (stability)").fill("3")
    page.get_by_role("button", name="Share").click()
    expect(page.locator("#shared")).to_contain_text("Link copied")
    other = open_page(fragment=page.evaluate("location.hash"))
    expect(other.locator("#min_score")).to_have_value("auto")
    expect(other.locator("#stability")).to_have_value("3")


@pytest.mark.parametrize("width", [390, 1280])
def test_stages_spreads_and_passages_fit_every_width(open_page, width, shots):
    page = open_page(width=width)
    fill(page, QUERY, DOCUMENTS[:4])
    passage = {"start": 10, "end": 31, "relevance_score": 0.9, "count": 12}
    row = {"raw_score": 1.5, "tokens": 400, "tokens_read": 300, "truncated": True, "spread": 0.0213, "passage": passage}
    places = [(1, 0.912, 3), (0, 0.774, 2), (2, 0.31, 1), (3, 0.0, 0)]
    rows = [{**row, "index": index, "relevance_score": score, "stage": stage} for index, score, stage in places]
    stages = [
        {"stage": 0, "model": None, "documents": 4, "tokens": 0},
        {"stage": 1, "model": "podium-nano", "documents": 3, "tokens": 1234, "time_ms": 3.21},
        {"stage": 2, "model": "a-model-with-a-long-name-of-forty-letters", "documents": 2, "tokens": 98765, "time_ms": 1234.5},
        {"stage": 3, "model": "large", "documents": 0, "tokens": 0, "skipped": "not_loaded"},
    ]
    meta = {
        "mode": "listwise", "slates": 2, "warnings": ["stage 3 (`large`) did not rank"],
        "timing_ms": {"queue": 1, "tokenize": 2, "forward": 30, "total": 34},
        "min_score": {"min_score": 0.25, "left_out": 1}, "cascade": {"stages": stages, "tokens_saved": 56789},
    }
    usage = {"prompt_tokens": 99999, "total_tokens": 99999, "truncated_documents": 4}
    answer(page, 200, json.dumps({"id": "x" * 36, "model": "careful", "results": rows, "usage": usage, "meta": meta}))
    rank(page)
    expect(page.locator(".spread")).to_have_count(4)
    expect(page.get_by_role("list", name="Stages")).to_contain_text("Stage 3 large: not loaded")
    expect(page.get_by_role("list", name="Stages")).to_contain_text("did not have to read about 56,789 tokens")
    assert sideways(page) == 0
    page.screenshot(path=shots / f"stages-{width}.png", full_page=True)
