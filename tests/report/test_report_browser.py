"""report.html in a real browser: it loads nothing, fits a phone in both colour schemes, and prints."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from conftest import Store
from reporting import Made, everything, qa_report, read, scoring_run, slice_row

from ml_pipelines.report import render

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium: the report isn't looked at in a browser here"),
]

# A page of the same origin that shows the report in a frame as wide as a phone, and records what it measures.
LOOK = """<!doctype html><link rel="icon" href="data:,"><title>look</title>
<body><pre id="seen"></pre><iframe src="report.html" style="width:WIDTHpx;height:800px;border:0"></iframe>
<script>
document.querySelector("iframe").onload = (event) => {
  const view = event.target.contentWindow, page = view.document, root = page.documentElement;
  const beyond = (element) => element.getBoundingClientRect().right > root.clientWidth + 1;
  const wide = [...page.querySelectorAll("body *")].filter(beyond);
  const contrast = (selector) => view.getComputedStyle(page.querySelector(selector)).color;
  document.querySelector("#seen").textContent = JSON.stringify({
    resources: view.performance.getEntriesByType("resource").map((entry) => entry.name),
    scroll: root.scrollWidth, width: root.clientWidth,
    wide: wide.map((e) => e.outerHTML.slice(0, 100)),
    scripts: page.scripts.length, images: page.images.length,
    ink: contrast("body"), paper: view.getComputedStyle(page.querySelector("section")).backgroundColor,
    soft: contrast("small"), link: contrast("a"), word: contrast("h1"), title: page.title,
  });
};
</script>"""


class Handler(SimpleHTTPRequestHandler):
    """Serve a folder and record the requested paths."""

    requested_paths: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.requested_paths.append(self.path)
        super().do_GET()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def web_folder(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """Serve a folder on loopback; yield the folder and its address."""
    folder = tmp_path / "served"
    folder.mkdir()
    Handler.requested_paths.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def browse(tmp_path: Path) -> Callable[..., str]:
    """Run the browser without a window, with no network except loopback; return what it prints."""

    def run(*options: str) -> str:
        command = [
            str(BROWSER),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            f"--user-data-dir={tmp_path / 'user'}",
        ]
        command += ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--virtual-time-budget=10000"]
        result = subprocess.run([*command, *options], capture_output=True, text=True, timeout=120)
        assert result.returncode == 0, result.stderr
        return result.stdout

    return run


def reports() -> dict[str, str]:
    """Return a complete report, one of a failed run, and one whose every name is long or harmful."""
    champion = {"run_id": Made().log()[1]["train"], "name": "loans", "version": 2, "auc": 0.879, "low": 0.865}
    champion |= {"high": 0.893, "difference": 0.0051, "p_value": 0.0412}
    long = "a_very_long_name_of_a_column_that_nobody_would_type_by_hand_" * 3
    evil = "<script>document.title='harm'</script><img src=http://127.0.0.1:1/x onerror=\"document.title='harm'\">"
    slices = [slice_row(f"{evil}={long}", 120, 0.8), slice_row(long, 3, None, problem=long)]
    runs = {
        "whole": Made(artifacts=everything(qa_report(champion=champion))),
        "failed": Made(
            status={"prepare_data": "FINISHED", "train": "FAILED"},
            artifacts={"train": {"traceback.txt": f"Traceback\n{long}\n{evil}"}},
            tags={"train": {"cause": f"{evil} {long}"}, "": {"skipped": json.dumps({"evaluate": "train"})}},
            parent_status="FAILED",
        ),
        "harmful": Made(
            artifacts=everything(
                qa_report("refused", {**champion, "name": evil}, slices=slices), (long, evil, "purpose")
            ),
            tags={"": {"verdict": "refused", "mlflow.user": evil}, "train": {"reason": evil, "summary": long}},
            experiment=long,
            parent_status="FAILED",
        ),
    }
    runs |= {"scoring": scoring_run(), "harmful scoring": scoring_run(columns=(long, evil, "purpose", "a b"))}
    return {name: render.render(read(made.log()[0])) for name, made in runs.items()}


def luminance(colour: str) -> float:
    """Return the relative luminance of `rgb(r, g, b)` (WCAG 2.2)."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize(("scheme", "dark"), [("light", False), ("dark", True)])
def test_the_report_fits_a_phone_in_both_colour_schemes_and_loads_nothing(
    store: Store, web_folder: tuple[Path, str], browse: Callable[..., str], scheme: str, dark: bool
) -> None:
    folder, address = web_folder
    for name, html in reports().items():
        (folder / "report.html").write_text(html, encoding="utf-8")
        (folder / "look.html").write_text(LOOK.replace("WIDTH", "360"), encoding="utf-8")
        Handler.requested_paths.clear()
        dom = browse(f"--blink-settings=preferredColorScheme={0 if dark else 1}", "--dump-dom", f"{address}/look.html")
        match = re.search(r'<pre id="seen">(.*?)</pre>', dom, re.DOTALL)
        assert match and match[1], dom
        measured = json.loads(match[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
        assert Handler.requested_paths == ["/look.html", "/report.html"], name
        assert (measured["resources"], measured["scripts"], measured["images"]) == ([], 0, 0), name
        assert (measured["width"], measured["scroll"], measured["wide"]) == (360, 360, []), name
        assert "pipeline run" in measured["title"]
        paper = luminance(measured["paper"])
        assert (paper < 0.1) == dark
        for role in ("ink", "soft", "link", "word"):
            light, shade = sorted((luminance(measured[role]), paper), reverse=True)
            assert (light + 0.05) / (shade + 0.05) >= 4.5, (name, role)


def test_the_report_prints_on_few_pages(store: Store, browse: Callable[..., str], tmp_path: Path) -> None:
    source, target = tmp_path / "report.html", tmp_path / "report.pdf"
    source.write_text(reports()["whole"], encoding="utf-8")
    browse("--no-pdf-header-footer", f"--print-to-pdf={target}", source.as_uri())
    pages = re.findall(rb"/Type\s*/Page\b", target.read_bytes())
    assert 1 <= len(pages) <= 5


def test_the_drawings_and_the_verdict_are_visible(store: Store, browse: Callable[..., str], tmp_path: Path) -> None:
    import numpy as np
    from matplotlib.image import imread

    source, target = tmp_path / "report.html", tmp_path / "seen.png"
    source.write_text(reports()["whole"], encoding="utf-8")
    browse("--window-size=1100,4500", f"--screenshot={target}", source.as_uri())
    pixels = imread(target)[..., :3]
    blue = np.abs(pixels - np.array([0x09, 0x69, 0xDA]) / 255).max(axis=2) < 0.02
    assert blue.sum() > 5_000  # bars and curves
    assert np.abs(pixels - np.array([0x1A, 0x7F, 0x37]) / 255).max(axis=2).min() < 0.02  # the verdict
