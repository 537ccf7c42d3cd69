# SPDX-License-Identifier: GPL-2.0
"""Says how Sphinx builds these pages. scripts/docs.sh runs it."""
import os
import re

from docutils import nodes
from docutils.writers import manpage
from sphinx import addnodes

HERE = os.path.dirname(os.path.abspath(__file__))


def workspace_version():
    """Returns the version that Cargo.toml has for the whole project."""
    with open(os.path.join(HERE, "..", "Cargo.toml"), encoding="utf-8") as f:
        return re.search(r'(?m)^version = "(.*)"$', f.read()).group(1)


project = "unionblk"
author = "The unionblk authors"
version = release = workspace_version()
# An option such as --format keeps its two hyphens.
smartquotes = False
html_theme = "alabaster"
html_show_copyright = False
# A literal block is output of a program or a structure, in no language that
# could be highlighted.
highlight_language = "none"
man_pages = [
    ("ubctl", "ubctl", "make, attach, show and check unions of block devices", [], 8),
    ("ubtab", "ubtab", "unions that exist from boot to shutdown", [], 5),
    ("unionblk", "unionblk", "files of a union, and the format of a leaf", [], 5),
    ("ubsnapd", "ubsnapd", "snapshotter for containerd on unionblk", [], 8),
]


def link_pages(app, doctree):
    """Makes links between files that work where the sources are read, as links to "admin.rst",
    work in what Sphinx builds. A link to a file that does not exist is then a warning."""
    for link in list(doctree.findall(nodes.reference)):
        target = link.get("refuri", "")
        if not target or ":" in target or target.startswith("#"):
            continue
        doc = app.env.docname
        if target.endswith(".rst"):
            new = addnodes.pending_xref(
                "", refdomain="std", reftype="doc", reftarget=target[:-len(".rst")],
                refdoc=doc, refexplicit=True, refwarn=True)
        else:
            new = addnodes.download_reference("", reftarget=target, refdoc=doc)
        new += nodes.inline("", "", *link.children)
        link.replace_self(new)


def show_powers(app, doctree, _docname):
    """Writes 2^31 in man pages, which have no superscript."""
    if app.builder.name == "man":
        for power in list(doctree.findall(nodes.superscript)):
            power.replace_self(nodes.Text("^" + power.astext()))


class ManTable(manpage.Table):
    """A table of a man page that fits a terminal. docutils gives each column the same width, which
    the words of one column exceed, while the text of another is broken into short lines."""

    WIDEST = 20

    def as_list(self):
        rows = [row for row in self._rows if len(row) == len(self._coldefs)]
        columns = [[self.plain(cell) for cell in column] for column in zip(*rows)]
        # The last column takes what the others leave.
        self._coldefs = [f"lw({self.width(cells)}n)" for cells in columns[:-1]] + ["lx"]
        # Text in so narrow a column cannot be adjusted to both sides.
        return [".na\n", *super().as_list(), ".ad\n"]

    @staticmethod
    def plain(cell):
        return re.sub(r"\\f[BIPR]|\\(?=-)", "", re.sub(r"\\\(..", "?", " ".join(cell))).split()

    def width(self, cells):
        words = max(len(word) for cell in cells for word in cell or [""])
        whole = max(len(" ".join(cell)) for cell in cells)
        return max(words, min(whole, self.WIDEST))


def setup(app):
    manpage.Table = ManTable
    # Before Sphinx collects the files to copy, which it does at 500.
    app.connect("doctree-read", link_pages, priority=400)
    app.connect("doctree-resolved", show_powers)
