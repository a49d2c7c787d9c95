"""The files of the chat page fit together, and hold nothing that could run or load other things."""

import re
from pathlib import Path

import mlx_gpt

FOLDER = Path(mlx_gpt.__file__).parent / "serve" / "page"
TEXTS = {path.name: path.read_text(encoding="utf-8") for path in sorted(FOLDER.iterdir())}
SCRIPTS = {name: text for name, text in TEXTS.items() if name.endswith(".js")}
PAGE = TEXTS["index.html"]


def test_files_can_be_read_at_one_sitting():
    assert {name: n for name, text in TEXTS.items() if (n := len(text.splitlines())) > 300} == {}


def test_scripts_never_parse_text_as_html_or_code():
    parsers = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|srcdoc"
    assert {
        name: found for name, text in SCRIPTS.items() if (found := re.findall(parsers, text))
    } == {}


def test_the_page_has_no_inline_script_or_style_and_loads_nothing_from_elsewhere():
    assert re.findall(r"<script>|<style|\sstyle=|\son\w+=|javascript:", PAGE) == []
    for name, text in TEXTS.items():
        addresses = re.findall(r"https?://[\w.]+[^\s\"')]*", text)
        assert set(addresses) <= {"http://www.w3.org/2000/svg"}, name
    assert not any("@import" in text or "url(" in text for text in TEXTS.values())


def test_every_file_that_is_named_exists_and_every_file_is_named():
    named = set(re.findall(r'(?:src|href)="page/([^"]+)"', PAGE))
    imported = {
        each for text in SCRIPTS.values() for each in re.findall(r'from "\./([^"]+)"', text)
    }
    assert named | imported | {"index.html"} == set(TEXTS)


def test_every_name_that_is_imported_is_exported():
    exported = {
        name: set(re.findall(r"^export (?:async )?(?:function\*?|const|class) (\w+)", text, re.M))
        for name, text in SCRIPTS.items()
    }
    for text in SCRIPTS.values():
        for names, file in re.findall(r'import \{([^}]+)\} from "\./([^"]+)"', text):
            assert {each.strip() for each in names.split(",")} - {""} <= exported[file]


def test_elements_and_icons_that_scripts_name_are_on_the_page():
    ids = set(re.findall(r'\bid="([^"]+)"', PAGE))
    for name, text in SCRIPTS.items():
        wanted = re.findall(r'\b(?:byId|getElementById)\("([^"]+)"\)', text)
        icons = re.findall(r'\b(?:icon|iconButton)\("([^"]+)"', text)
        icons += re.findall(r'icon\(copied \? "(\w+)" : "(\w+)"\)', text)
        flat = [
            f"icon-{each}" for icon in icons for each in ([icon] if isinstance(icon, str) else icon)
        ]
        assert {*wanted, *flat} <= ids, name
