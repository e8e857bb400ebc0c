"""Every command in the README and on the pages is one that works, or a comment before it says why it is not run.

``bacon fit`` and ``bacon eval`` are resolved to their settings, which builds their objects and refuses what is wrong,
but nothing is trained; ``bacon table`` plans its runs and leaves them out; other commands of ours are parsed or run.
``DIR`` needs no data for that. The newcomer's commands, of the README and of *Start here*, are run in earnest.
"""

import re
import shlex
from configparser import ConfigParser

import pytest

from bacon_pl.cli import COMMANDS, main
from bacon_pl.commands.settings import settings_of
from bacon_pl.table import Table, command
from bacon_pl.table.sources import Source
from benchmarks import gpu as proof
from benchmarks import run as benchmark
from tests.docs.pages import PAGES, blocks, name, prose
from tests.paths import ROOT
from tests.real_formats import write_dataset

pytestmark = pytest.mark.filterwarnings("ignore:LightningCLI's args parameter")

LANGUAGES = {"sh", "python", "yaml", "text", "bibtex"}
SHOWS = {"--help", "--trainer.help", "--print_config"}  # what only prints
SHRUNK = {
    "fit": "--trainer.max_steps 1 --model.network.width 4 --data.batch_real 4 --data.pool_batch 8 "
    "--trainer.accelerator cpu",
    "eval": "--evaluation.network.width 4 --evaluation.epochs 1 --evaluation.num_networks 1 --trainer.accelerator cpu",
}


def commands(text):
    """The commands of a shell block, as lists of words."""
    for line in text.replace("\\\n", " ").splitlines():
        for part in line.split("&&"):
            if words := shlex.split(part, comments=True):
                yield words


def inline(page):
    """Commands within sentences; an ellipsis in them stands for options that do not matter there."""
    for text in re.findall(r"`(bacon \w[^`]*)`", prose(page)):
        words = [word for word in shlex.split(text) if word != "…"]
        if len(words) > 2:
            yield words


def planned(args, monkeypatch):
    """Do all that ``bacon table`` does but run; all cells' settings are resolved like those of the first."""
    known = {}

    def settings(which, words):
        return known.setdefault(which, known.get(which) or settings_of(which, words))

    monkeypatch.setattr(command, "locate", lambda dataset, root, *_: Source(("--data.root", str(root))))
    monkeypatch.setattr(command, "run_all", lambda *_: None)
    Table(args, settings=settings).run()


def check(words, monkeypatch):
    """Fail if a command is none, or is refused."""
    match words:
        case ["bacon", "fit" | "eval" | "table" as which, *args] if not SHOWS & set(args):
            if which == "table":
                planned(args, monkeypatch)
            else:
                settings_of(which, args)
        case ["bacon", "fit" | "eval" | "table", *_]:
            with pytest.raises(SystemExit) as end:
                main(words[1:])
            assert not end.value.code
        case ["bacon", "configs" | "--help" | "--version", *_]:
            main(words[1:])
        case ["bacon", "cache", *args]:
            monkeypatch.setenv("BACON_CACHE", "cache")  # an empty one, so that nothing of the user's is cleared
            COMMANDS["cache"]()(args).run()
        case ["bacon", other, *args]:
            COMMANDS[other]()(args)
        case ["torchrun" | "srun", *rest]:
            start = rest.index("bacon_pl") if "bacon_pl" in rest else rest.index("bacon")
            check(["bacon", *rest[start + 1 :]], monkeypatch)
        case ["make", "bench", arguments]:
            benchmark.parse(shlex.split(arguments.removeprefix("ARGS=")))
        case ["make", "gpu", *arguments]:
            given = dict(word.split("=", 1) for word in arguments)
            assert given.keys() <= {"PYTHON", "ROOT", "ARGS"}
            proof.parse(shlex.split(given.get("ARGS", "")))
        case ["make", target]:
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        case ["pip", "install", "."] | ["tensorboard", "--logdir", _] | [".ci/run"]:
            pass
        case ["pip", "install", what] if what.startswith(".["):
            config = ConfigParser(interpolation=None)
            config.read(ROOT / "setup.cfg")
            assert set(what[2:-1].split(",")) <= set(config["options.extras_require"])
        case ["python", "-m", "pytest", *_, path]:
            assert (ROOT / path).exists()
        case _:
            pytest.fail(f"no test knows what to do with: {shlex.join(words)}")


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_block_says_what_it_is(page):
    found = blocks(page)
    assert {block.language for block in found} <= LANGUAGES
    assert "```" not in prose(page)
    shown = [line for block in found if block.language == "text" for line in block.text.splitlines()]
    assert not [line for line in shown if re.match(r"(bacon [^:]*|make|pip) ", line)], "commands belong into sh"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_command_works_or_says_why_it_is_not_run(page, standing_there, monkeypatch):
    shell = [block for block in blocks(page) if block.language == "sh" and not block.not_run]
    for words in [*(words for block in shell for words in commands(block.text)), *inline(page)]:
        check(words, monkeypatch)


@pytest.mark.parametrize("page", ["README.md", "docs/start.md"])
def test_the_first_commands_run(page, folder, tmp_path, forked_cli, monkeypatch):
    write_dataset("mnist", tmp_path / "DIR", monkeypatch, train_per_class=12)
    (tmp_path / "mine.py").write_text((folder / "mine.py").read_text())
    asked = [words for block in blocks(ROOT / page) if block.language == "sh" for words in commands(block.text)]
    ours = [words[1:] for words in asked if words[0] == "bacon" and "mnist/ipc10" in words]
    assert {words[0] for words in ours} == {"fit", "eval"}
    for which, *args in ours:
        more = ["--overwrite", "true"] if "mine.CosineMatching" in args else []
        done = forked_cli.run(which, *args, *SHRUNK[which].split(), *more, cwd=tmp_path, timeout=600)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs/mnist-ipc10/distilled.safetensors").is_file()
