import json
import os

from cad.training.unfinished import unfinished_runs


def write_run(runs, name, method="cad", epochs=5, lines=2, state=True, age=0):
    folder = runs / name
    folder.mkdir(parents=True)
    (folder / "args.json").write_text(json.dumps({"settings": {"method": method, "epoch": epochs}}))
    (folder / "log.jsonl").write_text('{"epoch": 1}\n' * lines + '{"epo')
    if state:
        (folder / "resume.pth").touch()
        os.utime(folder / "resume.pth", (1e9 - age, 1e9 - age))
    return folder


def test_unfinished_runs_have_a_state_and_come_in_the_order_of_it(tmp_path):
    write_run(tmp_path, "b", age=20)
    write_run(tmp_path, "a", method="decoder", lines=0)
    write_run(tmp_path, "finished", state=False)
    found = unfinished_runs(tmp_path)
    assert [str(run) for run in found] == ["b (cad, 2 of 5 epochs)", "a (decoder, 0 of 5 epochs)"]


def test_folders_that_are_not_whole_runs_are_passed_over(tmp_path):
    (write_run(tmp_path, "a") / "args.json").write_text("{")
    (write_run(tmp_path, "b") / "log.jsonl").unlink()
    (write_run(tmp_path, "c") / "args.json").write_text("[]")
    assert unfinished_runs(tmp_path) == []
    assert unfinished_runs(tmp_path / "nowhere") == []
