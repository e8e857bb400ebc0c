"""The commit that a distilled set names."""

import subprocess
from pathlib import Path

import pytest

from bacon_pl.distilled_set import git_commit, provenance


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", str(folder), *identity, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_git_commit_of_package_or_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):  # set where a git hook runs the tests
        monkeypatch.delenv(variable, raising=False)
    checkout, elsewhere, bare = tmp_path / "checkout", tmp_path / "elsewhere", tmp_path / "bare"
    for folder in (checkout, elsewhere):
        git(tmp_path, "init", "-q", str(folder))
        git(folder, "commit", "-q", "--allow-empty", "-m", folder.name)
    bare.mkdir()
    for package in (checkout / "bacon_pl", elsewhere / "site-packages" / "bacon_pl", bare / "bacon_pl"):
        package.mkdir(parents=True)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))

    def commit_seen(package: Path, working_directory: Path) -> str | None:
        monkeypatch.setattr(provenance, "__file__", str(package / "distilled_set" / "provenance.py"))
        monkeypatch.chdir(working_directory)
        return git_commit()

    head = git(elsewhere, "rev-parse", "HEAD")
    assert commit_seen(checkout / "bacon_pl", elsewhere) == git(checkout, "rev-parse", "HEAD") != head
    assert commit_seen(bare / "bacon_pl", elsewhere) == head
    # Installed inside somebody's repository: that repository's commit says nothing about the package.
    assert commit_seen(elsewhere / "site-packages" / "bacon_pl", bare) is None
    monkeypatch.setenv("PATH", "")
    assert commit_seen(checkout / "bacon_pl", elsewhere) is None
