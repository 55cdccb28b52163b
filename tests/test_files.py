"What is written is whole, what is read is right, what goes wrong is named; commands and videos."
import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gwm_nb.files import locked, output_folder, whole_file, write_whole
from gwm_nb.show import VideoWriter, overlay
from inputs import refused, write_video


def everything(folder): return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def test_a_full_disk_says_where_and_leaves_the_old_file(tmp_path, monkeypatch):
    "And an error of another file keeps its own name."
    target = write_whole(tmp_path / "a.bin", b"old")

    def full(path, data):
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    def other():
        with whole_file(target):
            open(tmp_path / "other")
    with monkeypatch.context() as m, pytest.raises(OSError) as e:
        m.setattr(Path, "write_bytes", full)
        write_whole(target, b"data")
    assert e.value.errno == errno.ENOSPC and e.value.filename == str(target)
    for name, call in (("other", other),
                       ("no/a.bin", lambda: write_whole(tmp_path / "no/a.bin", b""))):
        refused(call, says=[f"'{tmp_path / name}'"], error=FileNotFoundError)
    for error in (OSError("no number"), KeyboardInterrupt()):
        with pytest.raises(type(error)), whole_file(target) as part:
            assert part.parent == tmp_path and part.suffix == ".bin" and part.name.startswith(".")
            part.write_bytes(b"ne")
            raise error
    assert target.read_bytes() == b"old" and everything(tmp_path) == ["a.bin"]


def test_who_waits_gets_a_lock_of_its_own(tmp_path):
    "The file of a lock is removed while others wait for it; never do two hold it at once."
    code = """if True:
        import sys
        from pathlib import Path
        from gwm_nb.files import locked
        n = Path(sys.argv[1])
        for _ in range(20):
            with locked(n): n.write_text(str(int(n.read_text()) + 1))"""
    (tmp_path / "n").write_text("0")
    argv = [sys.executable, "-c", code, str(tmp_path / "n")]
    processes = [subprocess.Popen(argv) for _ in range(2)]
    assert [p.wait() for p in processes] == [0, 0]
    assert (tmp_path / "n").read_text() == "40" and everything(tmp_path) == ["n"]
    with pytest.raises(OSError), locked("/proc/gwm"):
        pass


def test_output_folder_leaves_nothing_after_an_error(tmp_path):
    for error, left in ((RuntimeError, []), (KeyboardInterrupt, ["a"])):
        with pytest.raises(error), output_folder(tmp_path / "a/b") as out:
            (out / "x").write_text("half")
            raise error
        assert everything(tmp_path) == left
        (tmp_path / "a").mkdir(exist_ok=True)
    (tmp_path / "x").write_text("")
    with pytest.raises(ValueError, match="x .*not a folder"), output_folder(tmp_path / "x"):
        pass


def test_output_folder_replaces_its_own_results_and_no_other_file(tmp_path):
    def write(*names):
        with output_folder(tmp_path) as out:
            for n in names:
                (out / n).write_text("mine")
            files = [*names, "result.json", "../outside"]
            (out / "result.json").write_text(json.dumps(dict(files=files)))
    outside = tmp_path.parent / "outside"
    outside.write_text("")
    write("0.png", "1.png")
    (tmp_path / "notes.txt").write_text("yours")
    write("0.png")
    refused(write, "1.png", "notes.txt", says="notes.txt")
    assert everything(tmp_path) == ["0.png", "notes.txt", "result.json"] and outside.exists()
    assert (tmp_path / "notes.txt").read_text() == "yours"
    for torn in ("{", "[]", '{"files": 3}', '{"files": [3]}', '{"other": []}'):
        (tmp_path / "result.json").write_text(torn)
        with output_folder(tmp_path) as out:
            (out / "x").write_text("")
        assert everything(tmp_path) == ["0.png", "notes.txt", "result.json", "x"]
        (tmp_path / "x").unlink()


def test_a_killed_run_is_tidied_up_by_the_next_and_a_living_one_is_left_alone(tmp_path):
    code = """if True:
        import sys, time
        from gwm_nb.files import output_folder
        with output_folder(sys.argv[1]) as out:
            (out / 'half').write_text('')
            print(flush=True)
            time.sleep(60)"""
    process = subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE)
    process.stdout.readline()
    left = everything(tmp_path)
    assert len(left) == 3 and left[1].startswith(".unfinished-")
    try:
        with pytest.raises(ValueError, match="another program"), output_folder(tmp_path):
            pass
        assert everything(tmp_path) == left
    finally:
        process.kill()
        process.wait()
    with output_folder(tmp_path) as out:
        (out / "x").write_text("")
    assert everything(tmp_path) == ["x"]


def test_a_video_that_fails_leaves_the_old_one(tmp_path):
    path = write_video(tmp_path / "c.mp4")
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"\(40, 32\).*\(32, 32\)"), VideoWriter(path) as out:
        out.add(torch.rand(3, 32, 32))
        out.add(torch.rand(3, 40, 32))
    assert everything(tmp_path) == ["c.mp4"] and path.read_bytes() == before


@pytest.mark.parametrize("size", [(40, 60), (480, 700)])
def test_the_outline_runs_around_the_object(size):
    image, mask = torch.rand(3, *size), torch.zeros(size, dtype=torch.bool)
    mask[: size[0] // 2, size[1] // 4 : size[1] // 2] = True
    width = max(1, min(size) // 160)
    grown = torch.nn.functional.max_pool2d(mask[None].float(), 2 * width + 1, 1, width)[0] > 0
    result = overlay(image, mask, (0., 1., 0.))
    assert torch.equal(result[:, mask], image[:, mask])
    assert (result[:, grown & ~mask] == torch.tensor([[0.], [1.], [0.]])).all()
    grey = image.mean(0)[~grown].expand(3, -1) * .45
    torch.testing.assert_close(result[:, ~grown], grey)
