"""Look at the built site: every public name is in its search, every link leads on.

python docs/check.py docs/_build/html
"""

import inspect
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import secondorder as so


class Page(HTMLParser):
    """The links and the anchors of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.anchors: set[str] = {""}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect."""
        for name, value in attrs:
            if name == "id" and value:
                self.anchors.add(value)
            if name in ("href", "src") and value and not value.startswith("data:"):
                self.links.add(value)


def broken(root: Path) -> list[str]:
    """Links within the site that lead nowhere."""
    pages = {p: Page(p.read_text("utf-8")) for p in root.rglob("*.html")}
    found = []
    for path, page in pages.items():
        for link in page.links:
            if re.match(r"[a-z]+:|//", link):
                continue
            file, _, anchor = unquote(link).partition("#")
            target = (path.parent / file.split("?")[0]).resolve() if file else path
            if not target.exists():
                found.append(f"{path.relative_to(root)}: {link}")
            elif target in pages and anchor and anchor not in pages[target].anchors:
                found.append(f"{path.relative_to(root)}: no place {link}")
    return found


def names() -> list[str]:
    """All public names, as the reference writes them."""
    modules = [n for n in so.__all__ if inspect.ismodule(getattr(so, n))]
    found = [f"secondorder.{n}" for n in so.__all__ if n not in modules]
    for name in modules:
        module = getattr(so, name)
        listed = getattr(module, "__all__", [])
        top = [getattr(so, n) for n in so.__all__]  # what is there, too, is found there
        own = [n for n in listed if all(getattr(module, n) is not v for v in top)]
        found += [f"secondorder.{name}.{n}" for n in own]
    return found


def main() -> int:
    """Print what is missing; return the exit status."""
    root = Path(sys.argv[1])
    index = (root / "objects.inv").exists() and (root / "searchindex.js").read_text()
    anchors = {a for p in root.rglob("*.html") for a in Page(p.read_text()).anchors}
    missing = [n for n in names() if n not in anchors]
    missing += [n for n in names() if n.split(".")[-1].lower() not in index.lower()]
    links = broken(root)
    for name in missing:
        print(f"not found: {name}")
    for link in links:
        print(f"broken link: {link}")
    print(f"{len(names())} names and the links of {len(list(root.rglob('*.html')))} "
          f"pages checked")  # fmt: skip
    return 1 if missing or links else 0


if __name__ == "__main__":
    sys.exit(main())
