"""A server, a browser, and a page that is watched: whatever a test does, the page must load nothing from elsewhere,
log no error, and break no rule of its content security policy."""

import json
import os
import re
import subprocess
import threading
import urllib.request
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright

# The policy that the page is written for. It is laid over every load, so it holds whatever the server sends.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:"
WATCH_POLICY = """window.violations = [];
document.addEventListener("securitypolicyviolation", event =>
  violations.push(`${event.violatedDirective} ${event.blockedURI}`));"""
PATIENCE_SECONDS = 30

# A cascade of the embedded models, and a small model whose scores depend on the order of the documents.
ORDERED = Path(__file__).parents[1] / "parity" / "fixtures" / "jina-v3"
MODELS = f"""
[models.nano]
source = "podium-nano"
[models.careful]
cascade = [ {{ model = "nano", keep = 3 }}, {{ model = "podium-mini" }} ]
[models.ordered]
source = {json.dumps(str(ORDERED))}
"""


def pytest_configure(config):
    config.addinivalue_line("markers", "may_fail(*statuses): HTTP statuses, or a net:: error, that the test provokes")


def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line(f"screenshots: {os.environ['PODIUM_SHOTS']}")


@pytest.fixture(scope="session")
def url(tmp_path_factory):
    """Where the server is: one that runs, or a new one on a free port, stopped at the end."""
    if given := os.environ.get("PODIUM_URL"):
        yield given.rstrip("/") + "/"
        return
    configuration = tmp_path_factory.mktemp("server") / "podium.toml"
    configuration.write_text(MODELS)
    command = [os.environ["PODIUM_BIN"], "serve", "--listen", "127.0.0.1:0", "--config", str(configuration)]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    giving_up = threading.Timer(PATIENCE_SECONDS, server.kill)
    giving_up.start()
    log = []
    try:
        for line in server.stderr:
            log.append(line)
            if found := re.search(r"listening on (http://\S+)", line):
                break
        else:
            pytest.exit(f"{' '.join(command)} did not start:\n{''.join(log)}", returncode=1)
        giving_up.cancel()
        threading.Thread(target=server.stderr.read, daemon=True).start()  # or its pipe fills up
        yield found[1] + "/"
    finally:
        giving_up.cancel()
        server.terminate()
        server.wait(PATIENCE_SECONDS)


@pytest.fixture(scope="session")
def browser(url):
    accept = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    with urllib.request.urlopen(urllib.request.Request(url, headers=accept)) as reply:
        kind = reply.headers["content-type"]
        if not kind.startswith("text/html"):
            pytest.exit(f"{url} has no page for browsers: GET / with Accept: text/html is {kind}", returncode=1)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=os.environ["PODIUM_CHROMIUM"], args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser, url: str, request):
    """Opens the page at a width and in a colour scheme; afterwards asks what the browser complained about."""
    marker = request.node.get_closest_marker("may_fail")
    provoked = tuple(str(cause) for cause in marker.args) if marker else ()
    watched = []

    def open_(width=1280, height=900, scheme="light", fragment="", prepare=None, motion="reduce") -> Page:
        context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme=scheme,
            reduced_motion=motion,
            permissions=["clipboard-read", "clipboard-write"],
        )
        page = context.new_page()
        errors, requests = [], []
        page.on(
            "console", lambda message: errors.append(message.text) if message.type in ("error", "warning") else None
        )
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda sent: requests.append(sent.url))
        page.add_init_script(WATCH_POLICY)
        page.route(url, with_policy)
        if prepare:
            prepare(page)
        page.goto(url + fragment)
        expect(page.locator("#about")).not_to_be_empty()  # it has heard from the server
        watched.append((page, errors, requests))
        return page

    yield open_
    for page, errors, requests in watched:
        unforeseen = [
            text
            for text in errors
            if not (text.startswith("Failed to load resource") and any(cause in text for cause in provoked))
        ]
        assert unforeseen == []
        assert [address for address in requests if not address.startswith((url, "data:"))] == []
        assert page.evaluate("violations") == []
        assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]
        page.context.close()


def with_policy(route: Route):
    if route.request.resource_type != "document":
        return route.fallback()
    reply = route.fetch()
    sent = reply.headers.get("content-security-policy")
    return route.fulfill(
        response=reply, headers={**reply.headers, "content-security-policy": f"{sent}, {POLICY}" if sent else POLICY}
    )


@pytest.fixture
def page(open_page) -> Page:
    return open_page()


@pytest.fixture
def ask(url):
    """The server's own answer to a request, without the page."""

    def ask_(**body):
        sent = urllib.request.Request(
            url + "v1/rerank", json.dumps(body).encode(), {"content-type": "application/json"}
        )
        with urllib.request.urlopen(sent) as reply:
            return json.load(reply)

    return ask_


@pytest.fixture(scope="session")
def shots() -> Path:
    return Path(os.environ["PODIUM_SHOTS"])
