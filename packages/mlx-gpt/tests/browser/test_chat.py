"""Messages, answers and their versions."""

import re

from talk import finished, messages, open_conversation, say, send, titles


def test_an_answer_streams_and_its_speed_is_shown(page, record):
    send(page, "please hold")
    page.get_by_text("I wait").wait_for()  # before the answer has ended
    assert page.locator("[data-running]").count() == 1
    record.go_on.set()
    assert finished(page) == "I wait no more."
    figures = page.locator(".figures").inner_text()
    expected = r"3 tokens at [\d.]+/s · first token after [\d.]+ s · smollm2"
    assert re.fullmatch(expected, figures)
    assert page.locator(".figures").get_attribute("title") == (
        "Prompt: 21 tokens, 16 of them from the cache"
    )


def test_the_first_request_leaves_everything_to_the_server(page, record):
    say(page, "hello")
    (body,) = record.bodies
    assert body["messages"] == [{"role": "user", "content": "hello"}]
    assert set(body) == {"model", "messages", "stream", "stream_options"}


def test_escape_stops_an_answer_and_the_server_sees_it(page, record):
    send(page, "please hold")
    page.get_by_text("I wait").wait_for()
    page.keyboard.press("Escape")
    assert finished(page) == "I wait"
    assert page.locator(".figures").inner_text().startswith("stopped")
    while record.running:  # ends when the connection does
        page.wait_for_timeout(10)
    assert say(page, "again") == "You said: again (3 messages)"
    assert record.bodies[-1]["messages"][1] == {"role": "assistant", "content": "I wait"}


def test_the_stop_button_stops_too(page, record):
    send(page, "please hold")
    page.get_by_text("I wait").wait_for()
    page.click("#stop")
    assert finished(page) == "I wait"


def test_regenerating_keeps_both_answers(page, record):
    say(page, "first")
    page.click("[aria-label='Regenerate answer']")
    finished(page)
    assert record.bodies[0]["messages"] == record.bodies[1]["messages"]
    assert page.locator(".versions").inner_text().strip() == "2/2"
    page.click("[aria-label='Previous version']")
    assert page.locator(".versions").inner_text().strip() == "1/2"
    assert page.evaluate("document.activeElement.title") == "Previous version"


def test_an_edited_message_goes_on_from_there_and_the_old_branch_stays(page, record):
    say(page, "one")
    say(page, "two")
    page.locator(".turn.user").first.hover()
    page.locator("[aria-label='Edit message']").first.click()
    page.get_by_role("textbox", name="Edit message").fill("uno")
    page.keyboard.press("Enter")
    assert finished(page) == "You said: uno (1 messages)"
    assert messages(page) == ["uno", "You said: uno (1 messages)"]
    page.click("[aria-label='Previous version']")
    assert messages(page)[2:] == ["two", "You said: two (3 messages)"]


def test_escape_leaves_an_edit_without_a_change(page, record):
    say(page, "one")
    page.locator(".turn.user").hover()
    page.click("[aria-label='Edit message']")
    page.get_by_role("textbox", name="Edit message").fill("other")
    page.keyboard.press("Escape")
    assert messages(page)[0] == "one"
    assert page.evaluate("document.activeElement.title") == "Edit message"
    assert len(record.bodies) == 1


def test_system_prompt_sampling_and_model_are_sent_when_they_are_set(page, record):
    page.click("#open-settings")
    page.fill("#system", "Be brief.")
    page.fill("#field-temperature", "0.25")
    page.fill("#field-seed", "7")
    page.fill("#field-top_p", "5")  # out of its range: not sent
    page.keyboard.press("Escape")
    page.select_option("#model", "smollm2:pirate")
    say(page, "hello")
    body = record.bodies[-1]
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (body["temperature"], body["seed"], body["model"]) == (0.25, 7, "smollm2:pirate")
    assert "top_p" not in body
    page.click("#new")
    say(page, "and again")
    assert record.bodies[-1]["messages"][0]["content"] == "Be brief."
    page.click("#open-settings")
    page.click("#reset")
    page.click("text=Done")
    say(page, "plain")
    assert "temperature" not in record.bodies[-1]


def test_an_answer_cut_off_says_so_and_goes_on(page, record):
    page.click("#open-settings")
    page.fill("#field-max_tokens", "3")
    page.click("text=Done")
    say(page, "a long story")
    page.get_by_text("it reached the limit of tokens").wait_for()
    page.get_by_role("button", name="Continue").click()
    finished(page)
    roles = [each["role"] for each in record.bodies[-1]["messages"]]
    assert roles == ["user", "assistant", "user"]


def test_an_empty_answer_is_named(page):
    say(page, "nothing")
    page.get_by_text("The model answered nothing.").wait_for()


def test_an_answer_goes_on_while_another_conversation_is_open(page, record):
    send(page, "please hold")
    page.get_by_text("I wait").wait_for()
    page.click("#new")
    assert say(page, "meanwhile") == "You said: meanwhile (1 messages)"
    assert page.locator(".dot").count() == 1
    record.go_on.set()
    page.locator(".dot").wait_for(state="detached")
    open_conversation(page, "please hold")
    assert messages(page) == ["please hold", "I wait no more."]


def test_thoughts_are_folded_away(page, record):
    say(page, "thoughts")
    summary = page.locator("summary")
    assert summary.inner_text() == "Thoughts"
    assert "It is four." in messages(page)[-1]
    assert not page.get_by_text("two and two").is_visible()
    summary.click()
    assert page.get_by_text("two and two").is_visible()


def test_conversations_survive_a_reload(page, record):
    say(page, "remember me")
    page.click("#new")
    say(page, "markdown")
    before = messages(page)
    page.reload()
    page.locator(".turn").first.wait_for()
    assert messages(page) == before
    assert titles(page) == ["markdown", "remember me"]
    open_conversation(page, "remember me")
    assert messages(page)[0] == "remember me"
    assert say(page, "more") == "You said: more (3 messages)"


def test_a_window_closed_in_the_middle_keeps_what_had_come(page, record):
    send(page, "lines")
    page.get_by_text("line", exact=True).nth(90).wait_for()  # it is stored every second
    page.reload()
    page.locator(".figures").wait_for()
    assert page.locator(".figures").inner_text().startswith("stopped")
    assert page.locator(".answer li").count() > 10


def test_another_tab_sees_a_new_conversation(page, open_page):
    other = open_page(context=page.context)
    say(page, "from the first tab")
    open_conversation(other, "from the first tab")
    assert messages(other)[0] == "from the first tab"


def test_finished_answers_are_told_to_screen_readers_without_marks(page):
    say(page, "markdown")
    status = page.locator("[role=status]")
    assert status.get_attribute("aria-live") == "polite"
    text = status.inner_text()
    assert text.startswith("Answer:")
    assert "stable" in text
    assert "**" not in text
