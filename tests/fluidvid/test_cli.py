"""The command line as users meet it: exit codes, one line per error, one object per --json, nothing half-written."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial, reduce
from pathlib import Path
from typing import Any

import pytest
import typer

from fluidvid import cli, config
from fluidvid.stdout import put

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).resolve().parents[2])}


def python(
    *arguments: str | Path, cwd: Path | None = None, before: Callable[[], Any] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=ENVIRONMENT,
        timeout=300,
        check=False,
        preexec_fn=before,
    )


def fluidvid(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return python("-m", "fluidvid", *arguments, cwd=cwd)


def assert_one_line_error(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("fluidvid: "), done.stderr
    for word in words:
        assert word in lines[0]


def test_networks_tell_nobody_that_they_run(tmp_path: Path, clip: Path) -> None:
    """onnxruntime would keep a device id and a queue of events for its maker in the home folder."""
    home = tmp_path / "home"
    home.mkdir()
    told = {k: v for k, v in ENVIRONMENT.items() if k not in ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")}
    command = [sys.executable, "-m", "fluidvid", "anonymize", str(clip), str(tmp_path / "out.mp4"), "--mode", "solid"]
    done = subprocess.run(command, env=told | {"HOME": str(home)}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not [path for path in home.rglob("*") if path.is_file()]


def test_help_is_quick_and_heavy_modules_stay_out() -> None:
    heavy = ("torch", "av", "cv2", "onnxruntime", "diffusers", "scipy")
    modules = "fluidvid.cli, fluidvid.cache.opening"  # what `cache list` and its like need
    code = f"import sys, {modules}; sys.exit(str([m for m in {heavy} if m in sys.modules] or ''))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "" and done.returncode in (0, 1)
    done = fluidvid("anonymize", "--help")
    assert done.returncode == 0
    flags = "config editor geometry strength mode min-face device codec crf preset start end seed "
    flags += "strict json overwrite quiet"
    for flag in (f"--{name}" for name in flags.split()):
        assert flag in done.stdout, flag


def test_help_says_what_holds_without_a_flag_and_no_more_than_the_command_does() -> None:
    group = typer.main.get_command(cli.app)
    assert isinstance(group, typer.core.TyperGroup)
    helps = {
        command: {parameter.name: parameter.help for parameter in group.commands[command].params}  # type: ignore[attr-defined]
        for command in ("anonymize", "stream")
    }
    for command, preset in (("anonymize", "default"), ("stream", "live")):
        usual = config.load(preset)
        for key, option in config.options().items():
            default = reduce(getattr, key.split("."), usual)
            if option.flag and not option.is_switch and default is not None:
                shown = helps[command][key.replace(".", "__")]
                assert shown.endswith(f", default {default}"), (command, key)
    assert "parts" in helps["stream"]["overwrite"] and "parts" not in helps["anonymize"]["overwrite"]


def test_version() -> None:
    assert fluidvid("version").stdout.strip() == "0.1.0"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["anonymize", "a.mp4"], ["OUT"]),
        (["anonymize", "a.mp4", "b.mp4", "--strenght", "1"], ["--strenght"]),
        (["anonymize", "a.mp4", "b.mp4", "--strength", "9"], ["edit.strength", "9", "0.1 to 2.0"]),
        (["anonymize", "a.mp4", "b.mp4", "--strength", "much"], ["edit.strength", "much"]),
        (["anonymize", "a.mp4", "b.mp4", "--mode", "raw"], ["mode", "fluid, blur, pixelate, solid"]),
        (["anonymize", "a.mp4", "b.mp4", "--config", "nope"], ["nope", "default, fast, quality, live"]),
        (["anonymize", "a.mp4", "b.mp4", "--set", "mask.cell=3"], ["mask.cells"]),
        (["anonymize", "a.mp4", "b.mp4", "--set", "mask.cells"], ["KEY=VALUE"]),
        (["frobnicate"], ["frobnicate"]),
        (["anonymize", "a.mp4", "b.mp4", "--config", "long" * 99], ["long", "File name too long"]),
        (["stream", "u:hunter2@" + "camera" * 99, "b.mp4"], [" ***@camera", "File name too long"]),
    ],
)
def test_wrong_use_is_exit_2_in_one_line(arguments: list[str], words: list[str], tmp_path: Path) -> None:
    assert_one_line_error(fluidvid(*arguments, cwd=tmp_path), 2, *words)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["anonymize", "clip.mp4", "closed/b.mp4"], 4),
        (["audit", "clip.mp4", "clip.mp4", "--html", "closed/a.html"], 4),
        (["stream", "clip.mp4", "closed/b.mp4"], 4),
        (["anonymize", "clip.mp4", "b.mp4", "--config", "closed/a.toml"], 2),
        (["models", "list"], 2),
        (["cache", "rekey", "--cache", "closed/a.cache", "--key-file", "clip.mp4"], 2),
    ],
)
def test_a_folder_that_nobody_may_look_into_is_one_line(
    arguments: list[str],
    code: int,
    clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copy(clip, tmp_path / "clip.mp4")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", "closed")
    stat = Path.stat

    def refused(path: Path, **named: Any) -> os.stat_result:  # as the system does, but for root
        if "closed" in path.parts[:-1]:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return stat(path, **named)

    monkeypatch.setattr(Path, "stat", refused)
    command = typer.main.get_command(cli.app)
    assert cli.run(lambda: command(arguments, standalone_mode=False)) == code
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "closed" in told and "permission" in told and "internal error" not in told


def test_missing_source(tmp_path: Path) -> None:
    assert_one_line_error(fluidvid("anonymize", "no.mp4", "b.mp4", cwd=tmp_path), 3, "no.mp4")


def test_not_a_video(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"this is no video" * 100)
    assert_one_line_error(fluidvid("anonymize", "a.mp4", "b.mp4", "--mode", "blur", cwd=tmp_path), 3, "a.mp4")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mp4"]


def test_an_ending_without_a_container_is_refused_before_any_work(clip: Path, tmp_path: Path) -> None:
    assert_one_line_error(fluidvid("anonymize", clip, tmp_path / "b.xyz", "--mode", "blur"), 4, "b.xyz")


def test_existing_targets_are_not_touched(clip: Path, tmp_path: Path) -> None:
    target = tmp_path / "b.mp4"
    target.write_bytes(b"precious")
    assert_one_line_error(fluidvid("anonymize", clip, target), 4, "b.mp4", "--overwrite")
    assert target.read_bytes() == b"precious"
    assert_one_line_error(fluidvid("anonymize", clip, tmp_path), 4, "folder")
    assert_one_line_error(fluidvid("anonymize", clip, tmp_path / "no" / "b.mp4"), 4, "does not exist")


def test_the_source_is_never_the_target(clip: Path, tmp_path: Path) -> None:
    copy = tmp_path / "a.mp4"
    copy.write_bytes(clip.read_bytes())
    assert_one_line_error(fluidvid("anonymize", copy, copy, "--overwrite"), 4, "source itself")


def test_classic_run_with_json(clip: Path, tmp_path: Path) -> None:
    target = tmp_path / "b.mp4"
    done = fluidvid("anonymize", clip, target, "--mode", "pixelate", "--end", "1", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert done.stdout.count("\n") == 1
    assert report["frames"] == 30 and report["mode"] == "pixelate" and report["raw"] == 0
    assert report["faces"] == report["edited"] + report["held"] + report["masked"] >= 30
    assert "pseudonymisation" in done.stderr and target.stat().st_size > 1000
    again = fluidvid("anonymize", clip, target, "--mode", "solid", "--end", "1", "--overwrite", "--quiet")
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    assert [p.name for p in tmp_path.iterdir()] == ["b.mp4"]


# In the process itself, so that no clock decides: at the tenth picture, the target half-written, the signal comes.
INTERRUPTED = """
import os, runpy, sys
from fluidvid.video.writer import VideoWriter

write, pictures = VideoWriter.write, iter(range(1, 1000))

def interrupted(*arguments, **named):
    write(*arguments, **named)
    if next(pictures) == 10:
        print(os.listdir(), flush=True)
        os.kill(os.getpid(), SIGNAL)

VideoWriter.write = interrupted
runpy.run_module("fluidvid", run_name="__main__")
"""


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_run_leaves_nothing(sign: signal.Signals, clip: Path, tmp_path: Path) -> None:
    script = INTERRUPTED.replace("SIGNAL", str(int(sign)))
    heard = partial(signal.signal, sign, signal.SIG_DFL)  # tests in a shell's background, or under nohup, ignore it
    done = python("-c", script, "anonymize", clip, "b.mp4", "--mode", "blur", "-q", cwd=tmp_path, before=heard)
    assert done.stdout.strip() not in ("", "[]"), f"nothing was begun beside the target: {done}"
    assert done.returncode == 130 and done.stderr.strip() == "fluidvid: interrupted: nothing was written"
    assert list(tmp_path.iterdir()) == []


MADE = """
import os, runpy, signal, sys
from pathlib import Path
import fluidvid.api
from fluidvid.errors import DetectionError

def failing(*arguments, **named):
    Path(named["config"].cache.path).write_bytes(b"people")
    Path(named["config"].cache.path + ".key").write_bytes(b"key")
    if "complete" in sys.argv[-1]:
        arguments[1].write_bytes(b"video")
    if "signal" in sys.argv[-1]:
        os.kill(os.getpid(), signal.SIGTERM)
    raise DetectionError("face detection failed")

fluidvid.api.anonymize = failing
runpy.run_module("fluidvid", run_name="__main__")
"""


@pytest.mark.parametrize(("name", "code"), [("signal.cache", 130), ("people.cache", 7)])
def test_a_cache_that_was_made_is_not_denied(name: str, code: int, clip: Path, tmp_path: Path) -> None:
    for happened in (f"made, and stays, as does its key {tmp_path / name}.key", "changed, and stays"):
        done = python("-c", MADE, "anonymize", clip, "out.mp4", "--cache", name, cwd=tmp_path)
        assert_one_line_error(done, code)
        assert done.stderr.endswith(f"; the cache {name} was {happened}\n")
        assert "nothing was written" not in done.stderr and not (tmp_path / "out.mp4").exists()


def test_a_result_that_stands_is_told_with_the_cache(clip: Path, tmp_path: Path) -> None:
    done = python("-c", MADE, "anonymize", clip, "out.mp4", "--cache", "signal.complete", cwd=tmp_path)
    assert_one_line_error(done, 130)
    assert "out.mp4 was complete: it stands" in done.stderr and "the cache signal.complete was made" in done.stderr


STANDING = """
import os, runpy, signal
from fluidvid.video.target_file import TargetFile

commit = TargetFile.commit

def interrupted(file):
    commit(file)
    os.kill(os.getpid(), signal.SIGTERM)

TargetFile.commit = interrupted
runpy.run_module("fluidvid", run_name="__main__")
"""


def test_a_signal_does_not_deny_a_result_that_has_its_name(clip: Path, tmp_path: Path) -> None:
    target = tmp_path / "b.mp4"
    target.write_bytes(b"an older result")
    done = python("-c", STANDING, "anonymize", clip, target, "--mode", "solid", "--end", "0.2", "-q", "--overwrite")
    assert_one_line_error(done, 130, "interrupted", "b.mp4", "stands")
    assert "nothing was written" not in done.stderr and target.stat().st_size > 1000


def test_a_signal_when_all_is_done_changes_nothing(tmp_path: Path) -> None:
    begin = "import gc, os, signal, sys; from fluidvid.cli import main; sys.argv[0] = 'fluidvid'"
    late = "gc.freeze = lambda: os.kill(os.getpid(), signal.SIGTERM)"
    done = python("-c", f"{begin}; {late}; main()", "version")
    assert (done.returncode, done.stderr) == (0, "") and done.stdout
    assert_one_line_error(python("-c", f"{begin}; {late}; main()", "anonymize", tmp_path / "no.mp4", "b.mp4"), 3)


LOADING = """
import os, runpy, signal, sys

class Interrupting:
    def find_spec(self, name, *_):
        if name == "typer":
            os.kill(os.getpid(), SIGNAL)

sys.meta_path.insert(0, Interrupting())
runpy.run_module("fluidvid", run_name="__main__")
"""


def test_a_read_that_hangs_does_not_outlive_the_interpreter() -> None:
    """FFmpeg's code would go on while Python is taken down around it, and crash now and then."""
    hanging = "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()"
    late = "atexit.register(print, 'the interpreter was taken down')"
    begin = "import atexit, sys, threading, time; from fluidvid.cli import main; sys.argv = ['fluidvid', 'version']"
    done = python("-c", f"{begin}; {late}; {hanging}; main()")
    usual = python("-c", f"{begin}; {late}; main()")
    assert (done.returncode, done.stderr) == (usual.returncode, usual.stderr) == (0, "")
    assert done.stdout and usual.stdout == done.stdout + "the interpreter was taken down\n"


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_the_command_line_is_loaded_is_one_line(sign: signal.Signals) -> None:
    heard = partial(signal.signal, sign, signal.SIG_DFL)
    done = python("-c", LOADING.replace("SIGNAL", str(int(sign))), "version", before=heard)
    assert_one_line_error(done, 130, "interrupted: nothing was written")


@pytest.mark.parametrize("where", ["2>/dev/full", "2>&-", "2>&1 >result.json | true; exit ${PIPESTATUS[0]}"])
def test_words_that_nobody_reads_do_not_make_a_run_fail(where: str, clip: Path, tmp_path: Path) -> None:
    line = f"{sys.executable} -m fluidvid anonymize {clip} out.mp4 --mode solid --json"
    where = where if "json" in where else f">result.json {where}"
    done = subprocess.run(["bash", "-c", f"{line} {where}"], cwd=tmp_path, env=ENVIRONMENT, timeout=300, check=False)
    assert done.returncode == 0
    assert json.loads((tmp_path / "result.json").read_text())["raw"] == 0 and (tmp_path / "out.mp4").exists()


def test_a_terminal_that_closes_hangs_up_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "_stopped", [])
    with pytest.raises(KeyboardInterrupt):
        cli._terminate(signal.SIGHUP, None)
    cli._terminate(signal.SIGHUP, None)  # nothing that is being tidied up is interrupted
    for sign in (signal.SIGINT, signal.SIGINT, signal.SIGTERM):
        with pytest.raises(KeyboardInterrupt):
            cli._terminate(sign, None)


def test_an_interrupted_import_is_no_internal_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def loading() -> None:
        raise ImportError("numpy failed")  # what a compiled module makes of a KeyboardInterrupt

    assert cli.run(loading) == 1 and "internal error" in capsys.readouterr().err
    monkeypatch.setattr(cli, "_stopped", [signal.SIGINT])
    assert cli.run(loading) == 130
    assert capsys.readouterr().err.strip() == "fluidvid: interrupted: nothing was written"


def test_a_crash_leaves_no_image_of_the_memory() -> None:
    """Workers inherit the limit; of 0, Linux would still hand an image to a program."""
    code = """
import resource, sys
from fluidvid import cli
most = resource.getrlimit(resource.RLIMIT_CORE)[1]
resource.setrlimit(resource.RLIMIT_CORE, (most, most))
sys.argv = ["fluidvid", "version"]
try:
    cli.main()
finally:
    print(resource.getrlimit(resource.RLIMIT_CORE)[0], most)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    limit, most = done.stdout.split()[-2:]
    assert limit == ("1" if sys.platform == "linux" and most != "0" else "0")


@pytest.mark.parametrize("arguments", [["anonymize"], ["anonymize", "in.mp4"], ["anonymise"], ["version", "--long"]])
def test_wrong_use_says_where_to_look(arguments: list[str]) -> None:
    done = fluidvid(*arguments)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.endswith(": see --help")


def test_models_list_json_has_licence_source_and_hash() -> None:
    done = fluidvid("models", "list", "--json")
    models = json.loads(done.stdout)["models"]
    assert done.returncode == 0 and {"centerface", "prior"} <= {m["name"] for m in models}
    assert all(m["licence"] and m["source"] and m["files"] for m in models)
    text = fluidvid("models", "list").stdout
    assert "NON-COMMERCIAL" in text and "sha256" in text


@pytest.mark.parametrize("arguments", [["models", "list"], ["version"]])
def test_a_reader_that_has_had_enough_is_left_in_peace(arguments: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "fluidvid", *arguments]
    with os.fdopen(write, "wb") as stdout:
        done = subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, env=ENVIRONMENT, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="NOT TESTED: there is no /dev/full here")
def test_words_that_cannot_be_written_are_one_line() -> None:
    command = [sys.executable, "-m", "fluidvid", "models", "verify", "--json"]
    with Path("/dev/full").open("wb") as stdout:
        done = subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, env=ENVIRONMENT, text=True, check=False)
    assert done.returncode == 4
    assert done.stderr.startswith("fluidvid: stdout cannot be written to (No space left on device)")
    assert done.stderr.count("\n") == 1


def test_a_file_name_that_is_no_text_is_written_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, "utf-8"))
    put(json.dumps({"output": "caf\udce9 ü"}, ensure_ascii=False))
    assert json.loads(written.getvalue()) == {"output": "caf\udce9 ü"}


def test_models_verify_passes() -> None:
    done = fluidvid("models", "verify", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["models"]["centerface"] == "ok"


def test_models_pull_refuses_in_one_line() -> None:
    assert_one_line_error(fluidvid("models", "pull", "nothing"), 5, "nothing", "centerface")


def test_doctor_json_and_exit_code() -> None:
    done = fluidvid("doctor", "--json")
    tree = json.loads(done.stdout)
    assert (done.returncode == 0) == tree["ok"]
    named = {finding["name"]: finding for finding in tree["findings"]}
    assert {"python", "torch", "onnxruntime", "av", "encoders", "opencv"} <= set(named)
    assert "libx264" in named["encoders"]["text"] and "got" in named["onnxruntime"]["text"]
