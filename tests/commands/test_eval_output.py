"""What ``bacon eval`` prints and where it writes, by the real command; and what ``fit`` keeps to itself."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from bacon_pl.distilled_set import BatchLabels, DistilledSet, StoredLabels
from bacon_pl.distilled_set.stored_labels import Orders
from bacon_pl.interop import write_labels
from tests.commands.bad_files import honest
from tests.forked_cli import Done, ForkedCli
from tests.paths import DIGITS, evaluation_in

FIT = ("fit", "--config", DIGITS, "--trainer.max_steps", 2, "--model.network.width", 4, "--trainer.accelerator", "cpu")
EVAL = (
    *("eval", "--config", DIGITS, "--evaluation.epochs", 2, "--evaluation.network.width", 4),
    *("--evaluation.num_networks", 1, "--trainer.accelerator", "cpu"),
)
NOISE = re.compile(r"Epoch \d|GPU|TPU|HPU|Seed set|stopped:|Params|site-packages|[Ww]arning|Testing|━|No CUDA")


@pytest.fixture
def run(forked_cli: ForkedCli, digits, tmp_path: Path) -> Iterator[Path]:
    """The folder of a run, as it looks after one."""
    folder = tmp_path / "run"
    honest(digits).save(folder / "distilled.safetensors")
    (folder / "distilled.png").write_bytes(b"a picture")
    return folder


def evaluate(forked_cli: ForkedCli, where: Path, *args: object) -> Done:
    done = forked_cli.run(*EVAL, *args, cwd=where)
    assert done.returncode == 0, done.stderr
    return done


def refused(forked_cli: ForkedCli, where: Path, *args: object) -> str:
    """The one line that a command ends with; it has written nothing else."""
    done = forked_cli.run(*args, cwd=where)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    return line.partition(": error: ")[2]


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def test_two_networks_on_three_sets_are_six_lines_and_a_table(forked_cli: ForkedCli, run: Path) -> None:
    # With a progress bar and loggers, as a user would; the machine has CUDA's files but no GPU.
    done = forked_cli.run(*EVAL, "--distilled", "run", "--baselines", "random,whole", "--networks", "convnet,mlp",
                          cwd=run.parent, env={"CUDA_HOME": str(run)})  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert not NOISE.search(done.stdout), done.stdout
    lines = done.stdout.splitlines()
    out = evaluation_in(run).relative_to(run.parent)
    assert lines[:5] == [
        f"set     run: bacon, 1 image per class, checksum {DistilledSet.load(run).checksum}",
        "data    digits: 1,295 training images of 10 classes, 8×8 pixels, gray, 142 more held out for validation, 360 "
        "for testing",
        "runs    6 trainings of 1 network each: convnet, mlp on distilled, random real, all real",
        "recipe  2 epochs, batch 256, sgd, learning rate 0.01 (× 0.1 half-way), weight decay 0.0005, DSA, hard labels; "
        "seed 0",
        f"result  {out}/results.json",
    ]
    took = r"\((less than a second|\d+ \w+)\)"
    found: dict[str, list[str]] = {}
    for number, line in enumerate(lines[5:11], 1):
        said = re.fullmatch(rf"\[{number}/6\] (\w+) on (\w[\w ]+): (\d+\.\d) % {took}", line)
        assert said, line
        found.setdefault(said[1], []).append(said[3])
    assert lines[11:13] == ["", "Test accuracy in percent, of one network:"]
    assert lines[13].split("  ") == ["network", "distilled", "random real", "all real"]
    assert [line.split() for line in lines[14:16]] == [[name, *found[name]] for name in ("convnet", "mlp")]
    assert lines[16] == "storage: 650 bytes: pixels 640, labels 10"
    assert lines[17:] == [f"results: {out}/results.json", f"report: {out}/results.md"]


def test_several_networks_have_a_spread_everywhere(forked_cli: ForkedCli, run: Path) -> None:
    done = evaluate(forked_cli, run.parent, "--distilled", "run", "--evaluation.num_networks", 2)
    spread = r"\d+\.\d ± \d+\.\d"
    assert re.search(rf"\[1/1\] convnet on distilled: {spread} %", done.stdout)
    assert re.search(rf"standard deviation of 2 networks:\nnetwork +distilled\nconvnet +{spread}\n", done.stdout)
    numbers = json.loads((evaluation_in(run) / "results.json").read_text())
    assert numbers["accuracy"]["std"] >= 0
    assert re.search(rf"\| convnet \| {spread} \|", (evaluation_in(run) / "results.md").read_text())


def test_fit_says_little(forked_cli: ForkedCli, tmp_path: Path) -> None:
    done = forked_cli.run(*FIT, "--trainer.default_root_dir", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not NOISE.search(done.stdout + done.stderr), done.stdout + done.stderr


def test_the_model_table_is_there_for_who_asks(forked_cli: ForkedCli, run: Path) -> None:
    done = evaluate(forked_cli, run.parent, "--distilled", "run", "--trainer.enable_model_summary", "true")
    assert "Learners" in done.stdout + done.stderr


def test_the_results_say_which_set(forked_cli: ForkedCli, run: Path) -> None:
    evaluate(forked_cli, run.parent, "--distilled", "run/distilled.safetensors")
    numbers = json.loads((evaluation_in(run) / "results.json").read_text())
    distilled = DistilledSet.load(run)
    assert numbers["distilled"] == {
        "path": "run/distilled.safetensors", "checksum": distilled.checksum, "method": distilled.method,
        "seed": distilled.seed, "version": distilled.version, "commit": distilled.commit,
    }  # fmt: skip
    page = (evaluation_in(run) / "results.md").read_text()
    assert distilled.checksum in page and "run/distilled.safetensors" in page


def test_every_evaluation_has_a_folder_of_its_own(forked_cli: ForkedCli, run: Path) -> None:
    where, place = run.parent, run / "evaluations"
    evaluate(forked_cli, where, "--distilled", "run", "--figures", "true")
    (first,) = place.iterdir()
    assert re.fullmatch(r"distilled-convnet-2epochs-[0-9a-f]{8}", first.name)
    assert {path.name for path in first.iterdir()} == {"results.json", "results.md", "figures", "logs"}
    assert not list(where.glob("**/lightning_logs")) and not list(where.glob("**/.lock"))
    before = files(first)

    # The same once more, wherever from and however spelled, is refused and changes nothing.
    same = (*EVAL, "--distilled", run / "distilled.safetensors", "--figures", "true", "--trainer.precision", "32-true",
            "--data.eval_batch", 50, "--networks", "convnet")  # fmt: skip
    said = refused(forked_cli, run, *same)
    assert said == f"'{first}' holds results already: give another --out, or --overwrite true."
    assert files(first) == before and list(place.iterdir()) == [first]

    # Another one does not touch it: another recipe, seed, baseline, or set of the same folder.
    kept = (first / "results.json").read_bytes()
    evaluate(forked_cli, where, "--distilled", "run", "--evaluation.epochs", 1)
    evaluate(forked_cli, where, "--distilled", "run", "--seed_everything", 1)
    evaluate(forked_cli, where, "--distilled", "run", "--baselines", "[tiles]")
    distilled = DistilledSet.load(run)
    distilled.images += 1
    distilled.save(run / "other.safetensors")
    evaluate(forked_cli, where, "--distilled", "run/other.safetensors")
    assert len({path.name for path in place.iterdir()}) == 5
    assert (first / "results.json").read_bytes() == kept

    # Replacing it leaves nothing of the old one.
    evaluate(forked_cli, where, "--distilled", "run", "--figures", "true", "--overwrite", "true")
    assert {path.name for path in first.iterdir()} == {"results.json", "results.md", "figures", "logs"}


def test_an_explicit_folder_is_refused_when_it_is_taken(forked_cli: ForkedCli, run: Path) -> None:
    where = run.parent
    evaluate(forked_cli, where, "--distilled", "run", "--out", "mine", "--figures", "true")
    assert not (run / "evaluations").exists()
    before = files(where)
    other = ("--distilled", "run", "--out", "mine", "--evaluation.epochs", 1)
    assert "'mine' holds results already" in refused(forked_cli, where, *EVAL, *other)
    assert files(where) == before
    evaluate(forked_cli, where, *other, "--overwrite", "true")
    assert json.loads((where / "mine/results.json").read_text())["epochs"] == 1
    assert not list((where / "mine/figures").iterdir())  # those of the other evaluation


def test_a_set_outside_a_run_is_evaluated_below_runs(forked_cli: ForkedCli, digits, tmp_path: Path) -> None:
    honest(digits).save(tmp_path / "theirs" / "some set.safetensors")
    (tmp_path / "own.yaml").write_text("evaluation: {epochs: 1, num_networks: 1, network: {class_path: MLP}}\n")
    given = ("eval", "--config", "own.yaml", "--data.name", "digits", "--distilled", "theirs/some set.safetensors")
    done = forked_cli.run(*given, "--trainer.accelerator", "cpu", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert evaluation_in(tmp_path / "runs").name.startswith("some_set-mlp-1epochs-")
    done = forked_cli.run(*given, "--trainer.accelerator", "cpu", "--trainer.default_root_dir", "here", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert evaluation_in(tmp_path / "here").name == evaluation_in(tmp_path / "runs").name
    assert files(tmp_path / "theirs") == {"some set.safetensors"}


@pytest.mark.parametrize(
    "args",
    [
        ("--data.name", "mnist", "--data.root", "nowhere"),
        ("--data.name", "mnist", "--data.root", "nowhere", "--out", "a/b/c"),
        ("--baselines", "tiles,hoarding"),
        ("--baselines", "herding", "--networks", "convnt"),
        ("--evaluation.lr", "fast"),
        ("--evaluation.network.depth", 9, "--out", "a/b/c"),
    ],
)
def test_an_evaluation_that_is_refused_leaves_nothing(args, forked_cli: ForkedCli, run: Path) -> None:
    before = files(run.parent)
    done = forked_cli.run(*EVAL, "--distilled", "run", *args, cwd=run.parent)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert files(run.parent) == before


def test_one_file_serves_both_commands(forked_cli: ForkedCli, tmp_path: Path) -> None:
    (tmp_path / "both.yaml").write_text(
        "extends: digits/ipc1\nbaselines: tiles\nnetworks: mlp\nscores: false\nbound: false\nfigures: false\nout: out\n"
        "distilled: run\nfactor: null\nepoch_index: -1\nbound_settings: {samples: 5}\nckpt_path: null\n"
        "evaluation: {epochs: 1, num_networks: 1}\n"
        "trainer: {max_steps: 1, max_time: '00:00:10:00', default_root_dir: run, accelerator: cpu, logger: false}\n"
        "model: {network: {class_path: ConvNet, init_args: {width: 4}}}\nvalidation: {every_n_steps: 0}\n"
    )
    for command in ("fit", "eval"):
        done = forked_cli.run(command, "--config", "both.yaml", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert [r["training_set"] for r in json.loads((tmp_path / "out/results.json").read_text())["runs"]] == [
        "distilled", "tiles",
    ]  # fmt: skip
    assert not {"baselines", "networks", "out", "distilled"} & DistilledSet.load(tmp_path / "run").config.keys()


@pytest.mark.parametrize("given", ["tiles,random", "[tiles, random]", "tiles, random,", '["tiles", "random"]'])
def test_baselines_are_given_as_networks_are(given, forked_cli: ForkedCli, run: Path) -> None:
    done = evaluate(forked_cli, run.parent, "--distilled", "run", "--baselines", given, "--evaluation.epochs", 1)
    assert "convnet on distilled, tiles, random real\n" in done.stdout


@pytest.mark.parametrize("command", ["fit", "eval"])
def test_the_other_commands_options_are_refused_on_the_command_line(command, forked_cli, tmp_path: Path) -> None:
    needed = ["--distilled", "run"] if command == "eval" else []
    for option in {
        "fit": ("--baselines=tiles", "--out", "--networks", "--evaluation.epochs", "--bound", "--distilled"),
        "eval": ("--model.ipc", "--model", "--ckpt_path", "--validation.epochs", "--checkpoint.keep=1"),
    }[command]:
        said = refused(forked_cli, tmp_path, command, "--config", "digits/ipc1", *needed, option, "1")
        name, other = option.partition("=")[0], {"fit": "eval", "eval": "fit"}[command]
        assert said == (
            f"unknown option {name}: bacon {command} does not take it, but bacon {other} does; `--help` lists all."
        )


def test_hard_and_soft_labels_stand_side_by_side(forked_cli: ForkedCli, run: Path) -> None:
    done = evaluate(forked_cli, run.parent, "--distilled", "run", "--baselines", "random", "--labels", "hard,soft",
                    "--evaluation.soft_labels.teacher", "{epochs: 1}", "--out", "out")  # fmt: skip
    lines = done.stdout.splitlines()
    assert any(re.match(r"labels +soft labels of a teacher; hard ones beside them$", line) for line in lines)
    teacher = [line for line in lines if re.match(r"teacher: [\d.]+ % on the test images, [\d.]+ kB$", line)]
    assert len(teacher) == 2  # before the trainings and below the table
    assert len([line for line in lines if re.match(r"\[\d/4\] ", line)]) == 4
    numbers = json.loads((run.parent / "out/results.json").read_text())
    assert [(r["training_set"], r["variant"]) for r in numbers["runs"]] == [
        ("distilled", "given"), ("distilled", "hard"), ("random", "given"), ("random", "hard")
    ]  # fmt: skip
    (told,) = numbers["teachers"]
    assert numbers["storage"]["teacher"] == told["bytes"] > 0
    assert numbers["labels"]["kind"] == "soft"
    page = (run.parent / "out/results.md").read_text()
    assert "| network | distilled, soft labels | distilled, hard labels | random real, soft labels |" in page


def test_what_is_shared_is_reported_alike_by_who_makes_it_and_who_finds_it(forked_cli: ForkedCli, run: Path) -> None:
    scored = ("--distilled", "run", "--scores", "true", "--shared", "kept", "--evaluation.soft_labels.steps", 1)
    said = [evaluate(forked_cli, run.parent, *scored, "--out", out).stdout for out in ("first", "second")]
    assert [text.count(", kept in kept/") for text in said] == [0, 3]
    first, second = (json.loads((run.parent / out / "results.json").read_text()) for out in ("first", "second"))
    assert all(first[part] == second[part] for part in ("runs", "baselines", "scores", "accuracy"))
    # What a table reads is there, too: the set's accuracy with hard labels, which only the scores need here.
    assert [(r["training_set"], r["variant"]) for r in second["runs"]] == [
        ("distilled", "given"), ("distilled", "hard"), ("distilled", "plain")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--labels", "hard,sofd"), "--labels must be one of hard, soft, or several, got sofd (did you mean soft?)."),
        (("--evaluation.lr", "stored"), "the set has no learned step size"),
        (("--evaluation.soft_labels", "{source: stored}"), "the set has no soft labels of its own"),
        (("--score_weights.w", 2), "--score_weights.w must be in [0, 1], got 2"),
        (("--evaluation.test_resize", 4), "--evaluation.test_resize must be from 8, the shorter side of the images"),
        (
            ("--trainer.precision", "bf16-true"),
            "--trainer.precision must be one of 32-true, bf16-mixed in an",
        ),
        (("--trainer.precision", "64-true"), "--trainer.precision must be one of 32-true, bf16-mixed in an"),
    ],
)
def test_what_cannot_be_had_is_refused(
    forked_cli: ForkedCli, run: Path, options: tuple[object, ...], said: str
) -> None:
    assert said in refused(forked_cli, run.parent, *EVAL, "--distilled", "run", "--out", "out", *options)
    assert not (run.parent / "out/results.json").exists()


def test_a_folder_of_pictures_with_labels_of_every_batch(forked_cli: ForkedCli, digits, tmp_path: Path) -> None:
    """A set and its labels in the published layouts are evaluated by one command."""
    distilled = honest(digits)
    distilled.export_png(tmp_path / "pictures")
    count = len(distilled.images)

    def batch(epoch: int, number: int) -> BatchLabels:
        crops = torch.tensor([0.0, 0.0, 1.0, 1.0]).repeat(count, 1)
        own = distilled.labels[Orders(count)[epoch]]
        logits = torch.randn(count, 10, generator=torch.Generator().manual_seed(epoch)) + 4 * torch.eye(10)[own]
        flipped, partner = torch.zeros(count, dtype=torch.bool), torch.arange(count).flip(0)
        return BatchLabels(torch.empty(0), crops, flipped, partner, 0.75, (0, 0, 4, 4), logits.half())

    write_labels(StoredLabels(count, 10, 2, count, batch), tmp_path / "labels")
    taken = ("--evaluation.soft_labels", "{source: folder, folder: labels, temperature: 20, loss: kl_unscaled}")
    words = ("--distilled", "pictures", *taken, "--evaluation.cut_tiles", "false", "--out", "out")
    done = evaluate(forked_cli, tmp_path, *words)
    assert "labels stored for every batch (kl_unscaled, temperature 20)" in done.stdout
    numbers = json.loads((tmp_path / "out/results.json").read_text())
    recipe = numbers["runs"][0]["recipe"]
    assert (recipe["label_source"], recipe["label_folder"]) == ("folder", "labels")
    assert numbers["storage"]["labels"] == 2 * (count * (20 + 16 + 1 + 8) + 40) and not numbers["teachers"]
    said = refused(forked_cli, tmp_path, *EVAL, *words, "--overwrite", "true", "--evaluation.epochs", 3)
    assert said == "labels are stored for 2 epochs, but --evaluation.epochs is 3: give at most 2."
    assert json.loads((tmp_path / "out/results.json").read_text()) == numbers
    other = ("--evaluation.soft_labels.folder_seed", 1)
    assert "they belong to another set, or the images were in another order" in refused(
        forked_cli, tmp_path, *EVAL, *words, *other, "--out", "other"
    )
    assert not (tmp_path / "other").exists()
