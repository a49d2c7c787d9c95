"""The page before the server itself, with a tiny model."""

import re

from serving import loader, serving, wait_until, write_long
from talk import finished, messages, say, send


def test_the_page_talks_with_mlx_gpt_serve(open_page, llama_folder, tmp_path):
    load = loader(write_long(llama_folder, tmp_path / "long"))
    with serving(load, keys=["open sesame"]) as running:
        page = open_page(address=running.url)
        page.fill("#key", "open sesame")
        page.keyboard.press("Enter")
        page.locator("#model:enabled").wait_for()
        assert page.locator("#model option").all_inner_texts() == ["org/tiny"]
        page.click("#open-settings")
        page.fill("#field-max_tokens", "12")
        page.fill("#field-seed", "3")
        page.click("text=Done")
        first = say(page, "How many r are in strawberry?")
        if page.get_by_text("it reached the limit of tokens").count():
            assert page.locator(".figures").inner_text().startswith("12 tokens")
        page.click("[aria-label='Regenerate answer']")
        assert finished(page) == first  # by the seed
        page.click("#open-settings")
        page.click("#reset")
        page.click("text=Done")
        send(page, "And now at length")
        page.locator(".answer").nth(1).get_by_text(re.compile(r"\S")).first.wait_for()
        page.keyboard.press("Escape")
        finished(page)
        wait_until(lambda: running.scheduler.stats().active == 0)
        send(page, "too long " * 5000)
        page.locator(".problem").wait_for()
        assert re.search("4,?096", page.locator(".problem").inner_text())
        assert len(messages(page)) == 6
