"""The benchmark on held-out training images: what is set has its effect, and the line says what was measured."""

import json

from benchmarks import held_out


def measure(monkeypatch, tmp_path, *settings):
    words = ["--method", "best", "--dataset", "digits", "--ipc", "1", "--iterations", "1", "--out", str(tmp_path / "o")]
    quick = ["evaluation.epochs=20", "data.batch_real=4", *settings]
    monkeypatch.setattr("sys.argv", ["held_out", *words, *(part for one in quick for part in ("--set", one))])
    held_out.main()
    return json.loads((tmp_path / "o").read_text().splitlines()[-1])


def test_a_line_says_what_was_measured(monkeypatch, tmp_path):
    line = measure(monkeypatch, tmp_path, "model.lr=0.3")
    assert line["settings"] == {"evaluation.epochs": 20, "data.batch_real": 4, "model.lr": 0.3}
    assert line["method"] == "best" and len(line["accuracies"]) == 3
    assert line["accuracies"] != measure(monkeypatch, tmp_path, "model.lr=100.0")["accuracies"]
