"""The files around the package agree with each other: versions, lowest dependencies, hooks, the workflow, citation."""

import configparser
import re
from datetime import date

import pytest
import yaml

from tests.paths import ROOT


@pytest.fixture(scope="module")
def setup():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    return config


def read_yaml(path):
    return yaml.safe_load((ROOT / path).read_text())


def test_the_lowest_versions_are_those_of_setup_cfg(setup):
    needed = setup["options"]["install_requires"] + setup["options.extras_require"]["test"]
    lowest = {re.sub(r"\[.*\]", "", line).replace(" >= ", "==") for line in needed.splitlines() if line}
    pinned = (ROOT / ".ci/lowest.txt").read_text().splitlines()
    assert {line for line in pinned if not line.startswith("#")} == lowest


def test_the_workflow_runs_every_python_that_is_promised(setup):
    promised = re.findall(r"Python :: (3\.\d+)", setup["metadata"]["classifiers"])
    jobs = read_yaml(".github/workflows/ci.yml")["jobs"]
    assert jobs["run"]["strategy"]["matrix"]["python"] == promised
    assert jobs["run"]["steps"][-1]["run"] == ".ci/run"
    lowest = jobs["lowest"]["steps"]
    assert any(".ci/lowest.txt" in step.get("run", "") for step in lowest)
    assert setup["options"]["python_requires"] == f">={promised[0]}"
    assert promised[0] in [step["with"].get("python-version") for step in lowest if "with" in step]


def test_ci_runs_the_linters_the_documentation_and_the_tests():
    lines = (ROOT / ".ci/run").read_text().splitlines()
    assert [line for line in lines if line.startswith("make ")] == ["make lint", "make docs", "make test"]
    assert "mkdocs build --strict" in (ROOT / "Makefile").read_text()


def test_the_hooks_fetch_nothing():
    (local,) = read_yaml(".pre-commit-config.yaml")["repos"]
    assert local["repo"] == "local"
    assert {hook["language"] for hook in local["hooks"]} == {"system"}
    assert [hook["entry"].split("/")[2].split()[0] for hook in local["hooks"]] == ["ruff", "ruff", "mypy"]


def test_the_citation_is_of_this_version(setup):
    citation = read_yaml("CITATION.cff")
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(citation)
    assert citation["version"] == setup["metadata"]["version"]
    assert citation["license"] == setup["metadata"]["license"]
    arxiv = [identifier["value"] for work in citation["references"] for identifier in work["identifiers"]]
    assert arxiv == ["arXiv:2406.01112", "arXiv:2307.09742", "arXiv:2110.04181"]
    page = (ROOT / "docs/citation.md").read_text()
    for work in citation["references"]:
        assert {"title", "authors", "type", "year"} <= set(work)
        assert 2020 < work["year"] <= date.today().year
        assert all(author["family-names"] in page for author in work["authors"])
