"""For everyone: keyboard, names and landmarks, contrast, colour schemes, motion, small screens."""

import pytest
from playwright.sync_api import expect
from steps import order, rank, ranked, sideways

# WCAG's contrast of every text that is seen against the first background behind it, where it is too low.
LOW_CONTRAST = """() => {
  const rgba = colour => {
    const [r, g, b, a = 1] = colour.match(/[\\d.]+/g).map(Number);
    return { rgb: [r, g, b], a };
  };
  const linear = c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const luminance = ({ rgb }) => [0.2126, 0.7152, 0.0722].reduce((sum, w, i) => sum + w * linear(rgb[i] / 255), 0);
  const behind = node => {
    for (let n = node; n; n = n.parentElement) {
      const colour = rgba(getComputedStyle(n).backgroundColor);
      if (colour.a === 1) return colour;
    }
    return rgba("rgb(255, 255, 255)");
  };
  const written = node => /^(INPUT|TEXTAREA|SELECT)$/.test(node.tagName)
    || [...node.childNodes].some(child => child.nodeType === 3 && child.data.trim());
  const seen = node => node.checkVisibility({ opacityProperty: true }) && !node.closest(".unseen, .skip, svg");
  return [...document.querySelectorAll("body *")].filter(node => written(node) && seen(node)).map(node => {
    const [dim, bright] = [rgba(getComputedStyle(node).color), behind(node)].map(luminance).sort((x, y) => x - y);
    return [(bright + 0.05) / (dim + 0.05), `${node.tagName}.${node.className} ${node.textContent.slice(0, 30)}`];
  }).filter(([ratio]) => ratio < 4.5);
}"""

UNNAMED = """() => {
  const named = node => node.textContent.trim() || node.getAttribute("aria-label") || node.labels?.length;
  return [...document.querySelectorAll("button, input, select, textarea, a, [role=tab]")]
    .filter(node => node.checkVisibility() && !named(node)).map(node => node.outerHTML.slice(0, 80));
}"""

# What has the focus, and how that is drawn; a radio button's label shows it.
FOCUSED = """() => {
  const node = document.activeElement;
  const name = node.id || node.value || node.textContent.trim().slice(0, 20);
  const drawn = node.type === "radio" ? node.closest("label") : node;
  return [node === document.body ? null : name, getComputedStyle(drawn).outlineStyle];
}"""

REPEATED_IDS = """() => [...document.querySelectorAll("[id]")].map(node => node.id)
  .filter((id, at, all) => all.indexOf(id) !== at)"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_enough_contrast(open_page, scheme, shots):
    page = open_page(scheme=scheme)
    page.get_by_role("button", name="Compare with another").click()
    page.locator("#options summary").click()
    page.get_by_label("Tokens per document").fill("9")
    rank(page)
    page.locator(".moves summary").click()
    assert page.evaluate(LOW_CONTRAST) == []
    page.screenshot(path=shots / f"{scheme}.png", full_page=True)
    page.get_by_role("tab", name="Python").click()
    assert page.evaluate(LOW_CONTRAST) == []


@pytest.mark.may_fail(422)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_errors_have_enough_contrast(open_page, scheme):
    page = open_page(scheme=scheme)
    page.get_by_label("Query").fill("")
    page.locator("#rank").click()
    expect(page.locator("#wrong-query")).to_be_visible()
    assert page.evaluate(LOW_CONTRAST) == []


def test_the_scheme_follows_the_system_until_it_is_switched(open_page):
    page = open_page(scheme="dark")
    paper = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(paper)
    page.get_by_role("button", name="Light theme").click()
    light = page.evaluate(paper)
    assert light != dark
    page.get_by_role("button", name="Dark theme").click()
    assert page.evaluate(paper) == dark
    page.reload()
    page.emulate_media(color_scheme="light")
    assert page.evaluate(paper) == light


def test_the_keyboard_alone_is_enough(page):
    seen = []
    for _ in range(60):
        page.keyboard.press("Tab")
        name, outline = page.evaluate(FOCUSED)
        if name is None:
            break  # past the last one
        assert outline != "none", name
        seen.append(name)
    wanted = [
        "skip",
        "API documentation",
        "Metrics",
        "theme",
        "Support search",
        "query",
        "compare",
        "instruction-a",
        "documents",
        "split",
        "choose",
        "rank",
        "share",
        "tab-ranking",
    ]
    assert [name for name in seen if name in wanted] == wanted

    page.locator("#query").focus()
    page.keyboard.press("Control+A")
    page.keyboard.type("recovery codes")
    page.keyboard.press("Control+Enter")
    ranked(page)
    single = order(page)
    page.locator("#compare").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#instruction-b")).to_be_focused()
    page.keyboard.press("Meta+Enter")
    expect(page.locator("ol.ranking")).to_have_count(2)
    assert order(page, 0) == single
    page.locator("#tab-ranking").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")
    expect(page.locator("ol.ranking").first.locator(".card").nth(1)).to_be_focused()
    page.locator("#tab-ranking").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#tab-curl")).to_be_focused()
    expect(page.locator("#code")).to_contain_text("recovery codes")
    page.locator("#single").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#compare")).to_be_focused()


def test_the_skip_link_leads_to_the_results_and_leaves_the_address_alone(page):
    before = page.url
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#results")).to_be_focused()
    assert page.url == before


def test_everything_has_a_name_and_a_place(page):
    page.get_by_role("button", name="Compare with another").click()
    page.locator("#options summary").click()
    assert page.evaluate(UNNAMED) == []
    for role in ("banner", "navigation", "main", "contentinfo"):
        expect(page.get_by_role(role)).to_have_count(1)
    expect(page.get_by_role("form", name="Request")).to_be_visible()
    expect(page.get_by_role("region", name="Results")).to_be_visible()
    expect(page.get_by_role("heading", level=1)).to_have_text("Podium")
    expect(page.locator("#state")).to_have_attribute("role", "status")
    assert page.evaluate(REPEATED_IDS) == []
    assert page.get_by_role("link", name="API documentation").get_attribute("href") == "docs"
    assert page.get_by_role("link", name="Metrics").get_attribute("href") == "metrics"


@pytest.mark.may_fail(422)
@pytest.mark.parametrize("width", [320, 360, 768, 1000, 1920])
def test_no_width_scrolls_sideways(open_page, width, shots):
    page = open_page(width=width, height=740)
    page.locator("#options summary").click()
    page.get_by_label("Documents", exact=True).fill(
        f"{'unbroken' * 60}\n\n{'short ' * 3}\n\nhttps://example.com/{'path/' * 40}"
    )
    page.get_by_role("button", name="Compare with another").click()
    rank(page)
    assert sideways(page) == 0
    page.screenshot(path=shots / f"width-{width}.png", full_page=True)
    for tab in ("curl", "Python", "Reply"):
        page.get_by_role("tab", name=tab).click()
        assert sideways(page) == 0
    page.get_by_label("Query").fill("")
    page.locator("#rank").click()
    expect(page.get_by_role("alert")).not_to_be_empty()
    assert sideways(page) == 0


def test_nothing_moves_where_motion_is_unwanted(open_page):
    for motion, moves in (("reduce", False), ("no-preference", True)):
        page = open_page(motion=motion)
        rank(page)
        assert (page.locator(".bar i").first.evaluate("bar => getComputedStyle(bar).animationName") != "none") is moves
