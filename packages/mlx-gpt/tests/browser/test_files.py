"""Conversations as files, and their end."""

import json
from typing import Any

from talk import finished, messages, say, send, titles

from mlx_gpt.data.layouts import parse_row
from mlx_gpt.data.rows import read_rows


def saved(page: Any, button: str) -> tuple[str, str]:
    """Press a button that saves a file; return its name and content."""
    with page.expect_download() as download:
        page.click(button)
    return download.value.suggested_filename, download.value.path().read_text(encoding="utf-8")


def menu(page: Any, button: str) -> Any:
    """Open the menu of the conversation, and press a button of it."""
    page.click("#open-actions")
    return saved(page, button) if button.startswith("#export") else page.click(button)


def test_an_export_has_openais_messages_and_comes_back(page, record):
    page.click("#open-settings")
    page.fill("#system", "Be brief.")
    page.fill("#field-seed", "7")
    page.click("text=Done")
    answer = say(page, "Grüße, 東京")
    name, text = menu(page, "#export-json")
    assert name == "grüße-東京.json"
    exported = json.loads(text)
    assert (exported["model"], exported["seed"]) == ("smollm2", 7)
    assert exported["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Grüße, 東京"},
        {"role": "assistant", "content": answer},
    ]
    bring_in(page, "chat.json", text)
    noted(page, "Imported 1 conversation from chat.json.")
    page.click("text=Done")
    assert titles(page) == ["Grüße, 東京", "Grüße, 東京"]
    assert messages(page) == ["Grüße, 東京", answer]
    say(page, "more")
    assert record.bodies[-1]["messages"][:3] == exported["messages"]


def noted(page: Any, text: str) -> None:
    """Wait until the settings say something about files."""
    page.locator("#files-note").get_by_text(text).wait_for()


def bring_in(page: Any, name: str, text: str) -> None:
    """Import a file."""
    if not page.locator("#settings[open]").count():
        page.click("#open-settings")
    file = {"name": name, "mimeType": "application/json", "buffer": text.encode()}
    page.set_input_files("#import-file", file)


def test_markdown_has_every_turn(page, record):
    answer = say(page, "hello")
    name, text = menu(page, "#export-markdown")
    assert name == "hello.md"
    assert text == f"# hello\n\n## You\n\nhello\n\n## smollm2\n\n{answer}\n"


def test_an_export_says_that_other_versions_are_not_in_it(page, record):
    say(page, "hello")
    page.click("[aria-label='Regenerate answer']")
    finished(page)
    menu(page, "#export-json")
    page.get_by_text("The versions that are shown are in hello.json").first.wait_for()


def test_all_conversations_are_one_file_that_comes_back(page, record):
    for text in ("one", "two"):
        page.click("#new")
        say(page, text)
    page.click("#open-settings")
    name, text = saved(page, "#export-all")
    assert name == "mlx-gpt-conversations.jsonl"
    assert [json.loads(line)["title"] for line in text.splitlines()] == ["two", "one"]
    bring_in(page, "all.json", text)
    noted(page, "Imported 2 conversations from all.json.")
    page.click("text=Done")
    assert sorted(titles(page)) == ["one", "one", "two", "two"]


def test_json_lines_and_bare_messages_are_read(page, record):
    row = {"messages": [{"role": "user", "content": [{"type": "text", "text": "a row"}]}]}
    bring_in(page, "rows.jsonl", f"{json.dumps(row)}\n{json.dumps(row)}\n")
    noted(page, "Imported 2 conversations from rows.jsonl.")
    bring_in(page, "bare.json", json.dumps([{"role": "user", "content": "bare"}]))
    noted(page, "Imported 1 conversation from bare.json.")
    page.click("text=Done")
    assert messages(page) == ["bare"]


def test_a_file_that_is_no_conversation_is_refused_with_the_place(page, record):
    for text, expected in {
        "no json": "it is no JSON",
        "[]": "it has no conversation",
        '{"a": 1}': 'conversation 1 has no list "messages"',
        '{"messages": [{"role": "tool", "content": "x"}]}': (
            "message 1 of conversation 1 must have the role system, user or assistant, has tool"
        ),
        '{"messages": [{"role": "user", "content": 5}]}': (
            "message 1 of conversation 1 must have a text as content"
        ),
        '{"messages": []}\n{"messages"': "line 2 is no JSON",
    }.items():
        bring_in(page, "bad.json", text)
        noted(page, f"bad.json was not imported: {expected}")
    page.click("text=Done")
    assert titles(page) == []


def test_exports_are_rows_to_fine_tune_on(page, record, tmp_path):
    say(page, "hello")
    one = menu(page, "#export-json")
    page.click("#open-settings")
    for name, text in (one, saved(page, "#export-all")):
        (tmp_path / name).write_text(text, encoding="utf-8")
        [(_, row)] = read_rows(tmp_path / name)
        assert parse_row(row)[0] == "chat"


def test_a_conversation_is_renamed(page, record):
    say(page, "hello")
    menu(page, "#rename")
    page.fill("#line", "Greetings")
    page.keyboard.press("Enter")
    page.locator("#title").get_by_text("Greetings").wait_for()
    page.reload()
    page.locator(".turn").first.wait_for()
    assert titles(page) == ["Greetings"]


def test_one_is_deleted_after_a_question_and_the_others_stay(page, record):
    for text in ("keep", "drop"):
        page.click("#new")
        say(page, text)
    menu(page, "#delete")
    page.get_by_text('Delete "drop"? This cannot be undone.').wait_for()
    page.keyboard.press("Escape")
    assert titles(page) == ["drop", "keep"]
    menu(page, "#delete")
    page.click("#question-yes")
    page.locator("#empty").wait_for()
    assert titles(page) == ["keep"]
    page.reload()
    page.get_by_role("button", name="keep").wait_for()
    assert titles(page) == ["keep"]


def test_an_answer_that_ends_later_does_not_bring_a_deleted_conversation_back(page, record):
    send(page, "please hold")
    page.get_by_text("I wait").wait_for()
    menu(page, "#delete")
    page.click("#question-yes")
    page.locator("#empty").wait_for()
    page.get_by_text("Deleted").first.wait_for()
    assert titles(page) == []
    page.reload()
    page.get_by_text("No conversation yet.").wait_for()


def test_all_are_deleted_after_a_question(page, record):
    for text in ("one", "two"):
        page.click("#new")
        say(page, text)
    page.click("#open-settings")
    page.click("#delete-all")
    page.get_by_text("Delete 2 conversations from this browser?").wait_for()
    page.click("#question-yes")
    noted(page, "Deleted 2 conversations.")
    page.reload()
    page.get_by_text("No conversation yet.").wait_for()
