"""The request as curl and Python, and as a link: they do what the page does, whatever the texts are."""

import json
import os
import subprocess
import sys

import pytest
from playwright.sync_api import expect
from steps import AWKWARD, code, fill, indices, order, paste, rank

KEY = "s3cret'value"


@pytest.fixture
def awkward(page):
    fill(
        page,
        "it's a 'quoted' query\nof two lines $(exit 1) 🏅",
        [*AWKWARD, {"text": "an object", "id": 7, "in_stock": True, "note": None}],
        'don\'t "stop" at \\n',
    )
    rank(page)
    return page


def test_the_curl_command_runs_in_bash_and_gives_the_same_order(awkward):
    shown = order(awkward)
    done = subprocess.run(
        ["bash", "-euo", "pipefail"], input=code(awkward, "curl"), capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    assert indices(json.loads(done.stdout)) == shown


def test_the_python_program_runs_and_gives_the_same_order(awkward):
    shown = order(awkward)
    program = code(awkward, "Python") + "\nprint([result['index'] for result in ranking['results']])\n"
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment, encoding="utf-8"
    )
    assert json.loads(done.stdout.splitlines()[-1]) == shown


@pytest.mark.parametrize("language", ["curl", "Python"])
def test_the_key_is_a_placeholder_that_works(page, language, tmp_path):
    page.locator("#options summary").click()
    page.get_by_label("API key").fill(KEY)
    text = code(page, language)
    assert "RERANK_API_KEY" in text
    assert KEY not in text
    if language == "curl":
        fake = tmp_path / "curl"
        fake.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
        fake.chmod(0o755)
        environment = {**os.environ, "RERANK_API_KEY": KEY, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
        done = subprocess.run(["bash"], input=text, capture_output=True, text=True, check=True, env=environment)
        assert f"Authorization: Bearer {KEY}" in done.stdout.splitlines()
    else:
        done = subprocess.run(
            [sys.executable, "-c", text], capture_output=True, text=True, env={**os.environ, "RERANK_API_KEY": KEY}
        )
        assert done.returncode == 0, done.stderr


def test_copy_takes_the_whole_command(page):
    page.locator("#options summary").click()
    page.get_by_label("Tokens per document").fill("4")
    paste(page, "\n".join(f"document {i} " + "x" * 150 for i in range(900)))
    page.get_by_role("tab", name="curl").click()
    expect(page.locator("#code-note")).to_contain_text("Copy copies all")
    page.get_by_role("button", name="Copy").click()
    expect(page.locator("#copy")).to_have_text("Copied")
    done = subprocess.run(
        ["bash"], input=page.evaluate("navigator.clipboard.readText()"), capture_output=True, text=True, check=True
    )
    assert len(json.loads(done.stdout)["results"]) == 900


def test_a_shared_link_brings_the_request_back_without_the_key(page, open_page, url):
    fill(page, "shared 'query' 🏅", ["a < b", "c"], "first")
    page.get_by_role("button", name="Compare with another").click()
    page.locator("#instruction-b").fill("second")
    page.locator("#options summary").click()
    page.get_by_label("Results (top_n)").fill("1")
    page.get_by_text("listwise", exact=True).click()
    page.get_by_label("API key").fill(KEY)
    assert "#" not in page.url
    page.get_by_role("button", name="Share").click()
    expect(page.locator("#shared")).to_contain_text("Link copied")
    link = page.evaluate("navigator.clipboard.readText()")
    assert page.url == link
    other = open_page(fragment=link.removeprefix(url))
    expect(other.locator("#query")).to_have_value("shared 'query' 🏅")
    expect(other.locator("#instruction-b")).to_have_value("second")
    expect(other.locator("#documents")).to_have_value('"a < b"\n"c"')
    expect(other.locator("#top_n")).to_have_value("1")
    expect(other.locator("input[value=listwise]")).to_be_checked()
    expect(other.locator("#key")).to_have_value("")


def test_a_request_too_long_for_a_link_is_refused_with_the_limit(page):
    paste(page, "\n".join(f"{i * 7919 % 100003:x} {i * 104729 % 1000003:x}" for i in range(6000)))
    page.get_by_role("button", name="Share").click()
    expect(page.locator("#shared")).to_contain_text("the limit is 16,000")
    assert "#" not in page.url


@pytest.mark.parametrize("fragment", ["#share=AAAA", "#share=not-deflate", "#results", "#share=" + "A" * 20000])
def test_a_damaged_link_leaves_the_page_usable(open_page, fragment):
    page = open_page(fragment=fragment)
    rank(page)


def test_nothing_survives_a_reload_unless_it_is_shared(page):
    page.get_by_label("Query").fill("something of mine")
    page.reload()
    assert page.get_by_label("Query").input_value() != "something of mine"
