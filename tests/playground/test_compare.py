"""Two instructions side by side."""

import json

import pytest
from playwright.sync_api import expect
from steps import fill, hold, indices, order, rank, sideways

QUERY = "Should the bridge be closed?"
DOCUMENTS = [
    "Closing it costs shops money: sales fell by 20 percent.",
    "I like bridges.",
    "An engineer found cracks in three pillars.",
    "Bridges cross rivers.",
    "People on low incomes would walk an hour more.",
]
INSTRUCTIONS = ["Prefer arguments about money.", "Prefer people on low incomes."]


@pytest.fixture
def compared(page):
    fill(page, QUERY, DOCUMENTS, INSTRUCTIONS[0])
    page.get_by_role("button", name="Compare with another").click()
    page.locator("#instruction-b").fill(INSTRUCTIONS[1])
    rank(page)
    return page


@pytest.fixture
def places(ask):
    replies = [ask(query=QUERY, documents=DOCUMENTS, instruction=instruction) for instruction in INSTRUCTIONS]
    return [{index: place for place, index in enumerate(indices(reply), 1)} for reply in replies]


def test_both_orders_stand_side_by_side(compared, places, shots):
    assert [order(compared, 0), order(compared, 1)] == [list(column) for column in places]
    left, right = (compared.locator("ol.ranking").nth(n).bounding_box() for n in (0, 1))
    assert left["y"] == right["y"]
    assert left["x"] + left["width"] < right["x"]
    compared.screenshot(path=shots / "compare.png", full_page=True)


def test_lines_join_the_same_document_and_tell_its_direction(compared, places):
    before, after = places
    lines = compared.locator(".columns path").evaluate_all(
        "all => all.map(path => [Number(path.dataset.document), path.getAttribute('class'), path.getAttribute('d')])"
    )
    assert {index for index, _, _ in lines} == set(before)
    for index, look, path in lines:
        assert look == ("up" if after[index] < before[index] else "down" if after[index] > before[index] else "same")
        ends = [float(path.split()[n]) for n in (1, -1)]
        for column, end in enumerate(ends):
            card = compared.locator("ol.ranking").nth(column).locator(f'[data-document="{index}"]').bounding_box()
            top = compared.locator(".columns svg").bounding_box()["y"]
            assert card["y"] < end + top < card["y"] + card["height"]


def test_the_moves_can_be_read(compared, places):
    before, after = places
    compared.get_by_text("How documents moved").click()
    text = compared.locator(".moves ul").inner_text()
    nth = {1: "1st", 2: "2nd", 3: "3rd", 4: "4th", 5: "5th"}
    for index in before:
        by = before[index] - after[index]
        words = f"up {by}" if by > 0 else f"down {-by}" if by < 0 else "same place"
        assert f"Document {index + 1}: {nth[before[index]]} with A, {nth[after[index]]} with B, {words}" in text
    moved = sum(before[index] != after[index] for index in before)
    expect(compared.locator(".moves summary")).to_contain_text(f"{moved} of 5 changed places")


def test_a_document_is_lit_in_both_columns_by_mouse_and_by_keyboard(compared):
    index = order(compared, 0)[2]
    lit = compared.locator(".lit")
    compared.locator("ol.ranking").first.locator(".card").nth(2).hover()
    expect(lit).to_have_count(3)
    assert set(lit.evaluate_all("nodes => nodes.map(node => Number(node.dataset.document))")) == {index}
    compared.mouse.move(5, 5)
    expect(lit).to_have_count(0)
    compared.locator("ol.ranking").first.locator(".card").nth(2).focus()
    expect(lit).to_have_count(3)
    compared.keyboard.press("ArrowRight")
    focused = compared.evaluate(
        "[document.activeElement.dataset.document, document.activeElement.closest('.side').className]"
    )
    assert focused == [str(index), "side b"]


def test_the_code_and_the_reply_are_there_for_either_instruction(compared):
    compared.get_by_role("tab", name="Reply").click()
    replies = []
    for letter in "AB":
        compared.get_by_text(f"Instruction {letter}", exact=True).click()
        replies.append(indices(json.loads(compared.locator("#code").inner_text())))
    assert replies == [order(compared, 0), order(compared, 1)]
    compared.get_by_role("tab", name="curl").click()
    expect(compared.locator("#code")).to_contain_text(INSTRUCTIONS[1])


def test_two_requests_are_sent_and_cancelled_together(page):
    page.get_by_role("button", name="Compare with another").click()
    held = hold(page)
    page.get_by_role("button", name="Rank both").click()
    expect(page.locator("#cancel")).to_be_visible()
    assert [json.loads(route.request.post_data)["instruction"] for route in held] == [
        page.locator(f"#instruction-{side}").input_value() for side in "ab"
    ]
    page.keyboard.press("Escape")
    expect(page.locator("#state")).to_have_text("Cancelled.")


@pytest.mark.may_fail(422)
def test_an_error_in_the_second_instruction_stands_there(page):
    refusal = {
        "error": {
            "message": "instruction: has too many tokens",
            "type": "invalid_request_error",
            "param": "instruction",
            "code": "text_too_long",
        }
    }
    page.get_by_role("button", name="Compare with another").click()
    second = page.locator("#instruction-b").input_value()
    page.route(
        "**/v1/rerank",
        lambda route: (
            route.fulfill(status=422, json=refusal)
            if json.loads(route.request.post_data)["instruction"] == second
            else route.fallback()
        ),
    )
    page.locator("#rank").click()
    expect(page.locator("#wrong-instruction-b")).to_have_text("instruction: has too many tokens")
    expect(page.locator("#wrong-instruction-a")).to_be_hidden()


def test_a_document_that_only_one_returns_is_said_to_be(page):
    fill(page, QUERY, DOCUMENTS, INSTRUCTIONS[0])
    page.get_by_role("button", name="Compare with another").click()
    page.locator("#instruction-b").fill(INSTRUCTIONS[1])
    page.locator("#options summary").click()
    page.get_by_label("Results (top_n)").fill("1")
    if page.get_by_label("Model").locator('option[value="nano"]').count():
        page.get_by_label("Model").select_option("nano")
    rank(page)
    [first], [second] = order(page, 0), order(page, 1)
    assert first != second, "these two instructions agree; the test needs two that do not"
    page.get_by_text("How documents moved").click()
    expect(page.locator(".moves")).to_contain_text(f"Document {second + 1}: 1st with B, only B returns it")
    expect(page.locator(".moves")).to_contain_text(f"Document {first + 1}: 1st with A, only A returns it")
    expect(page.locator(".side.b .move")).to_contain_text("not in A")


def test_on_a_phone_the_columns_stand_one_below_the_other(open_page, shots):
    page = open_page(width=360, height=740)
    page.get_by_role("button", name="Compare with another").click()
    rank(page)
    left, right = (page.locator("ol.ranking").nth(n).bounding_box() for n in (0, 1))
    assert right["y"] > left["y"] + left["height"]
    expect(page.locator(".columns svg")).to_be_hidden()
    assert sideways(page) == 0
    page.screenshot(path=shots / "phone-compare.png", full_page=True)
