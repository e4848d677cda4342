"""A MkDocs hook that turns LaTeX into MathML when the site is built.

`pymdownx.arithmatex` marks the formulas. MathML is drawn by the browser itself, so that no script
runs on a page and none is fetched from another host. A command that latex2mathml does not know is a
warning, which `mkdocs build --strict` makes an error.
"""

import html
import logging
import re

from latex2mathml.converter import convert

_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.S)
_log = logging.getLogger("mkdocs.hooks.mathml")


def on_page_content(content: str, page: object, **_: object) -> str:
    def replaced(found: re.Match[str]) -> str:
        latex = html.unescape(found[2].strip())
        mathml = str(convert(latex, display="block" if found[1] == "div" else "inline"))
        if "\\" in re.sub(r"<[^>]*>", "", mathml):
            _log.warning("%s: a command in this formula is unknown: %s", page, latex)
        return mathml

    return _FORMULA.sub(replaced, content)
