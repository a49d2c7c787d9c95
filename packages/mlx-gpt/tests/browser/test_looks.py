"""How it looks and is reached: widths, colours, keyboard, screen readers."""

from pathlib import Path
from typing import Any

import pytest
from talk import finished, messages, say, send

LOOKS = [(width, scheme) for width in (1280, 390) for scheme in ("light", "dark")]


@pytest.fixture(scope="session")
def axe() -> str:
    """The source of axe-core, from the package that carries it."""
    package = pytest.importorskip("axe_playwright_python", reason="axe-core is not installed")
    return Path(package.__file__).with_name("axe.min.js").read_text(encoding="utf-8")


def findings(page: Any, axe: str) -> list[str]:
    """Return the findings of axe-core, of whatever weight."""
    page.evaluate(axe)
    found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    return [
        f"{each['id']}: {node['html'][:120]}"
        for each in found["violations"]
        for node in each["nodes"]
    ]


def sideways(page: Any) -> list[int]:
    """Return by how many pixels the page and the conversation are wider than they look."""
    return page.evaluate(
        "[document.documentElement, document.getElementById('scroller')]"
        ".map((box) => box.scrollWidth - box.clientWidth)"
    )


@pytest.mark.parametrize(("width", "scheme"), LOOKS)
def test_axe_finds_nothing(open_page, record, axe, width, scheme):
    page = open_page(width, scheme)
    page.locator("#model:enabled").wait_for()
    found = findings(page, axe)
    say(page, "markdown")
    page.click("[aria-label='Regenerate answer']")
    finished(page)
    record.busy = 1
    send(page, "hello")
    page.locator(".problem").wait_for()
    page.evaluate("Promise.all(document.getAnimations().map((each) => each.finished))")
    found += findings(page, axe)
    assert sideways(page) == [0, 0]
    page.click("#open-settings")
    found += findings(page, axe)
    page.keyboard.press("Escape")
    page.click("#open-actions")
    found += findings(page, axe)
    page.keyboard.press("Escape")
    if width < 500:
        page.click("#open-sidebar")
        page.locator("#close-sidebar").wait_for()
        found += findings(page, axe)
    assert found == []


@pytest.mark.parametrize("text", [
    "markdown", "tampered", "x" * 500, f"https://a.example/{'y' * 300}",
], ids=lambda text: text[:12])  # fmt: skip
def test_a_phone_never_scrolls_sideways(open_page, record, text):
    page = open_page(390)
    say(page, text)
    assert sideways(page) == [0, 0]
    for box in page.locator("button:visible, select:visible, textarea:visible").all():
        place = box.bounding_box()
        assert place["x"] >= 0
        assert place["x"] + place["width"] <= 390


def test_long_code_scrolls_in_its_block(open_page, record):
    page = open_page(390)
    say(page, "markdown")
    code = page.locator("pre")
    assert code.evaluate("(box) => box.scrollWidth > box.clientWidth")
    assert code.get_attribute("tabindex") == "0"


def test_the_list_is_a_drawer_on_a_phone(open_page, record):
    page = open_page(390)
    say(page, "hello")
    assert not page.locator("#sidebar").is_visible()
    page.click("#open-sidebar")
    assert page.locator("#open-sidebar").get_attribute("aria-expanded") == "true"
    assert page.evaluate("document.activeElement.id") == "new"
    assert page.evaluate("document.getElementById('main').inert")
    page.keyboard.press("Escape")
    page.locator("#sidebar").wait_for(state="hidden")
    assert page.evaluate("document.activeElement.id") == "open-sidebar"
    page.click("#open-sidebar")
    page.get_by_role("button", name="hello").click()
    page.locator("#sidebar").wait_for(state="hidden")


def test_colours_follow_the_system_until_one_chooses(open_page, record):
    page = open_page(scheme="dark")
    colour = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(colour)
    page.get_by_text("Light", exact=True).click()
    light = page.evaluate(colour)
    assert sum(map(int, light[4:-1].split(","))) > 700 > 100 > sum(map(int, dark[4:-1].split(",")))
    page.reload()
    assert page.evaluate(colour) == light
    page.get_by_text("System", exact=True).click()
    assert page.evaluate(colour) == dark


def test_everything_can_be_done_with_the_keyboard(page, record):
    press = page.keyboard.press
    focused = """(() => {
      const { id, ariaLabel, value, textContent } = document.activeElement;
      return id || ariaLabel || value || textContent;
    })()"""
    page.focus(".skip")
    assert page.locator(".skip").bounding_box()["y"] > 0
    press("Enter")
    assert page.evaluate(focused) == "message"
    page.keyboard.type("first line")
    press("Shift+Enter")
    page.keyboard.type("hold")
    press("Enter")
    page.get_by_text("I wait").wait_for()
    press("Escape")
    finished(page)
    assert messages(page) == ["first line\nhold", "I wait"]
    seen = set()
    press("Shift+Tab")
    while (name := page.evaluate(focused)) not in seen:  # back through the whole page
        seen.add(name)
        outline = "getComputedStyle(document.activeElement).outlineStyle !== 'none'"
        radio = "document.activeElement.type === 'radio'"  # its label shows the focus
        assert page.evaluate(f"{outline} || {radio}"), name
        press("Shift+Tab")
        if page.evaluate("document.activeElement === document.body"):
            break
    wanted = {"open-actions", "new", "Edit message", "Copy message", "Copy answer"}
    assert wanted | {"Regenerate answer", "scroller"} <= seen
    page.focus("#open-settings")
    press("Enter")
    page.keyboard.type("Be brief.")
    press("Escape")
    page.focus("#message")
    page.keyboard.type("again")
    press("Enter")
    finished(page)
    assert record.bodies[-1]["messages"][0]["content"] == "Be brief."


def test_enter_while_an_answer_is_written_keeps_the_text(page, record):
    send(page, "hold")
    page.get_by_text("I wait").wait_for()
    page.fill("#message", "next")
    page.keyboard.press("Enter")
    assert page.input_value("#message") == "next"
    record.go_on.set()
    finished(page)
    assert len(record.bodies) == 1


def test_it_follows_an_answer_only_from_the_end(page, record):
    send(page, "lines")
    page.get_by_text("line", exact=True).nth(60).wait_for()
    at_end = "(box) => box.scrollHeight - box.scrollTop - box.clientHeight < 60"
    scroller = page.locator("#scroller")
    assert scroller.evaluate(at_end)
    page.mouse.move(700, 300)
    page.mouse.wheel(0, -400)
    page.locator("#to-end").wait_for()
    top = scroller.evaluate("(box) => box.scrollTop")
    count = page.locator(".answer li").count()
    page.locator(".answer li").nth(count + 20).wait_for()
    assert abs(scroller.evaluate("(box) => box.scrollTop") - top) < 2
    page.click("#to-end")
    assert scroller.evaluate(at_end)
    page.click("#stop")


def test_nothing_moves_for_those_who_want_no_motion(open_page, record):
    page = open_page(390, reduced_motion="reduce")
    send(page, "hold")
    page.get_by_text("I wait").wait_for()
    page.click("#stop")
    finished(page)
    page.click("#open-sidebar")
    assert page.evaluate("document.getAnimations().length") == 0


def test_code_is_copied_with_its_button(open_page, record):
    page = open_page()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    say(page, "markdown")
    page.click("text=Copy")
    page.get_by_text("Copied").first.wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == page.locator("pre").inner_text()
