"""The command line: `anonymize`, `audit`, `cache`, `doctor`, `models`, `prior`, `stream`, `version`. Errors are one
line on stderr, stdout is for results.
"""

from __future__ import annotations

import errno
import gc
import inspect
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import reduce
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn, get_args, get_origin

import typer

from fluidvid import __version__, config
from fluidvid.cache.commands import cache_app
from fluidvid.errors import ConfigError, ExitCode, FluidvidError, InterruptedResultError, ModelError
from fluidvid.prior.commands import prior_app
from fluidvid.signals import heed
from fluidvid.stdout import for_people, put

if TYPE_CHECKING:
    from rich.console import Console

_EPILOG = (
    "Exit codes: 0 done, 1 internal error, 2 wrong use or configuration, 3 source unreadable or changed, "
    "4 target not writable, 5 model missing or altered, 6 refused by --strict, 7 face detection failed, "
    "8 audit not passed, 9 cache unusable (cache commands), 130 interrupted. "
    "Whatever is not 0 leaves no output, except that an audit writes its report whatever its verdict and that a result "
    "stands whose --json could not be written, or whose run was interrupted when it was complete, as do samples. "
    "Pseudonyms are stable within a run and change from run to run, unless --cache or --key-file link runs on purpose. "
    "Hair, clothes, gait, voice and context still "
    "identify people."
)

_LIVE_EPILOG = (
    "Exit codes: 0 stopped by SIGINT, SIGTERM or SIGHUP (trailers written), or a file ended; 2 wrong use; 3 the input "
    "was given up; 4 all outputs were given up, or none is complete at the end; 5 model missing; 7 face "
    "detection failed (stopped: a picture that was not looked at never leaves); 130 a second signal, or one after the "
    "run's end. Faces are masked until their direction is ready, and whenever the machine is too slow to edit. Logins "
    "in addresses are never shown. Hair, clothes, gait, voice and context still identify people."
)

INTERRUPTED = "interrupted: nothing was written"

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Consistent pseudonyms for faces in video.",
    epilog=_EPILOG,
)
models_app = typer.Typer(no_args_is_help=True, help="Models: licence, source, SHA-256; opt-in ones are pulled here.")
app.add_typer(models_app, name="models")
app.add_typer(cache_app, name="cache")
app.add_typer(prior_app, name="prior")


def _console(quiet: bool = False) -> Console:
    from rich.console import Console

    class Words(Console):
        def on_broken_pipe(self) -> None:  # rich would end the process
            self.quiet = True

    return Words(stderr=True, quiet=quiet)


def _anonymize(
    *,
    source: str,
    target: str,
    preset: str | None,
    assignments: list[str] | None,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
    **flags: Any,
) -> None:
    """Give every face in IN a pseudonym (or a mask) and write OUT. With a URL as IN or OUT the same as `stream`."""
    from fluidvid.live.addresses import is_live

    changes = _changes(flags, assignments or [])
    if is_live(source) or is_live(target):
        _run_stream(source, [target], config.load(preset or "live").updated(changes), overwrite, as_json, quiet)
        return
    given = [option.flag for key, option in config.options().items() if key in changes and key.startswith("live.")]
    if given:
        raise ConfigError(f"{given[0] or 'live.*'} is for live streams: IN and OUT are files, leave it out")
    chosen = config.load(preset or "default").updated(changes)
    from fluidvid.api import anonymize, check_paths
    from fluidvid.heap import share
    from fluidvid.progress import progress_bar, silent

    share()
    where_from, where_to = Path(source), Path(target)
    check_paths(where_from, where_to, overwrite=overwrite)
    console = _console(quiet)
    with _made_told(_cache_made(chosen)), _standing_told(_new_at(where_to)):
        with nullcontext(silent) if quiet or not console.is_terminal else progress_bar(console) as progress:
            report = anonymize(where_from, where_to, config=chosen, overwrite=overwrite, progress=progress)
        if not quiet:
            for_people(lambda: report.print_summary(console))
        if as_json:
            put(report.to_json())


@contextmanager
def _standing_told(standing: Callable[[], str]) -> Iterator[None]:
    """After a signal say what is complete and stands, if anything does: what it replaced is gone.

    Args:
        standing: what stands, in words, or nothing.

    Raises:
        InterruptedResultError: in place of a signal's exception.
    """
    try:
        yield
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt) or (_stopped and not isinstance(error, FluidvidError))
        if stopped and (words := standing()):
            raise InterruptedResultError(f"interrupted when {words}, its account may be lost") from error
        raise


@contextmanager
def _made_told(made: Callable[[], str]) -> Iterator[None]:
    """After an error or a signal say what there is all the same.

    Args:
        made: what was made beside a result, in words, or nothing.

    Raises:
        InterruptedResultError: in place of a signal's exception.
    """
    try:
        yield
    except BaseException as error:
        if words := made():
            if not isinstance(error, FluidvidError) and (isinstance(error, KeyboardInterrupt) or _stopped):
                raise InterruptedResultError(f"interrupted: no result was written; {words}") from error
            error.add_note(words)
        raise


def _files_made(paths: Sequence[Path]) -> Callable[[], str]:
    """Says which of these files were put there."""
    before = [_which(path) for path in paths]

    def words() -> str:
        made = [str(path) for path, which in zip(paths, before, strict=True) if _which(path) not in (None, which)]
        return f"installed and verified before: {', '.join(made)}" if made else ""

    return words


def _cache_made(chosen: config.Config) -> Callable[[], str]:
    """Says of a run's cache that it was made, or that it changed."""
    from fluidvid.cache.keys import own_key_file
    from fluidvid.cache.redis import is_url

    cache = chosen.cache.path
    if cache is None or is_url(cache) or chosen.mode != "fluid":
        return lambda: ""

    def changed(path: str) -> int | None:
        with suppress(OSError, ValueError):
            return Path(path).stat().st_mtime_ns
        return None

    def state() -> tuple[int | None, int | None]:
        return changed(cache), changed(f"{cache}-wal")  # while others use it, all that is new is in its log

    before = state()

    def words() -> str:
        after = state()
        if after[0] is None or after == before:
            return ""
        if before[0] is not None:
            return f"the cache {cache} was changed, and stays"
        key = own_key_file(Path(cache))
        return f"the cache {cache} was made, and stays" + (f", as does its key {key}" if key.exists() else "")

    return words


def _new_at(target: Path) -> Callable[[], str]:
    """Says of a file, once it has got the name `target`, that it stands."""
    before = _which(target)
    return lambda: f"{target} was complete: it stands" if _which(target) != before else ""


def _which(path: Path) -> tuple[int, int] | None:
    """Which file has that name, if one has."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _stream(
    *,
    source: str,
    targets: list[str],
    preset: str | None,
    assignments: list[str] | None,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
    **flags: Any,
) -> None:
    """Give every face in the live stream IN a pseudonym (or a mask) and publish it to every OUT, until stopped."""
    chosen = config.load(preset or "live").updated(_changes(flags, assignments or []))
    _run_stream(source, targets, chosen, overwrite, as_json, quiet)


def _run_stream(
    source: str, targets: list[str], chosen: config.Config, overwrite: bool, as_json: bool, quiet: bool
) -> None:
    from fluidvid.live.command import stream
    from fluidvid.live.report import LiveReport

    over: list[LiveReport] = []

    def done(report: LiveReport) -> None:
        if any(out["written"] and not out["gave_up"] for out in report.outputs):
            over.append(report)
        if not quiet:
            for_people(lambda: report.print_summary(_console()))
        if as_json:
            put(report.to_json())

    say = (lambda _: None) if quiet else None
    standing = _standing_told(lambda: "the run was over: what it wrote stands" if over else "")
    with _made_told(_cache_made(chosen)), standing:
        stream(source, targets, config=chosen, overwrite=overwrite, say=say, done=done)


def _changes(flags: dict[str, Any], assignments: list[str]) -> dict[str, Any]:
    """Dotted keys and values from flags and `--set key=value`, values still as text where they came as text."""
    changes: dict[str, Any] = {}
    for text in assignments:
        key, sign, value = text.partition("=")
        if not sign:
            raise ConfigError(f"--set {text}: KEY=VALUE is needed, e.g. --set edit.max_yaw=40")
        changes[key.strip()] = config.parse_value(key.strip(), value.strip())
    for key, option in config.options().items():
        given = flags.get(_parameter(key))
        if given is not None:
            changes[key] = given if option.is_switch else config.parse_value(key, given)
    return changes


def _parameter(key: str) -> str:
    return key.replace(".", "__")


_FOR_FILES = frozenset({"strict", "media.start", "media.end", "media.keep_metadata"})
"""Keys that a live stream refuses, and says why."""


def _signature(*, live: bool = False) -> inspect.Signature:
    """The command's parameters: paths and switches of the run, then one option per flag of the configuration table."""

    def parameter(name: str, kind: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
        return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=default)

    fixed = [
        parameter(
            "source",
            Annotated[
                str,
                typer.Argument(
                    metavar="IN",
                    help="rtsp, rtmp, http (HLS or JPEGs), udp or tcp URL, a video device, or a file at real-time pace"
                    if live
                    else "video file (or a URL: see `stream`)",
                ),
            ],
        ),
        parameter(
            "targets",
            Annotated[
                list[str],
                typer.Argument(
                    metavar="OUT",
                    help="rtsp, rtmp, udp or tcp URL, HLS folder (ending in /), file, file in parts (part-%05d.mp4), "
                    "or preview: a page of this machine for a browser",
                ),
            ],
        )
        if live
        else parameter(
            "target",
            Annotated[str, typer.Argument(metavar="OUT", help="result; written whole or not at all (or a URL)")],
        ),
        parameter(
            "preset",
            Annotated[
                str | None,
                typer.Option(
                    "--config",
                    metavar="PRESET|FILE",
                    help=f"{', '.join(config.PRESETS)}, or a TOML file; default: {'live' if live else 'default'}",
                ),
            ],
            None,
        ),
        parameter(
            "assignments",
            Annotated[
                list[str] | None,
                typer.Option("--set", metavar="KEY=VALUE", help="any key of the configuration"),
            ],
            None,
        ),
        parameter(
            "overwrite",
            Annotated[
                bool,
                typer.Option(
                    "--overwrite",
                    help="replace an existing OUT" + ("; older parts of one in parts are moved aside" if live else ""),
                ),
            ],
            False,
        ),
        parameter("as_json", Annotated[bool, typer.Option("--json", help="one JSON object on stdout")], False),
        parameter("quiet", Annotated[bool, typer.Option("--quiet", "-q", help="no progress, no summary")], False),
    ]
    usual = config.load("live" if live else "default")
    return inspect.Signature(
        fixed
        + [
            parameter(
                _parameter(key),
                _flag_type(option, reduce(getattr, key.split("."), usual), hidden=live and key in _FOR_FILES),
                None,
            )
            for key, option in config.options().items()
            if option.flag
        ]
    )


def _flag_type(option: config.Option, default: Any, *, hidden: bool = False) -> Any:
    """The type of a flag's parameter, with its help; `default` is what holds without it."""
    assert option.flag is not None
    words = f"{option.field.description} ({option.key})"
    if option.is_switch:
        return Annotated[bool | None, typer.Option(f"{option.flag}/--no-{option.flag[2:]}", help=words, hidden=hidden)]
    annotation = option.field.annotation
    shown = "|".join(get_args(annotation)) if get_origin(annotation) is Literal else _kind(option.allowed)
    if shown in ("INTEGER", "NUMBER", "TIME") and " from " in option.allowed:
        words += ", " + option.allowed.partition(" from ")[2].removesuffix(" or none")
    if default is not None:
        words += f", default {default}"
    # Text, whatever the type: the tree judges values of files and flags alike, with the same words.
    return Annotated[str | None, typer.Option(option.flag, metavar=shown, help=words, hidden=hidden)]


def _kind(allowed: str) -> str:
    """Word for a value in the help."""
    for beginning, word in (("a whole number", "INTEGER"), ("a number", "NUMBER"), ("seconds", "TIME")):
        if allowed.startswith(beginning):
            return word
    return "TEXT"


_anonymize.__signature__ = _signature()  # type: ignore[attr-defined]
_anonymize.__annotations__ = {name: p.annotation for name, p in _signature().parameters.items()}
app.command("anonymize", epilog=_EPILOG)(_anonymize)

_stream.__signature__ = _signature(live=True)  # type: ignore[attr-defined]
_stream.__annotations__ = {name: p.annotation for name, p in _signature(live=True).parameters.items()}
app.command("stream", epilog=_LIVE_EPILOG)(_stream)


@app.command()
def version() -> None:
    """Print the version."""
    put(__version__)


@app.command(epilog=_EPILOG)
def audit(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="the original video")],
    result: Annotated[Path, typer.Argument(metavar="RESULT", help="what fluidvid, or any other tool, made of it")],
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="one self-contained page")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object on stdout")] = False,
    recognisers: Annotated[
        Path | None,
        typer.Option("--recognisers", metavar="FOLDER", help="further recognisers, e.g. edgeface_xs.onnx"),
    ] = None,
    second: Annotated[
        Path | None, typer.Option("--second", metavar="FILE", help="another run's result: are both linked?")
    ] = None,
    attacks: Annotated[
        str | None,
        typer.Option(
            "--attacks", metavar="NAMES|all", help="sharpen,average,superresolve,negate,rerun: try to undo it; slow"
        ),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option("--start", metavar="TIME", help="skip the source's beginning, as anonymize --start did"),
    ] = None,
    end: Annotated[str | None, typer.Option("--end", metavar="TIME", help="compare the beginning only")] = None,
    backbone: Annotated[
        str | None,
        typer.Option("--backbone", metavar="NAME|DIR", help="what edited RESULT, if not the embedded prior"),
    ] = None,
    min_face: Annotated[
        float, typer.Option("--min-face", metavar="NUMBER", help="pixels from which recognisers look at a face")
    ] = 24.0,
    pictures: Annotated[
        bool, typer.Option("--pictures/--no-pictures", help="strips of faces in the page, the source's too")
    ] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace an existing page")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="no progress, no summary")] = False,
) -> None:
    """Measure RESULT against SOURCE: who is still recognised, what stayed, how steady it is. Exit 8 if not passed."""
    from fluidvid.audit.command import run_audit

    console = _console(quiet)
    with _standing_told(_new_at(html)) if html is not None else nullcontext():
        report = run_audit(
            source,
            result,
            html=html,
            recognisers=recognisers,
            second=second,
            attacks=attacks,
            start=start,
            end=end,
            backbone=backbone,
            min_face=min_face,
            overwrite=overwrite,
            pictures=pictures,
            console=console,
            quiet=quiet,
        )
        if not quiet:
            for_people(lambda: report.print_summary(console))
        if as_json:
            put(report.to_json())
    if not report.passed:
        raise typer.Exit(ExitCode.AUDIT)


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object on stdout")] = False,
) -> None:
    """Check the installation: exit 0 if a run can work, 1 if something is broken."""
    from rich.markup import escape

    from fluidvid.doctor import broken, examine, to_dict

    findings = examine()
    if as_json:
        put(json.dumps(to_dict(findings)))
    else:
        console = _console()
        colours = {"ok": "green", "note": "yellow", "broken": "red"}
        for finding in findings:
            console.print(
                f"[{colours[finding.level]}]{finding.level:6}[/] [bold]{finding.name}[/]: {escape(finding.text)}",
                highlight=False,
                soft_wrap=True,
                emoji=False,
            )
    if broken(findings):
        raise typer.Exit(ExitCode.INTERNAL)


@models_app.command("list")
def models_list(
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object on stdout")] = False,
) -> None:
    """List all models with roles, licence, source and SHA-256."""
    from dataclasses import asdict

    from fluidvid.models import ModelStore

    store = ModelStore()
    if as_json:
        put(json.dumps({"models": [asdict(entry) for entry in store.entries]}))
        return
    for entry in store.entries:
        where = "embedded" if entry.embedded else ("pulled" if store.location(entry).exists() else "opt-in, not pulled")
        use = "commercial use allowed" if entry.commercial_use else "NON-COMMERCIAL use only"
        size = "size unknown" if entry.size is None else f"{entry.size / 1e6:.1f} MB"
        put(
            f"{entry.name}  [{', '.join(entry.roles)}]  {where}, {size}\n  licence: {entry.licence}; {use}"
            f"\n  source: {entry.source}\n  trained on: {entry.training_data}"
        )
        for file in entry.files:
            put(f"  sha256 {file.sha256 or 'not pinned'}  {file.path}")


@models_app.command("pull")
def models_pull(
    name: Annotated[str, typer.Argument(help="name from `models list`")],
    source: Annotated[
        str | None, typer.Option("--from", metavar="URL|FILE", help="instead of the manifest's address")
    ] = None,
    sha256: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE=HEX", help="a hash you trust, where the manifest pins none"),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="replace a file that is there")] = False,
) -> None:
    """Fetch an opt-in model, verified by SHA-256. The only command that downloads."""
    from fluidvid.models import ModelStore
    from fluidvid.progress import progress_bar, silent

    store = ModelStore()
    console = _console()
    entry = store.entry(name)
    terms = "" if entry.commercial_use else "; NON-COMMERCIAL use only"
    console.print(f"{name}: licence {entry.licence}{terms}", markup=False, emoji=False)
    hashes = dict(text.partition("=")[::2] for text in sha256 or [])
    bar = progress_bar(console) if console.is_terminal else nullcontext(silent)
    with _made_told(_files_made([store.store / file.path for file in entry.files])), bar as progress:
        path = store.pull(name, source=source, sha256=hashes, force=force, progress=progress)
    console.print(f"installed and verified: {path}", soft_wrap=True, markup=False, emoji=False)


@models_app.command("verify")
def models_verify(
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object on stdout")] = False,
) -> None:
    """Compare every model that is there with its SHA-256; exit 5 if one is altered or an embedded one is missing."""
    from fluidvid.models import ModelStore

    store = ModelStore()
    states = [store.status(entry) for entry in store.entries]
    if as_json:
        put(json.dumps({"models": {s.entry.name: s.state for s in states}}))
    else:
        for status in states:
            put(f"{status.state:8} {status.entry.name}")
    bad = [s for s in states if s.state == "altered" or (s.state == "absent" and s.entry.embedded)]
    if bad:
        raise ModelError(
            f"{len(bad)} models are not as they should be, first: {bad[0].detail}; reinstall fluidvid or pull "
            "it again with --force"
        )


_NAME_REMEDIES = {
    errno.ENAMETOOLONG: "give a shorter one",
    errno.EACCES: "change its permissions, or those of its folder, or name another",
}
"""What to do about a file that the system refuses by its name."""

_stopped: list[int] = []
"""Signals that asked for an end. Modules that are just being loaded turn the exception into another one."""


def _terminate(signum: int, frame: FrameType | None) -> None:
    again = signum in _stopped and signum not in (signal.SIGINT, signal.SIGTERM)
    _stopped.append(signum)
    if not again:  # a closed terminal hangs up twice, from the shell and from the kernel
        raise KeyboardInterrupt


def run(command: Callable[[], Any], decided: Callable[[int], None] = lambda code: None) -> int:
    """Call `command` and turn every ending into an exit code and at most one line on stderr.

    `decided` is told the code before the line is written.
    """
    code, message = _outcome(command)
    decided(code)
    if message:
        for_people(lambda: sys.stderr.write("fluidvid: " + " ".join(message.split()) + "\n"))
    return code


def _outcome(command: Callable[[], Any]) -> tuple[int, str]:
    """Exit code of a command, and what there is to say."""
    try:
        ending = command()
    except (KeyboardInterrupt, typer.Abort):
        ending = ExitCode.INTERRUPTED
    except FluidvidError as error:
        return int(error.exit_code), _noted(str(error), error)
    except Exception as error:  # noqa: BLE001 - the last resort: one line, no traceback, no output
        if _stopped:
            return int(ExitCode.INTERRUPTED), INTERRUPTED
        if hasattr(error, "format_message"):  # typer's own usage errors
            words = (error.format_message() or "a command is needed").rstrip(".")
            return int(ExitCode.USAGE), words if "--help" in words else f"{words}: see --help"
        remedy = _NAME_REMEDIES.get(error.errno or 0) if isinstance(error, OSError) and error.filename else None
        if remedy and isinstance(error, OSError):  # wherever it is looked at first
            from fluidvid.live.addresses import redacted

            return int(ExitCode.USAGE), _noted(f"{redacted(str(error.filename))}: {error.strerror}: {remedy}", error)
        internal = f"internal error, please report it: {type(error).__name__}: {error}"
        return int(ExitCode.INTERNAL), _noted(internal, error)
    # Without its standalone mode typer returns the code of an Exit, and 130 for Ctrl-C.
    code = int(ending) if isinstance(ending, int) else int(ExitCode.OK)
    return code, INTERRUPTED if code == ExitCode.INTERRUPTED else ""


def _noted(words: str, error: BaseException) -> str:
    return "; ".join([words, *getattr(error, "__notes__", ())])


def _over(code: int) -> None:
    """All is decided: a signal from here on ends the process at once, with that code."""
    heed(lambda signum, frame: os._exit(code))


def leave_no_core() -> None:
    """Have the system keep no image of the memory of a crash: raw pictures, embeddings and keys would be in it.

    Linux hands them to a program (core(5): a pipe) whatever the limit, except for 1 byte, too little for a file, too.
    """
    try:
        import resource
    except ImportError:  # Windows
        return
    with suppress(OSError, ValueError):
        most = resource.getrlimit(resource.RLIMIT_CORE)[1]
        resource.setrlimit(resource.RLIMIT_CORE, (1 if most and sys.platform == "linux" else 0, most))


def main() -> NoReturn:
    """Run the command that the arguments name, and end the process."""
    leave_no_core()
    heed(_terminate)
    code = run(lambda: typer.main.get_command(app)(standalone_mode=False), decided=_over)
    if any(thread.daemon for thread in threading.enumerate()):
        # A read that hangs inside FFmpeg would return into an interpreter that is no longer there, and crash.
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):
                stream.flush()
        os._exit(code)
    gc.freeze()  # the interpreter would look through everything that torch has loaded for garbage, for a second
    sys.exit(code)


if __name__ == "__main__":
    main()
