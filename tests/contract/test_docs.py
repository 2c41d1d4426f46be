"""The examples of the README and of CONTRIBUTING do what the text around them says."""

from __future__ import annotations

import pkgutil
import re
import runpy
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

import oodbench
from oodbench import registry
from oodbench.registry import DETECTORS, METHODS
from oodbench.testing import detector_checks
from tests.conftest import REPOSITORY
from tests.helpers.attempts import Server


def example(file: str, name: str) -> str:
    """The code block that follows ``<!-- example: name -->``."""
    text = (REPOSITORY / file).read_text(encoding="utf-8")
    found = re.search(rf"<!-- example: {name} -->\n```python\n(.*?)```", text, re.DOTALL)
    assert found, f"{file} has no example {name!r}"
    return found.group(1)


def test_worked_detector_passes_the_contract(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "halo.py").write_text(example("CONTRIBUTING.md", "detector"))
    monkeypatch.syspath_prepend(str(tmp_path))
    import halo  # type: ignore[import-not-found]

    try:
        for check in detector_checks():
            check(halo.Halo())
        assert "halo" in oodbench.list_detectors()
    finally:
        DETECTORS.unregister("halo")


def printed_by(server: Server, code: str, folder: Path) -> str:
    script = folder / "script.py"
    script.write_text(code)
    return server.prints(script)


FEW = """
from oodbench.registry import BENCHMARKS
from tests.helpers.few import few_digits
BENCHMARKS._objects["digits"] = few_digits
"""


def test_own_detector_in_ten_lines(server: Server, tmp_path: Path) -> None:
    # a process of its own: the example registers a name
    code = example("README.md", "own detector")
    assert len([line for line in code.splitlines() if line.strip()]) <= 20
    assert "mine" in printed_by(server, FEW + code, tmp_path)
    assert "| mine |" in (Path.cwd() / "leaderboards" / "digits.md").read_text()


def test_own_network(server: Server, tmp_path: Path) -> None:
    code = example("README.md", "own network")
    assert "auroc" in printed_by(server, code, tmp_path)


def test_files_of_tests_that_are_named_exist() -> None:
    """``Checked against: … (tests/…)`` leads a reader to the test."""
    named = re.compile(r"\btests/[\w/]+\.py\b")
    sources = [
        path
        for folder, kind in (
            ("oodbench", "py"),
            ("detectors", "py"),
            ("datasets", "py"),
            ("docs", "md"),
        )
        for path in (REPOSITORY / folder).rglob(f"*.{kind}")
    ]
    lost = {
        f"{path.relative_to(REPOSITORY)}: {name}"
        for path in sources
        for name in named.findall(path.read_text(encoding="utf-8"))
        if not (REPOSITORY / name).is_file()
    }
    assert not lost


def test_examples_of_a_task_a_backbone_and_a_modality_run(server: Server, tmp_path: Path) -> None:
    """The files of CONTRIBUTING, and what the text says can be done with them."""
    files = {"task": "centre", "backbone": "two_layers", "modality": "outline"}
    for name, file in files.items():
        (tmp_path / f"{file}.py").write_text(example("CONTRIBUTING.md", name), encoding="utf-8")
    code = f"""
import dataclasses, sys
sys.path.insert(0, {str(tmp_path)!r})
import centre, outline, two_layers
from oodbench import Hardware, evaluate, get_benchmark

common = dict(
    detectors=["msp"],
    recipe_options=dict(epochs=1),
    hardware=Hardware(accelerator="cpu", workers=0),
    leaderboards={str(tmp_path / "boards")!r},
)
centres = dataclasses.replace(get_benchmark("digits"), name="digits/centre", task="centre")
options = dict(share=0.75)
rows = evaluate(
    benchmark=centres, backbone="two-layers", recipe="quick", task_options=options, **common
).rows
assert set((row["backbone"], row["share"]) for row in rows) == set([("two-layers", 0.75)])
for modality in (None, "outline"):
    options = dict(modality=modality)
    rows = evaluate(benchmark="outlined-digits", task_options=options, **common).rows
    scored = set((row["backbone"], row["modality"]) for row in rows)
    assert scored == set([("outlined-cnn", modality)])
"""
    printed_by(server, code, tmp_path)
    stored = sorted(path.name for path in (tmp_path / "boards" / "results").iterdir())
    assert [name.startswith(("digits-centre", "outlined-digits")) for name in stored] == [True] * 2


def test_generated_pages_are_as_the_code_says() -> None:
    pages = runpy.run_path(str(REPOSITORY / "docs" / "generate.py"))["written"]()
    stale = [path.name for path, text in pages.items() if path.read_text(encoding="utf-8") != text]
    assert not stale, "run python docs/generate.py"


def test_every_name_is_on_the_page_of_names() -> None:
    text = (REPOSITORY / "docs" / "names.md").read_text(encoding="utf-8")
    points = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["entry-points"]
    for kind in ("detectors", "methods", "benchmarks", "tasks", "backbones", "datasets"):
        for name, target in points[f"oodbench.{kind}"].items():
            if not target.endswith("[alias]"):
                line = re.search(rf"^\| `{re.escape(name)}` \| .*\w.* \|$", text, re.MULTILINE)
                assert line, f"{name} is not on the page: run python docs/generate.py"
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert "(docs/names.md)" in readme, "the README leads to the page"


@pytest.mark.parametrize(
    "page",
    [
        *("README.md", "CONTRIBUTING.md"),
        *(f"docs/{path.name}" for path in sorted((REPOSITORY / "docs").glob("*.md"))),
    ],
)
def test_names_of_the_package_in_texts_exist(page: str) -> None:
    """``oodbench.pretrained`` in a text is a module, or an attribute of one."""
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    invented = {"oodbench.detectors.halo", "oodbench.detectors.halo.Halo"}
    invented |= {"oodbench.tasks.centre", "oodbench.tasks.centre.Centre"}
    invented |= {"oodbench.networks.two_layers", "oodbench.networks.two_layers.TwoLayers"}
    groups = {f"oodbench.{kind.lower()}" for kind in vars(registry) if kind.isupper()}
    for name in set(re.findall(r"\boodbench(?:[.:][A-Za-z_]\w*)+", text)):
        name = name.replace(":", ".")
        if name not in invented | groups:
            try:
                pkgutil.resolve_name(name)
            except (ImportError, AttributeError):
                raise AssertionError(f"{page} names {name}, which does not exist") from None


def test_the_readme_is_short_and_leads_everywhere() -> None:
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (REPOSITORY / target).exists(), target


def test_every_page_is_in_the_site() -> None:
    site = (REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8")
    for page in (REPOSITORY / "docs").glob("*.md"):
        assert page.name in site, f"{page.name} is missing in the navigation of mkdocs.yml"


def test_ci_runs_the_test_command_of_the_readme() -> None:
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    found = re.search(r"<!-- test command -->\n```bash\n(.*?)\n```", text, re.DOTALL)
    assert found
    assert "pytest" in found.group(1)
    assert "test command" in (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8")


LINKED = frozenset({"keepachangelog.com"})
PUBLISHERS = frozenset({"arxiv.org", "openaccess.thecvf.com", "openreview.net"})
"""Sites that pages may link to, and those of papers: a new one is looked at before it is added."""


def test_pages_link_to_known_sites_alone() -> None:
    pages = [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")]
    texts = {page: page.read_text(encoding="utf-8") for page in pages}
    links = [
        (page.name, link.rstrip(".,;"))
        for page, text in texts.items()
        for link in re.findall(r"https?://[^\s)>\]\"'`]+", text)
        if "…" not in link  # the pattern of an address, no address
    ]
    assert links
    assert [link for link in links if not is_sound(link[1], LINKED)] == []


@pytest.mark.parametrize("registered", [DETECTORS, METHODS], ids=["detectors", "methods"])
def test_papers_are_at_known_publishers(registered: registry.Registry[Any]) -> None:
    papers = {name: getattr(registered.get(name), "paper", None) for name in registered.names()}
    addresses = {name: paper.url for name, paper in papers.items() if paper is not None}
    assert len(addresses) > 5
    assert {n: url for n, url in addresses.items() if not is_sound(url, PUBLISHERS)} == {}


def is_sound(address: str, sites: frozenset[str]) -> bool:
    """Whether an address is of https, at one of some sites, and without what a browser mends."""
    parts = urlsplit(address)
    is_plain = address.isascii() and not re.search(r"[\s\\<>]", address) and parts.port is None
    if parts.netloc == "arxiv.org" and not re.fullmatch(r"/abs/\d{4}\.\d{4,5}", parts.path):
        return False
    return parts.scheme == "https" and parts.netloc in sites and is_plain


@pytest.mark.parametrize(
    "address",
    [
        "http://arxiv.org/abs/2106.09022",
        "https://arxiv.org/abs/21.1",
        "https://arxiv.org.example/abs/2106.09022",
        "https://user@arxiv.org/abs/2106.09022",
        "arxiv.org/abs/2106.09022",
    ],
)
def test_what_is_no_sound_address(address: str) -> None:
    assert is_sound("https://arxiv.org/abs/2106.09022", PUBLISHERS)
    assert not is_sound(address, PUBLISHERS)
