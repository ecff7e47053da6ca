"""`fluidvid prior train autoencoder|diffusion|swaps|bank|identity`, `sample`, `evaluate`."""

from __future__ import annotations

import inspect
import json
import logging
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fluidvid.errors import ConfigError, TrainingError, TrainingInterruptedError
from fluidvid.stdout import put

if TYPE_CHECKING:
    from fluidvid.models import ModelStore
    from fluidvid.prior.training import TrainingRequest

MOST_THREADS = 1024
_Run = Callable[["TrainingRequest", "ModelStore"], dict[str, float]]
_Load = Callable[[], _Run]

prior_app = typer.Typer(
    no_args_is_help=True,
    help="The diffusion prior: train your own on your own faces, draw samples, measure. Checkpoints survive a kill: "
    "--resume goes on.",
)
train_app = typer.Typer(
    no_args_is_help=True,
    help="Train one part, in this order: autoencoder, diffusion, swaps, bank; identity is a recogniser that guides "
    "edits. DATA: folders, zips or npz of pictures; raw ones are searched for faces and aligned.",
)
prior_app.add_typer(train_app, name="train")

_Data = Annotated[
    list[str],
    typer.Argument(metavar="DATA", help="folder, zip or npz of faces; DATA=SHARE: how often it is drawn from"),
]
_Aligned = Annotated[
    bool | None,
    typer.Option("--aligned/--raw", help="pictures are aligned or not; otherwise those of the crop's size are"),
]


def _seed(seed: int) -> int:
    if not 0 <= seed < 2**63:
        raise ConfigError(f"--seed {seed}: a whole number from 0 to {2**63 - 1} is needed")
    return seed


_Seed = Annotated[int, typer.Option("--seed", metavar="S", callback=_seed)]
_Threads = Annotated[int | None, typer.Option("--threads", help="CPU threads, default: torch's own")]
_Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="no progress")]
_Json = Annotated[bool, typer.Option("--json", help="one JSON object on stdout")]

_OPTIONS: dict[str, tuple[Any, Any] | None] = {
    "data": (_Data, inspect.Parameter.empty),
    "out": (Path, typer.Option(..., "--out", metavar="DIR", help="the result, and in DIR/run state and log")),
    "teacher": None,
    "start": (str, typer.Option("prior", "--start", metavar="NAME|DIR", help="weights to begin with")),
    "fresh": (bool, typer.Option(False, "--fresh", help="begin with new weights; --start only gives the shapes")),
    "resume": (bool, typer.Option(False, "--resume", help="go on with the run in DIR")),
    "hours": (float, typer.Option(1.0, "--hours", metavar="H", help="length in all, over every resumption")),
    "steps": (int | None, typer.Option(None, "--steps", help="stop after so many in all, whatever --hours says")),
    "batch": (int | None, typer.Option(None, "--batch", help="faces a step")),
    "checkpoint": (
        float | None,
        typer.Option(None, "--checkpoint", metavar="SECONDS", help="time between checkpoints, default some minutes"),
    ),
    "aligned": (_Aligned, None),
    "seed": (_Seed, 0),
    "threads": (_Threads, None),
    "licence": (str | None, typer.Option(None, "--licence", help="of the result, for its card")),
    "as_json": (_Json, False),
    "quiet": (_Quiet, False),
}
"""Options of training in the order of the help: type and default by parameter; None: only some kinds have it."""


def _prepare(threads: int | None, quiet: bool) -> None:
    import torch

    if threads is not None:
        if not 1 <= threads <= MOST_THREADS:
            raise ConfigError(f"--threads {threads}: a number from 1 to {MOST_THREADS} is needed")
        torch.set_num_threads(threads)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", stream=sys.stderr)
    logging.getLogger("fluidvid").setLevel(logging.WARNING if quiet else logging.INFO)


def _train(load: _Load, *, threads: int | None, quiet: bool, as_json: bool, **given: Any) -> None:
    from fluidvid.models import ModelStore
    from fluidvid.prior.runs import has_run
    from fluidvid.prior.training import TrainingRequest

    if not 0 < given["hours"] < math.inf or (given["steps"] is not None and given["steps"] < 1):
        raise ConfigError("--hours and --steps must be positive numbers")
    if given["checkpoint"] is not None and not given["checkpoint"] >= 0:  # nor is NaN
        raise ConfigError("--checkpoint must be a number of seconds, not negative")
    if given["batch"] is not None and given["batch"] < 2:
        raise ConfigError(f"--batch {given['batch']}: at least 2 are needed")
    _prepare(threads, quiet)
    teacher = given.pop("teacher", ())
    teachers = (teacher,) if isinstance(teacher, Path) else tuple(teacher)
    try:
        figures = load()(TrainingRequest(**{**given, "data": tuple(given["data"]), "teachers": teachers}), ModelStore())
    except KeyboardInterrupt:
        if not has_run(given["out"]):
            raise
        raise TrainingInterruptedError(
            f"interrupted: --resume goes on from the last checkpoint in {given['out']}"
        ) from None
    except FloatingPointError as error:
        raise TrainingError(
            f"{error}; --resume goes on from the last checkpoint, another --seed may avoid it"
        ) from error
    if as_json:
        put(json.dumps({"out": str(given["out"]), "figures": figures}))


def _trains(name: str, **own: tuple[Any, Any] | None) -> Callable[[_Load], _Load]:
    """Make a command of what loads a run: with the options of all runs, but for its `own`, or without one that is None.

    Args:
        name: of the command; its help is the loader's docstring.
        own: as in `_OPTIONS`.
    """
    parameters = [
        inspect.Parameter(parameter, inspect.Parameter.KEYWORD_ONLY, annotation=option[0], default=option[1])
        for parameter, option in {**_OPTIONS, **own}.items()
        if option is not None
    ]

    def add(load: _Load) -> _Load:
        def command(**given: Any) -> None:
            _train(load, **given)

        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        train_app.command(name, help=load.__doc__)(command)
        return load

    return add


@_trains("autoencoder")
def _autoencoder() -> _Run:
    """Train the first stage, pixels to latents and back. Its latents change: train the diffusion on it afterwards."""
    from fluidvid.prior.training import run_autoencoder

    return run_autoencoder


@_trains("diffusion")
def _diffusion() -> _Run:
    """Train the U-Net on the latents of --start's first stage; DIR is then a backbone for edit.backbone."""
    from fluidvid.prior.training import run_diffusion

    return run_diffusion


@_trains(
    "identity",
    teacher=(Path, typer.Option(..., "--teacher", metavar="FILE", help="ONNX recogniser, ArcFace-aligned")),
    start=(str, typer.Option("identity_student", "--start", metavar="NAME|FILE", help="a student to begin with")),
    fresh=(bool, typer.Option(False, "--fresh", help="begin with new weights")),
    shape=(str, typer.Option("deep", "--shape", metavar="deep|wide", help="of a student with new weights")),
    licence=None,
)
def _identity() -> _Run:
    """Distil a small recogniser from a teacher into DIR/identity_student.onnx."""
    from fluidvid.prior.training import run_identity

    return run_identity


_Donors = (
    str | None,
    typer.Option(None, "--donors", metavar="PATH", help="faces to become, best without glasses; default: first DATA"),
)


@_trains(
    "swaps",
    teacher=(
        list[Path],
        typer.Option([], "--teacher", metavar="FILE", help="recogniser that is asked too, may be given more than once"),
    ),
    donors=_Donors,
    fresh=None,
)
def _swaps() -> _Run:
    """Teach a complete prior to draw the faces of donors, and a universal direction to each: before the bank."""
    from fluidvid.prior.bank import run_swaps

    return run_swaps


@_trains(
    "bank",
    donors=_Donors,
    teacher=(
        list[Path],
        typer.Option(..., "--teacher", metavar="FILE", help="recogniser that guides, may be given more than once"),
    ),
    fresh=None,
)
def _bank() -> _Run:
    """Train universal directions to pseudonyms with recognisers, from a complete prior."""
    from fluidvid.prior.bank import run_bank

    return run_bank


@prior_app.command("sample")
def sample(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="one PNG a sample")],
    prior: Annotated[str, typer.Option("--prior", metavar="NAME|DIR", help="the backbone")] = "prior",
    count: Annotated[int, typer.Option("--count", metavar="N")] = 16,
    seed: _Seed = 0,
    ddim: Annotated[int, typer.Option("--ddim", metavar="K", help="denoising steps")] = 40,
    threads: _Threads = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace samples that are there")] = False,
) -> None:
    """Draw N faces from noise: DIR/000000.png and so on, the same for the same seed."""
    from fluidvid.prior.samples import write_samples

    _prepare(threads, quiet=True)
    write_samples(prior, count, seed, out, steps=ddim, overwrite=overwrite)


@prior_app.command("evaluate")
def evaluate(
    data: _Data,
    prior: Annotated[str, typer.Option("--prior", metavar="NAME|DIR", help="the backbone")] = "prior",
    training: Annotated[
        list[str] | None,
        typer.Option("--training", metavar="DATA", help="what it was trained on: is a sample one of these?"),
    ] = None,
    count: Annotated[int, typer.Option("--count", metavar="N", help="samples")] = 64,
    faces: Annotated[int, typer.Option("--faces", metavar="N", help="faces of DATA that are looked at")] = 256,
    ddim: Annotated[int, typer.Option("--ddim", metavar="K", help="denoising steps of a sample")] = 40,
    aligned: _Aligned = None,
    seed: _Seed = 0,
    threads: _Threads = None,
    as_json: _Json = False,
    quiet: _Quiet = False,
) -> None:
    """Measure a prior on faces it was not trained on: denoising, samples, round trip of the first stage."""
    from fluidvid.prior.evaluation import EvaluationRequest, evaluate_prior, table

    _prepare(threads, quiet)
    request = EvaluationRequest(tuple(data), prior, tuple(training or ()), count, faces, ddim, aligned, seed)
    figures = evaluate_prior(request)
    put(json.dumps(figures) if as_json else table(figures))
