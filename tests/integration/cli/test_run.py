"""``run``: docker's meanings, through the daemon."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.commands.pack import Reference, pack_image

from ...harness.cli import SECONDS, Cli
from ...harness.daemon import Daemon
from ...harness.guests import guest


@pytest.fixture(autouse=True)
def nothing_left(cli: Cli) -> Iterator[None]:
    """Remove what a test leaves."""
    yield
    for row in cli.rows("ps", "-a"):
        if row["maker"] == "run":
            cli.out("rm", "-f", row["id"])


def shown(cli: Cli, name: str) -> dict:
    return json.loads(cli.out("inspect", name))


def until_there(cli: Cli, name: str, state: str = "running") -> None:
    deadline = time.monotonic() + SECONDS
    while not any(row["id"] == name and row["state"] == state for row in cli.rows("ps", "-a")):
        assert time.monotonic() < deadline, f"{name} is not {state} within {SECONDS} s"
        time.sleep(0.02)


def until_gone(cli: Cli, name: str) -> None:
    deadline = time.monotonic() + SECONDS
    while any(row["id"] == name for row in cli.rows("pods")):
        assert time.monotonic() < deadline, f"{name} is still there after {SECONDS} s"
        time.sleep(0.02)


def test_a_module_runs_with_arguments_and_environment(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "env").write_text("# a comment\nONE=1\nTWO=2\n")
    done = cli.run("run", "--rm", "--env-file", tmp_path / "env", "-e", "TWO=3", guest("args"), "a", "-v", "b c")
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said == ["arg /args.wasm", "arg a", "arg -v", "arg b c", "env ONE=1", "env TWO=3"]


def test_streams_are_apart_and_the_status_is_the_guests(cli: Cli) -> None:
    done = cli.run("run", "--rm", guest("exit"), "7")
    assert (done.returncode, done.stdout, done.stderr) == (7, "", "ending with 7\n")
    trapped = cli.run("run", "--rm", guest("trap"))
    assert trapped.returncode == 134
    assert "wasm trap" in trapped.stderr


def test_input_is_passed_on_only_where_asked_for(cli: Cli) -> None:
    assert cli.out("run", "--rm", "-i", guest("cat"), input="one\ntwo\n") == "one\ntwo\n"
    assert cli.out("run", "--rm", guest("cat"), input="unread\n") == ""


def test_much_output_is_whole(cli: Cli) -> None:
    lines = cli.out("run", "--rm", guest("flood"), "20000").splitlines()
    assert len(lines) == 20000
    assert lines[-1].startswith("line 20000 of 20000")


def test_a_reader_that_goes_ends_the_guest(cli: Cli) -> None:
    process = cli.start("run", "--rm", guest("flood"), "10000000")
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(SECONDS) == 128 + signal.SIGPIPE


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_are_passed_on(cli: Cli, number: int) -> None:
    process = cli.start("run", "--rm", guest("sleep"), "1000")
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.send_signal(number)
    assert process.wait(SECONDS) == 128 + number


def test_a_folder_and_a_file_are_shared(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "file").write_text("from the host")
    out = cli.out(
        "run", "--rm", "-v", f"{tmp_path}/data:/data", "-v", f"{tmp_path}/file:/etc/motd:ro", guest("files"),
        "w /data/new text", "r /etc/motd", "w /etc/motd other",
    )  # fmt: skip
    assert out.splitlines()[:2] == ["/data/new: written", "/etc/motd: from the host"]
    assert (tmp_path / "data/new").read_text() == "text"
    assert (tmp_path / "file").read_text() == "from the host"


def test_a_read_only_folder_is_not_written(cli: Cli, tmp_path: Path) -> None:
    out = cli.out("run", "--rm", "-v", f"{tmp_path}:/data:ro", guest("files"), "w /data/new text")
    assert "written" not in out
    assert not list(tmp_path.iterdir())


def test_user_folder_and_limits_reach_the_spec(cli: Cli) -> None:
    name = "limited"
    options = ["-u", "1000:2000", "-w", "/tmp", "--memory", "64M", "--cpus", "0.5", "--network", "host"]
    cli.out("run", "-d", "--name", name, *options, guest("sleep"), "1000")
    spec = shown(cli, name)["spec"]
    assert spec["process"]["user"] == {"uid": 1000, "gid": 2000}
    assert spec["process"]["cwd"] == "/tmp"
    assert spec["linux"]["resources"] == {
        "memory": {"limit": 64 << 20},
        "cpu": {"quota": 50_000, "period": 100_000},
    }
    assert spec["linux"]["namespaces"] == []
    status = Path(f"/proc/{shown(cli, name)['pid']}/status").read_text()
    assert "Uid:\t1000\t1000" in status


def test_a_root_for_itself_is_small_and_gone_afterwards(cli: Cli, daemon: Daemon) -> None:
    before = daemon.mounts()
    assert "/new: written" in cli.out("run", "--rm", guest("files"), "w /new text")
    assert daemon.mounts() == before


def test_a_folder_is_a_root_file_system(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "app.wasm").write_bytes(guest("files").read_bytes())
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/motd").write_text("hello")
    assert cli.out("run", "--rm", tmp_path, "/app.wasm", "r /etc/motd") == "/etc/motd: hello\n"
    (tmp_path / "other.wasm").write_bytes(guest("hello").read_bytes())
    both = cli.run("run", "--rm", tmp_path)
    assert both.returncode == 127
    assert "2 modules lie in it" in both.stderr


def test_an_image_is_unpacked_and_run(cli: Cli, daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site/index").write_text("a page")
    (tmp_path / "site/link").symlink_to("index")
    from supervisor.commands.pack import Folder

    image = tmp_path / "image.tar"
    folder = Folder.parse(f"{tmp_path}/site:/srv")
    pack_image(guest("files"), Reference.parse("site:1"), image, ["r /srv/index"], ["A=b"], [folder])
    assert cli.out("run", "--rm", image, "r /srv/link") == "/srv/index: a page\n/srv/link: a page\n"
    assert not list((daemon.dir / "bundles/default").glob("*"))


def test_failures_to_run_have_dockers_statuses(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "bad.wasm").write_bytes(b"\0asm\1\0\0\0garbage")
    (tmp_path / "text").write_text("no module")
    os.mkfifo(tmp_path / "fifo")
    for path, status, text in (
        (tmp_path / "bad.wasm", 126, "bad.wasm"),
        (tmp_path / "text", 126, "not a WebAssembly module"),
        (tmp_path / "nothing.wasm", 127, "No such file"),
        (tmp_path / "fifo", 126, "neither a file nor a folder"),
        (Path("/dev/zero"), 126, "neither a file nor a folder"),
    ):
        done = cli.run("run", "--rm", path)
        assert (done.returncode, done.stdout) == (status, "")
        assert text in done.stderr
        assert len(done.stderr.splitlines()) == 1
    for options in (("--memory", "much"), ("--cpus", "nan"), ("--cpus", "inf"), ("-w", "relative"), ("-e", "=1")):
        assert cli.run("run", *options, guest("hello")).returncode == 2
    assert [row for row in cli.rows("pods") if row["maker"] == "run"] == []


def test_a_name_is_taken_once(cli: Cli) -> None:
    assert cli.out("run", "-d", "--name", "taken", guest("sleep"), "1000") == "taken\n"
    again = cli.run("run", "--name", "taken", guest("hello"))
    assert again.returncode == 125
    assert "remove it (rm taken) or choose another" in again.stderr
    assert shown(cli, "taken")["state"] == "running"


def test_detached_goes_on_and_is_listed(cli: Cli) -> None:
    name = cli.out("run", "-d", guest("sleep"), "1000").strip()
    row = next(row for row in cli.rows("ps") if row["id"] == name)
    assert (row["maker"], row["state"], row["image"]) == ("run", "running", str(guest("sleep")))


def test_without_rm_what_ended_stays_until_it_is_removed(cli: Cli) -> None:
    assert cli.run("run", "--name", "kept", guest("exit"), "3").returncode == 3
    assert shown(cli, "kept")["exit_status"] == 3
    assert cli.out("rm", "kept") == "kept\n"
    until_gone(cli, "kept")


def test_rm_outlives_its_client(cli: Cli, daemon: Daemon, tmp_path: Path) -> None:
    folder = tmp_path / "tmp"
    folder.mkdir()
    process = Cli(daemon, TMPDIR=str(folder)).start("run", "-i", "--rm", "--name", "orphan", guest("sleep"), "1000")
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.kill()
    process.wait()
    assert list(folder.iterdir()) == []
    assert shown(cli, "orphan")["state"] == "running"
    cli.out("kill", "orphan")
    until_gone(cli, "orphan")


def test_rm_outlives_the_daemon() -> None:
    with Daemon() as daemon:
        cli = Cli(daemon)
        cli.out("run", "-d", "--rm", "--name", "short", guest("sleep"), "1000")
        pid = shown(cli, "short")["pid"]
        daemon.kill()
        os.kill(pid, signal.SIGKILL)
        daemon.start()
        until_gone(cli, "short")


def test_a_terminal_echoes_edits_and_resizes(cli: Cli) -> None:
    with cli.in_terminal("run", "-it", "--rm", guest("cat")) as terminal:
        terminal.type("typed\n")
        terminal.expect("typed\r\ntyped\r\n")
        terminal.type("\x04")
        assert terminal.wait() == 0


def test_the_guests_terminal_is_as_large_as_the_callers(cli: Cli) -> None:
    def size() -> tuple[int, int]:
        with open(f"/proc/{shown(cli, 'sized')['pid']}/fd/0") as tty:
            return tuple(os.get_terminal_size(tty.fileno()))  # type: ignore[return-value]

    with cli.in_terminal(
        "run", "-t", "--rm", "--name", "sized", guest("sleep"), "1000", width=97, height=31
    ) as terminal:
        terminal.expect("up")
        deadline = time.monotonic() + SECONDS
        while size() != (97, 31):
            assert time.monotonic() < deadline
        terminal.resize(61, 17)
        while size() != (61, 17):
            assert time.monotonic() < deadline
        cli.out("kill", "sized")
        assert terminal.wait() == 137


def test_a_start_that_waits_says_so_on_a_terminal() -> None:
    """--aot always: the start waits for the compile of a large module."""
    with Daemon("--aot", "always") as daemon:
        cli = Cli(daemon)
        module = daemon.folder / "large.wasm"
        module.write_bytes(large_module())
        with cli.in_terminal("run", "--rm", module) as terminal:
            terminal.expect(f"starting {module}")
            assert terminal.wait() == 0
        assert cli.run("run", "--rm", module).stderr == ""


def large_module() -> bytes:
    """A module whose compile takes a few seconds: many functions of which none is run."""

    def number(value: int) -> bytes:
        out = bytearray()
        while value > 0x7F:
            out.append(value & 0x7F | 0x80)
            value >>= 7
        return bytes([*out, value])

    def section(kind: int, content: bytes) -> bytes:
        return bytes([kind]) + number(len(content)) + content

    count = 6000
    body = b"\x01\x01\x7f" + b"\x20\x00\x41\x03\x6c\x41\x07\x6a\x21\x00" * 60 + b"\x0b"  # x = x * 3 + 7, sixty times
    code = number(count) + (number(len(body)) + body) * count
    return (
        b"\0asm\1\0\0\0"
        + section(1, b"\x01\x60\x00\x00")
        + section(3, number(count) + b"\x00" * count)
        + section(5, b"\x01\x00\x01")
        + section(7, b"\x02\x06_start\x00\x00\x06memory\x02\x00")
        + section(10, code)
    )


def test_an_interrupt_typed_goes_to_the_guest(cli: Cli) -> None:
    with cli.in_terminal("run", "-it", "--rm", guest("sleep"), "1000") as terminal:
        terminal.expect("up")
        terminal.type("\x03")
        assert terminal.wait() == 128 + signal.SIGINT


def test_a_terminal_is_refused_where_there_is_none(cli: Cli) -> None:
    done = cli.run("run", "-it", guest("hello"))
    assert done.returncode == 2
    assert "is not a terminal" in done.stderr
