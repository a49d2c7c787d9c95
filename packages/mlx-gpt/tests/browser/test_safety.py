"""What a model writes cannot become a script, a request, or anything but text and links.

The fixture `open_page` also fails a test whose page asks another server or violates its policy.
"""

import json
import urllib.error
import urllib.request

from stand_in import TAMPERED
from talk import say, send


def test_html_in_an_answer_is_text(page, record):
    before = page.locator("script, iframe, img, form, input, style, svg").count()
    text = say(page, "tampered")
    for part in (
        "<script>window.owned = 1;",
        "<img src=",
        "onerror=",
        "<svg onload=",
        "</article>",
    ):
        assert part in text
    assert page.evaluate("window.owned") is None
    icons = page.locator(".turn svg").count()
    after = page.locator("script, iframe, img, form, input, style, svg").count()
    assert after - before == icons
    assert page.locator(".markdown :is(script, img, iframe, form, b)").count() == 0


def test_links_of_an_answer_go_to_the_web_only_and_tell_it_nothing(page, record):
    say(page, "tampered")
    links = page.evaluate("[...document.querySelectorAll('.answer a')].map(a => [a.href, a.rel])")
    assert links
    for address, relation in links:
        assert address.startswith("https://evil.example")
        assert "noopener" in relation.split()
    assert "[click](javascript:window.owned=3)" in TAMPERED


def test_html_in_messages_titles_and_models_is_text(page, record):
    attack = "<img src=x onerror=window.owned=1><script>window.owned=2</script>"
    send(page, attack)
    page.locator("#send").wait_for()
    assert attack in page.locator(".bubble").inner_text()
    assert page.locator("#title").inner_text() == attack[:59] + "…"
    page.reload()
    page.locator(".turn").first.wait_for()
    assert page.evaluate("window.owned") is None
    assert page.locator("main img, #conversations img").count() == 0


def test_even_a_fault_of_the_page_could_not_parse_html(page_of_module):
    outcome = page_of_module.evaluate("""() => {
      try { document.body.innerHTML = "<p>x</p>"; } catch (error) { return error.name }
      return "parsed";
    }""")
    assert outcome == "TypeError"  # of trusted types


def fetch(url: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers and body."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
            return answer.status, dict(answer.headers.items()), answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers.items()), error.read()


def test_every_file_has_the_headers(stand_in):
    for path in ("/", "/page/main.js", "/page/base.css", "/page/icon.svg"):
        status, headers, body = fetch(stand_in[1] + path)
        headers = {name.lower(): value for name, value in headers.items()}
        assert (status, bool(body)) == (200, True)
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert policy.endswith("require-trusted-types-for 'script'; trusted-types 'none'")
        assert "script-src 'self';" in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        again = fetch(stand_in[1] + path, **{"If-None-Match": headers["etag"]})
        assert (again[0], again[2]) == (304, b"")


def test_only_files_of_the_page_are_served(stand_in):
    for name in ("..%2fpage.py", "../page.py", "main.py", "%2e%2e/app.py", "__init__.py", ""):
        assert fetch(f"{stand_in[1]}/page/{name}")[0] == 404
    assert b"page.py" not in fetch(f"{stand_in[1]}/page/x")[2]


def test_the_key_is_kept_in_this_tab_only(page, record):
    record.key = "secret-key"
    send(page, "hello")
    page.click("text=Enter the key")
    page.fill("#key", "secret-key")
    page.keyboard.press("Enter")
    page.locator("#send").wait_for()
    kept = page.evaluate("[JSON.stringify(localStorage), JSON.stringify(sessionStorage)]")
    assert "secret-key" not in kept[0]
    assert "secret-key" in kept[1]
    stored = page.evaluate("""() => new Promise((resolve) => {
      const opening = indexedDB.open("mlx-gpt");
      opening.onsuccess = () => {
        const name = "conversations";
        const all = opening.result.transaction(name).objectStore(name).getAll();
        all.onsuccess = () => resolve(all.result);
      };
    })""")
    assert stored
    assert "secret-key" not in json.dumps(stored)
    page.click("#open-settings")
    page.click("#forget-key")
    assert "secret-key" not in page.evaluate("JSON.stringify(sessionStorage)")
