"""What a user does and sees, in the page's own words."""

import json

from playwright.sync_api import Page, Route, expect

# Texts that break careless quoting: of a shell, a here-document, Python, JSON and HTML.
AWKWARD = [
    'it\'s "quoted" \\ and $HOME `id` $(id) !! %s {x}',
    "JSON\n'''\n\"\"\"\nEOF",
    '<img src=x onerror="window.broken = 1"><b>not bold</b> &amp; </script>',
    "日本語 Ünïcödé 🏅 \u2028 \u00a0 \t tab",
]


def fill(page: Page, query: str, documents: list, instruction: str = ""):
    """Fills in the form; the documents go in as JSON Lines, so that any text is possible."""
    page.get_by_label("Query").fill(query)
    page.locator("#instruction-a").fill(instruction)
    page.get_by_label("Documents", exact=True).fill("\n".join(json.dumps(document) for document in documents))


def paste(page: Page, text: str):
    """Puts a long text into the documents, as a paste does. (To type it takes the browser seconds.)"""
    page.get_by_label("Documents", exact=True).evaluate(
        "(area, text) => { area.value = text; area.dispatchEvent(new InputEvent('input', { bubbles: true })); }", text
    )


def rank(page: Page):
    """Presses the button and waits for the ranking."""
    page.locator("#rank").click()
    ranked(page)


def ranked(page: Page):
    expect(page.locator("#state")).to_contain_text("ranked by", timeout=60_000)
    expect(page.locator("#rank")).to_have_attribute("aria-disabled", "false")


def order(page: Page, column: int = 0) -> list[int]:
    """The documents' indices in the order that a column shows."""
    cards = page.locator("ol.ranking").nth(column).locator(".card")
    return [int(index) for index in cards.evaluate_all("cards => cards.map(card => card.dataset.document)")]


def code(page: Page, language: str) -> str:
    page.get_by_role("tab", name=language).click()
    page.wait_for_timeout(200)  # the code follows the form with a short delay
    return page.locator("#code").inner_text()


def indices(reply: dict) -> list[int]:
    return [row["index"] for row in reply["results"]]


def answer(page: Page, status: int, body: str, **headers: str):
    """Lets the next rankings be answered with this."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    page.route("**/v1/rerank", lambda route: route.fulfill(status=status, body=body, headers=headers))


def hold(page: Page) -> list[Route]:
    """Lets the next rankings wait; they gather in the list."""
    held: list[Route] = []
    page.route("**/v1/rerank", lambda route: held.append(route))
    return held


def sideways(page: Page) -> int:
    """By how many pixels the page is wider than its window."""
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


def drop(page: Page, name: str, text: str, onto: str = "#results"):
    files = page.evaluate_handle(
        "([name, text]) => { const all = new DataTransfer(); all.items.add(new File([text], name)); return all; }",
        [name, text],
    )
    for event in ("dragenter", "dragover", "drop"):
        page.dispatch_event(onto, event, {"dataTransfer": files})
