"""The renderer of Markdown, called in the browser on texts as models write them."""

from html import unescape
from random import Random

import pytest
from markdown_it import MarkdownIt
from stand_in import MARKDOWN, TAMPERED

# Shows each text and describes what it became: elements, addresses of links, texts.
DESCRIBE = """
async (texts) => {
  const { showMarkdown } = await import("/page/markdown.js");
  const describe = (node) => {
    if (node.nodeType === Node.TEXT_NODE) return node.data;
    const tag = node.localName;
    const inside = () => [...node.childNodes].map(describe).join("");
    if (tag === "figcaption") return "";
    if (tag === "figure") {
      const language = node.querySelector("figcaption span").textContent;
      return `<pre ${language}>${node.querySelector("code").textContent}</pre>`;
    }
    if (["div", "span"].includes(tag)) return inside();
    if (tag === "p" && node.parentNode.parentNode?.className === "tight") return inside();
    const level = /level-(\\d)/.exec(node.className)?.[1];
    const name = level ? `h${level}` : tag;
    const extra = node.getAttribute("href") ?? node.getAttribute("start");
    return `<${name}${extra === null ? "" : ` ${extra}`}>${inside()}</${name}>`;
  };
  return texts.map((text) => {
    const box = document.createElement("div");
    showMarkdown(box, text);
    return describe(box);
  });
}
"""

CASES = {
    "plain": "<p>plain</p>",
    "two\nlines": "<p>two\nlines</p>",
    "# One #\ntext": "<h1>One</h1><p>text</p>",
    "#hashtag": "<p>#hashtag</p>",
    "**b** *i* ***bi*** ~~d~~": "<p><strong>b</strong> <em>i</em> <em><strong>bi</strong></em> "
    "<del>d</del></p>",
    "*a **b** c*": "<p><em>a <strong>b</strong> c</em></p>",
    "2 * 3 * 4 and snake_case_name": "<p>2 * 3 * 4 and snake_case_name</p>",
    "**never closed": "<p>**never closed</p>",
    r"\*no\* \`emphasis\`": "<p>*no* `emphasis`</p>",
    "`` a ` b `` and `x*y*z`": "<p><code>a ` b</code> and <code>x*y*z</code></p>",
    "`never closed": "<p>`never closed</p>",
    "[a](https://a.example/x_(y)) b": "<p><a https://a.example/x_(y)>a</a> b</p>",
    "[m](mailto:a@b.example)": "<p><a mailto:a@b.example>m</a></p>",
    "[j](javascript:alert(1))": "<p>[j](javascript:alert(1))</p>",
    "[j](JaVaScRiPt:x) [d](data:text/html,x) [r](/v1/models)": (
        "<p>[j](JaVaScRiPt:x) [d](data:text/html,x) [r](/v1/models)</p>"
    ),
    "[j](java\tscript:x) [v](vbscript:x) [f](file:///etc/passwd)": (
        "<p>[j](java\tscript:x) [v](vbscript:x) [f](file:///etc/passwd)</p>"
    ),
    "<javascript:alert(1)> <https://a.example>": (
        "<p>&lt;javascript:alert(1)&gt; <a https://a.example/>https://a.example</a></p>"
    ),
    "see (https://a.example/b), ok": (
        "<p>see (<a https://a.example/b>https://a.example/b</a>), ok</p>"
    ),
    "![alt *text*](https://a.example/i.png)": (
        "<p><a https://a.example/i.png>alt <em>text</em></a></p>"
    ),
    "<b>bold</b> &lt;i&gt; &amp; &#39;": "<p>&lt;b&gt;bold&lt;/b&gt; &lt;i&gt; &amp; '</p>",
    "a<br>b": "<p>a\nb</p>",
    "```py\nx = '<b>'\n\ty\n```\nafter": "<pre py>x = '&lt;b&gt;'\n\ty</pre><p>after</p>",
    "```\nnever closed\n# no heading": "<pre text>never closed\n# no heading</pre>",
    "~~~~\n```\n~~~~": "<pre text>```</pre>",
    "- a\n- b\n  - c\n    - d\n- e": (
        "<ul><li>a</li><li>b<ul><li>c<ul><li>d</li></ul></li></ul></li><li>e</li></ul>"
    ),
    "1. a\n  - two spaces\n2. b": ("<ol><li>a<ul><li>two spaces</li></ul></li><li>b</li></ol>"),
    "3. three\n4. four": "<ol 3><li>three</li><li>four</li></ol>",
    "1. code\n   ```sh\n   ls\n   ```\n2. next": (
        "<ol><li>code<pre sh>ls</pre></li><li>next</li></ol>"
    ),
    "- a\n\n- b": "<ul><li><p>a</p></li><li><p>b</p></li></ul>",
    "text\n- item\nlazy": "<p>text</p><ul><li>item\nlazy</li></ul>",
    "- a\n  ```\n  x\n  ```\ntext": "<ul><li>a<pre text>x</pre></li></ul><p>text</p>",
    "> # a\n> b\nc\n> ```\nd": (
        "<blockquote><h1>a</h1><p>b\nc</p><pre text></pre></blockquote><p>d</p>"
    ),
    "in the year\n1986. It was": "<p>in the year\n1986. It was</p>",
    "> a\n> > b\n\nc": "<blockquote><p>a</p><blockquote><p>b</p></blockquote></blockquote><p>c</p>",
    "a\n\n***\n\nb": "<p>a</p><hr></hr><p>b</p>",
    "| a | b |\n|--:|---|\n| 1 \\| 2 | `x` |\n| one |": (
        "<table><thead><tr><th>a</th><th>b</th></tr></thead><tbody><tr><td>1 | 2</td>"
        "<td><code>x</code></td></tr><tr><td>one</td></tr></tbody></table>"
    ),
    "a | b\nno table": "<p>a | b\nno table</p>",
    "- [x] done\n- [ ] open": "<ul><li>☑ done</li><li>☐ open</li></ul>",
    r"\(a_1 * b_2 * c\) costs $5 or $6": "<p><code>a_1 * b_2 * c</code> costs $5 or $6</p>",
    "\r\n# a\r\nb\r\n": "<h1>a</h1><p>b</p>",
    "": "",
    " \n \n": "",
}


def test_markdown_becomes_elements(page_of_module):
    expected = [each.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
                for each in CASES.values()]  # fmt: skip
    found = page_of_module.evaluate(DESCRIBE, list(CASES))
    assert dict(zip(CASES, found, strict=True)) == dict(zip(CASES, expected, strict=True))


def test_emphasis_and_code_are_those_of_another_renderer(page_of_module):
    other = MarkdownIt("commonmark")
    random = Random(0)
    parts = ["*", "**", "***", "_", "a", "b", " ", "c d", "`", "\\", "(", "."]
    texts = ["a" + "".join(random.choices(parts, k=random.randint(2, 12))) for _ in range(1000)]
    expected = [unescape(other.render(text).strip()) for text in texts]
    found = page_of_module.evaluate(DESCRIBE, texts)
    different = [
        (text, ours, theirs)
        for text, ours, theirs in zip(texts, found, expected, strict=True)
        if ours != theirs and r"\(" not in text  # TeX
    ]
    assert different == []


# Shows a text as it grows, in steps, in one container; returns what each step showed, and whether
# the end equals the text shown at once.
GROW = """
async ([text, step]) => {
  const { showMarkdown } = await import("/page/markdown.js");
  const [grown, whole] = [document.createElement("div"), document.createElement("div")];
  const seen = [];
  for (let end = step; end < text.length; end += step) {
    showMarkdown(grown, text.slice(0, end), true);
    seen.push(grown.textContent);
  }
  showMarkdown(grown, text, false);
  showMarkdown(whole, text, false);
  return { seen, isEqual: grown.isEqualNode(whole) };
}
"""


@pytest.mark.parametrize("text", [MARKDOWN, TAMPERED], ids=["markdown", "tampered"])
@pytest.mark.parametrize("step", [1, 7])
def test_a_text_that_grew_looks_as_if_shown_at_once(page_of_module, text, step):
    assert page_of_module.evaluate(GROW, [text, step])["isEqual"]


def test_marks_do_not_flash_up_while_a_text_grows(page_of_module):
    text = "# Head\n\nA **bold** and *italic* `code` ~~del~~ [link](https://a.example/b).\n\n"
    text += "- **one**\n- `two`\n\n```py\nx\n```\n\n| a | b |\n|---|---|\n| c | d |\n\nEnd."
    for seen in page_of_module.evaluate(GROW, [text, 1])["seen"]:
        assert not set("*`~#") & set(seen), seen
        assert "](" not in seen, seen
        assert "--" not in seen, seen


def test_blocks_that_are_complete_stay_the_same_nodes(page_of_module):
    kept = page_of_module.evaluate("""async () => {
      const { showMarkdown } = await import("/page/markdown.js");
      const box = document.createElement("div");
      showMarkdown(box, "# a\\n\\nb\\n\\n```py\\nx", true);
      const [first, code] = [box.children[0], box.children[2]];
      showMarkdown(box, "# a\\n\\nb\\n\\n```py\\nx = 1\\n```\\n\\nc", true);
      return [first === box.children[0], code === box.children[2], code.textContent];
    }""")
    assert kept == [True, True, "pyCopyx = 1"]


LONG = 30_000


@pytest.mark.parametrize("text", [
    "*" * LONG, "*a " * LONG, "**a *b " * LONG, "[" * LONG, "![" * LONG, "`" * LONG, "` `` " * LONG,
    "> " * LONG, "- " * LONG, "<" * LONG, "\\(" * LONG, "https://" * LONG, "|" * LONG + "\n|-|",
    "_a_ " * LONG, "[a](" * LONG, "(" * LONG, "~~" * LONG, "&" * LONG, "#" * LONG, "1. " * LONG,
    "\n".join(" " * depth + "- x" for depth in range(300)), "a **" * LONG, "*a_b*" * LONG,
    "*a **b " * LONG + "b** a*" * LONG,
], ids=lambda text: repr(text[:8]))  # fmt: skip
def test_texts_made_to_be_slow_are_shown(page_of_module, text):
    assert page_of_module.evaluate(GROW, [text, len(text) // 2])["isEqual"]
