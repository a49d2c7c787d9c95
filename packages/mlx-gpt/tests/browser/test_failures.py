"""What the page says when the server refuses, fails, or is gone."""

from talk import finished, messages, open_conversation, say, send


def test_a_missing_key_is_asked_for_and_then_used(open_page, record):
    record.key = "open sesame"
    page = open_page()
    page.get_by_text("This server needs a key.").wait_for()
    page.fill("#key", "wrong")
    page.keyboard.press("Enter")
    page.wait_for_selector("#key-dialog[open]")
    page.fill("#key", "open sesame")
    page.keyboard.press("Enter")
    page.locator("#model:enabled").wait_for()
    assert say(page, "hello") == "You said: hello (1 messages)"
    page.reload()
    assert say(page, "again") == "You said: again (3 messages)"


def test_a_key_that_is_not_given_leaves_a_way_back(page, record):
    record.key = "open sesame"
    send(page, "hello")
    page.get_by_role("button", name="Enter the key").click()
    page.keyboard.press("Escape")
    assert page.locator(".problem").inner_text().startswith("This server needs a key.")
    page.get_by_role("button", name="Enter the key").click()
    page.fill("#key", "open sesame")
    page.keyboard.press("Enter")
    page.locator(".problem").wait_for(state="detached")
    assert finished(page) == "You said: hello (1 messages)"


def test_a_full_queue_says_when_and_can_be_asked_again(page, record):
    record.busy = 1
    send(page, "hello")
    problem = page.locator(".problem")
    problem.get_by_text("Try again in 2 s.").wait_for()
    assert problem.inner_text().startswith("The queue of 64 requests is full.")
    assert page.locator("[role=status]").inner_text() == "The queue of 64 requests is full."
    page.get_by_text("You can try again now.").wait_for()
    page.get_by_role("button", name="Try again").click()
    problem.wait_for(state="detached")
    assert finished(page) == "You said: hello (1 messages)"
    assert record.bodies[0] == record.bodies[1]


def test_a_message_after_a_failure_is_joined_to_the_unanswered_one(page, record):
    record.busy = 1
    send(page, "hello")
    page.locator(".problem").wait_for()
    say(page, "anyone?")
    assert record.bodies[-1]["messages"] == [{"role": "user", "content": "hello\n\nanyone?"}]


def test_an_error_in_the_middle_keeps_the_text_before_it(page, record):
    send(page, "it fails")
    page.locator(".problem").get_by_text("The engine failed at this request.").wait_for()
    assert messages(page)[-1] == "You said: it fails (1 messages)"
    page.get_by_role("button", name="Try again").click()
    page.get_by_text("2/2").wait_for()  # the text stays, as another version


def test_a_connection_that_breaks_is_no_end_of_an_answer(page, record):
    send(page, "it breaks")
    page.locator(".problem").get_by_text("The connection ended before the answer did.").wait_for()
    assert messages(page)[-1] == "You said: it breaks (1 messages)"


def test_a_server_that_is_gone_is_named(page, record):
    page.context.set_offline(True)
    send(page, "hello")
    page.locator(".problem").get_by_text("The server does not answer.").wait_for()
    page.context.set_offline(False)
    page.get_by_role("button", name="Try again").click()
    page.locator(".problem").wait_for(state="detached")
    assert finished(page) == "You said: hello (1 messages)"


def test_a_model_that_is_not_served_any_more_is_named(page, record):
    page.select_option("#model", "smollm2:pirate")
    say(page, "hello")
    page.route("**/v1/models", lambda route: route.fulfill(json={"data": [{"id": "other"}]}))
    page.reload()
    page.locator("#model:enabled").wait_for()
    assert page.locator("#model option").all_inner_texts() == [
        "smollm2:pirate (not served)", "other"
    ]  # fmt: skip


def test_a_browser_without_storage_still_chats_and_says_so(open_page, record):
    page = open_page()
    page.add_init_script(
        "Object.defineProperty(window, 'indexedDB', { value: { open() { throw 1 } } })"
    )
    page.reload()
    page.locator("#model:enabled").wait_for()
    assert say(page, "hello") == "You said: hello (1 messages)"
    page.get_by_text("This browser stores nothing for this page").first.wait_for()
    page.click("#new")
    open_conversation(page, "hello")
    assert messages(page)[0] == "hello"


def test_a_full_storage_is_named_and_the_chat_goes_on(page, record):
    full = "throw new DOMException('full', 'QuotaExceededError')"
    page.evaluate(f"void (IDBObjectStore.prototype.put = () => {{ {full} }})")
    assert say(page, "hello") == "You said: hello (1 messages)"
    page.locator("#note").get_by_text("The browser's storage is full").wait_for()
    page.click("#new")
    open_conversation(page, "hello")
    assert say(page, "more") == "You said: more (3 messages)"
