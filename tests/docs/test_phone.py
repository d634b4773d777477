"""Pages read on a phone: nothing is cut off, tables scroll, and the type of diagrams can be read."""

import json
import re
import shutil
import subprocess
from html import unescape

import pytest
from documents import ROOT

pytestmark = pytest.mark.skipif(shutil.which("chromium") is None, reason="there is no browser here")

PHONE, DESK = 390, 1280
# The least height of type in a diagram, in pixels of the screen.
READABLE = 9
MEASURE = """
<pre id="out"></pre>
<script>
const found = {{}}, pages = {pages};
let left = pages.length;
for (const page of pages) {{
  const frame = document.createElement("iframe");
  frame.style = "width:{width}px;height:800px;border:0";
  frame.onload = () => {{
    const shown = frame.contentDocument, root = shown.documentElement, room = root.clientWidth;
    const wide = [...shown.querySelectorAll("article table, article pre")].filter(t => t.scrollWidth > t.clientWidth + 1);
    const scrolls = e => {{ for (; e && e !== shown.body; e = e.parentElement) if (["auto", "scroll"].includes(
      frame.contentWindow.getComputedStyle(e).overflowX) && e.clientWidth <= room) return true; return false; }};
    found[page] = {{
      room, needed: root.scrollWidth,
      cut: [...shown.querySelectorAll("article table, article pre code")].filter(t => t.scrollWidth > room && !scrolls(t)).length,
      images: [...shown.querySelectorAll("article img")].map(i => [i.getAttribute("src"), i.clientWidth]),
    }};
    if (!--left) out.textContent = JSON.stringify(found);
  }};
  frame.src = page;
  document.body.append(frame);
}}
</script>
"""


@pytest.fixture(scope="module", params=[PHONE, DESK])
def measured(request, site, tmp_path_factory):
    """By page, at one width: room and need, tables that neither fit nor scroll, and the diagrams' widths."""
    pages = sorted(page.name for page in site.glob("*.html") if page.name != "404.html")
    (site / "measure.htm").write_text(MEASURE.format(pages=json.dumps(pages), width=request.param))
    profile = tmp_path_factory.mktemp("profile")
    command = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--dump-dom"]
    command += [f"--user-data-dir={profile}", "--virtual-time-budget=20000", f"file://{site}/measure.htm"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    return json.loads(unescape(re.search(r'<pre id="out">(.*?)</pre>', run.stdout, re.DOTALL)[1]))


def test_nothing_is_cut_off(measured):
    assert len(measured) > 10
    assert not {page: found for page, found in measured.items() if found["needed"] > found["room"] or found["cut"]}


def test_the_type_of_diagrams_can_be_read(measured):
    seen = set()
    for found in measured.values():
        for source, width in found["images"]:
            drawing = (ROOT / "docs" / source).read_text(encoding="utf-8")
            units = float(re.search(r'viewBox="0 0 (\d+)', drawing)[1])
            smallest = min(float(size) for size in re.findall(r'font-size="(\d+)', drawing))
            assert smallest * width / units >= READABLE, source
            seen.add(source)
    assert len(seen) == 4
