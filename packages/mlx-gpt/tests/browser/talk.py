"""What a user of the page does and sees."""

from typing import Any


def send(page: Any, text: str) -> None:
    """Send a message."""
    page.fill("#message", text)
    page.click("#send")


def say(page: Any, text: str) -> str:
    """Send a message, wait for the whole answer, and return its text."""
    send(page, text)
    return finished(page)


def finished(page: Any) -> str:
    """Wait until no answer is written, and return the text of the last one."""
    page.locator("#send").wait_for()
    return page.locator(".turn .answer").last.inner_text().strip()


def open_conversation(page: Any, title: str) -> None:
    """Open a conversation of the list, and wait until it is shown."""
    page.get_by_role("button", name=title).click()
    page.locator(".bubble", has_text=title).first.wait_for()


def messages(page: Any) -> list[str]:
    """Return the texts of all turns that are shown."""
    return [each.strip() for each in page.locator(".bubble, .answer").all_inner_texts()]


def titles(page: Any) -> list[str]:
    """Return the titles in the list of conversations."""
    return page.locator("#conversations button").all_inner_texts()
