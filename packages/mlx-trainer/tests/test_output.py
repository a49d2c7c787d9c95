"""Output that fails while work goes on, and files written through what is no regular file."""

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mlx_trainer import check_output
from mlx_trainer._atomic import write_atomic

WORK = """
import sys
from pathlib import Path
from mlx_trainer import lasting_output

with lasting_output():
    for number in range(100_000):
        print(number)
Path(sys.argv[1]).write_text("done")
"""


@pytest.mark.parametrize(
    "shell", ['"{python}" work.py done | head -1', '"{python}" work.py done >/dev/full']
)
def test_work_ends_though_its_output_cannot_be_written(tmp_path, shell):
    if ">" in shell and not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    (tmp_path / "work.py").write_text(WORK)
    command = f"set -o pipefail; {sys.executable} work.py done {shell}"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert (tmp_path / "done").read_text() == "done"
    reason = "No space left on device" if ">" in shell else "Broken pipe"
    assert done.stderr == f"standard output failed ({reason}); it is incomplete\n"
    assert done.returncode == 0


def write(text: str):
    return lambda path: path.write_text(text)


def test_a_link_stays_a_link_and_a_file_keeps_its_mode(tmp_path):
    target = tmp_path / "disk" / "submission.csv"
    target.parent.mkdir()
    target.write_text("old")
    target.chmod(0o600)
    link = tmp_path / "submission.csv"
    link.symlink_to(target)
    write_atomic(link, write("new"))
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert [each.name for each in target.parent.iterdir()] == ["submission.csv"]


def test_a_link_to_nothing_yet_is_followed(tmp_path):
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "target")
    write_atomic(link, write("new"))
    assert (tmp_path / "target").read_text() == "new"


def test_a_fifo_is_written_through(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    got = []
    reader = threading.Thread(target=lambda: got.append(fifo.read_text()))
    reader.start()
    check_output(fifo)
    write_atomic(fifo, write("through"))
    reader.join()
    assert got == ["through"]
    assert stat.S_ISFIFO(fifo.stat().st_mode)


def test_a_device_is_written_through():
    check_output("/dev/null")
    write_atomic("/dev/null", write("gone"))
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_named_with_the_path():
    with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        write_atomic("/dev/full", write("much"))


def test_what_cannot_be_written_is_found_before_the_work(tmp_path):
    with pytest.raises(IsADirectoryError, match="is a folder; name a file in it"):
        check_output(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"Not a directory|File exists"):
        check_output(tmp_path / "file" / "submission.csv")
    name = "x" * 300
    with pytest.raises(OSError, match=f"File name too long: '{tmp_path / name}'"):
        check_output(tmp_path / name)
    check_output(tmp_path / "new" / "submission.csv")
    assert list((tmp_path / "new").iterdir()) == []


def test_what_a_killed_write_left_beside_the_output_is_swept(tmp_path):
    left, alive = (
        tmp_path / ".submission.99999999.csv",
        tmp_path / f".submission.{os.getppid()}.csv",
    )
    other = tmp_path / ".submission.backup.csv"
    for path in (left, alive, other):
        path.touch()
    check_output(tmp_path / "submission.csv")
    assert sorted(tmp_path.iterdir()) == sorted([alive, other])


def test_a_link_to_itself_or_into_no_folder_is_found_before_the_work(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        check_output(tmp_path / "loop")
    (tmp_path / "link").symlink_to(tmp_path / "no" / "file")
    with pytest.raises(OSError, match=f"No such file or directory: '{tmp_path / 'link'}'"):
        check_output(tmp_path / "link")
    assert not (tmp_path / "no").exists()
