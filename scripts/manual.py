"""The sources of the manual's book, and a check of its links.

    manual.py collect DIR   copies the chapters and all that they link to into DIR, with a table of contents
    manual.py check DIR     fails unless each link between the pages of the built book leads to a file, and to an anchor of it
"""

import html.parser
import pathlib
import re
import shutil
import sys
import urllib.parse

LINK = re.compile(r"\]\(([^)\s]+)\)")


def is_external(link):
    return bool(urllib.parse.urlsplit(link).scheme) or link.startswith("//")


def prose(text):
    """The text without its blocks of code."""
    return "".join(text.split("```")[::2])


def collect(target):
    root = pathlib.Path.cwd()
    contents = (root / "docs/SUMMARY.md").read_text()
    chapters = [root / "docs" / link for link in LINK.findall(contents)]
    beside, files, todo = [], [], list(chapters)
    while todo:
        page = todo.pop(0)
        for link in LINK.findall(prose(page.read_text())):
            path = urllib.parse.urlsplit(link).path
            if is_external(link) or not path:
                continue
            linked = (page.parent / path).resolve()
            if not linked.is_file():
                sys.exit(f"{page.relative_to(root)}: {link} is no file")
            if linked in chapters + beside + files:
                continue
            if linked.suffix == ".md":
                beside.append(linked)
                todo.append(linked)
            else:
                files.append(linked)
    for path in chapters + beside + files:
        copy = target / path.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    # The first page is the table of contents: mdBook shows it at the root, where the links of a chapter would lead nowhere.
    contents = LINK.sub(lambda match: f"](docs/{match[1]})", contents)
    (target / "index.md").write_text(contents)
    summary = "# Manual\n\n[Contents](index.md)\n\n" + contents.split("\n", 2)[2] + "\n# Beside the manual\n\n"
    for path in beside:
        title = re.search(r"^# (.+)$", path.read_text(), re.M)[1].replace("`", "")
        summary += f"- [{title}]({path.relative_to(root)})\n"
    (target / "SUMMARY.md").write_text(summary)
    print(f"{len(chapters)} chapters, {len(beside)} pages beside them, {len(files)} files")


class Page(html.parser.HTMLParser):
    """The links and the anchors of a page."""

    def __init__(self, path):
        super().__init__()
        self.links, self.anchors = [], {"", "top"}
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name == "id":
                self.anchors.add(value)
            elif name in ("href", "src") and value and not is_external(value):
                self.links.append(value)


def check(target):
    pages = {path.resolve(): Page(path) for path in target.rglob("*.html")}
    broken, seen = [], 0
    for path, page in pages.items():
        # The page for addresses that do not exist has a base of its own.
        if path.name == "404.html":
            continue
        for link in page.links:
            seen += 1
            parts = urllib.parse.urlsplit(link)
            linked = (path.parent / urllib.parse.unquote(parts.path)).resolve() if parts.path else path
            exists = linked.is_file()
            if exists and linked in pages:
                exists = urllib.parse.unquote(parts.fragment) in pages[linked].anchors
            if not exists:
                broken.append(f"{path.relative_to(target.resolve())}: {link}")
    for line in sorted(set(broken)):
        print(f"leads nowhere: {line}", file=sys.stderr)
    print(f"{len(pages)} pages, {seen} links, {len(set(broken))} broken")
    if broken or seen < 500:
        sys.exit(1)


if __name__ == "__main__":
    {"collect": collect, "check": check}[sys.argv[1]](pathlib.Path(sys.argv[2]))
