"""`fluidvid prior train autoencoder|diffusion|identity|bank`, `sample`, `evaluate`."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from fluidvid.errors import ConfigError, TrainingError, TrainingInterruptedError

prior_app = typer.Typer(
    no_args_is_help=True,
    help="The diffusion prior: train your own on your own faces, draw samples, measure. Checkpoints survive a kill: "
    "--resume goes on.",
)
train_app = typer.Typer(
    no_args_is_help=True,
    help="Train one part, in this order: autoencoder, diffusion, bank; identity is a recogniser that guides edits. "
    "DATA: folders, zips or npz of pictures; raw ones are searched for faces and aligned.",
)
prior_app.add_typer(train_app, name="train")

_Data = Annotated[
    list[str],
    typer.Argument(metavar="DATA...", help="folder, zip or npz of faces; DATA=SHARE: how often it is drawn from"),
]
_Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="the result, and in DIR/run state and log")]
_Start = Annotated[str, typer.Option("--start", metavar="NAME|DIR", help="weights to begin with")]
_Fresh = Annotated[bool, typer.Option("--fresh", help="begin with new weights; --start only gives the shapes")]
_Resume = Annotated[bool, typer.Option("--resume", help="go on with the run in DIR")]
_Hours = Annotated[float, typer.Option("--hours", metavar="H", help="length in all, over every resumption")]
_Steps = Annotated[int | None, typer.Option("--steps", help="stop after so many in all, whatever --hours says")]
_Batch = Annotated[int | None, typer.Option("--batch", help="faces a step")]
_Checkpoint = Annotated[
    float | None, typer.Option("--checkpoint", metavar="SECONDS", help="time between checkpoints, default some minutes")
]
_Aligned = Annotated[
    bool | None,
    typer.Option("--aligned/--raw", help="pictures are aligned or not; otherwise those of the crop's size are"),
]
_Seed = Annotated[int, typer.Option("--seed", metavar="S")]
_Threads = Annotated[int | None, typer.Option("--threads", help="CPU threads, default: torch's own")]
_Licence = Annotated[str | None, typer.Option("--licence", help="of the result, for its card")]
_Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="no progress")]
_Json = Annotated[bool, typer.Option("--json", help="one JSON object on stdout")]


def _prepare(threads: int | None, quiet: bool) -> None:
    import torch

    if threads is not None:
        if threads < 1:
            raise ConfigError(f"--threads {threads}: a positive number is needed")
        torch.set_num_threads(threads)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", stream=sys.stderr)
    logging.getLogger("fluidvid").setLevel(logging.WARNING if quiet else logging.INFO)


def _train(run: Callable[..., dict[str, float]], threads: int | None, quiet: bool, as_json: bool, **given: Any) -> None:
    from fluidvid.models import ModelStore
    from fluidvid.prior.training import TrainingRequest

    if given["hours"] <= 0 or (given["steps"] is not None and given["steps"] < 1):
        raise ConfigError("--hours and --steps must be positive")
    if given["checkpoint"] is not None and given["checkpoint"] < 0:
        raise ConfigError("--checkpoint must not be negative")
    if given.get("batch") is not None and given["batch"] < 2:
        raise ConfigError(f"--batch {given['batch']}: at least 2 are needed")
    _prepare(threads, quiet)
    try:
        figures = run(TrainingRequest(**{**given, "data": tuple(given["data"])}), ModelStore())
    except KeyboardInterrupt:
        raise TrainingInterruptedError(
            f"interrupted: --resume goes on from the last checkpoint in {given['out']}"
        ) from None
    except FloatingPointError as error:
        raise TrainingError(
            f"{error}; --resume goes on from the last checkpoint, another --seed may avoid it"
        ) from error
    if as_json:
        sys.stdout.write(json.dumps({"out": str(given["out"]), "figures": figures}) + "\n")


@train_app.command("autoencoder")
def train_autoencoder(
    data: _Data,
    out: _Out,
    start: _Start = "prior",
    fresh: _Fresh = False,
    resume: _Resume = False,
    hours: _Hours = 1.0,
    steps: _Steps = None,
    batch: _Batch = None,
    checkpoint: _Checkpoint = None,
    aligned: _Aligned = None,
    seed: _Seed = 0,
    threads: _Threads = None,
    licence: _Licence = None,
    as_json: _Json = False,
    quiet: _Quiet = False,
) -> None:
    """Train the first stage, pixels to latents and back. Its latents change: train the diffusion on it afterwards."""
    from fluidvid.prior.training import run_autoencoder

    _train(
        run_autoencoder, threads, quiet, as_json, data=data, out=out, start=start, fresh=fresh, resume=resume,
        hours=hours, steps=steps, batch=batch, checkpoint=checkpoint, aligned=aligned, seed=seed, licence=licence,
    )  # fmt: skip


@train_app.command("diffusion")
def train_diffusion(
    data: _Data,
    out: _Out,
    start: _Start = "prior",
    fresh: _Fresh = False,
    resume: _Resume = False,
    hours: _Hours = 1.0,
    steps: _Steps = None,
    batch: _Batch = None,
    checkpoint: _Checkpoint = None,
    aligned: _Aligned = None,
    seed: _Seed = 0,
    threads: _Threads = None,
    licence: _Licence = None,
    as_json: _Json = False,
    quiet: _Quiet = False,
) -> None:
    """Train the U-Net on the latents of --start's first stage; DIR is then a backbone for edit.backbone."""
    from fluidvid.prior.training import run_diffusion

    _train(
        run_diffusion, threads, quiet, as_json, data=data, out=out, start=start, fresh=fresh, resume=resume,
        hours=hours, steps=steps, batch=batch, checkpoint=checkpoint, aligned=aligned, seed=seed, licence=licence,
    )  # fmt: skip


@train_app.command("identity")
def train_identity(
    data: _Data,
    out: _Out,
    teacher: Annotated[Path, typer.Option("--teacher", metavar="FILE", help="ONNX recogniser, ArcFace-aligned")],
    start: Annotated[
        str, typer.Option("--start", metavar="NAME|FILE", help="a student to begin with")
    ] = "identity_student",
    fresh: Annotated[bool, typer.Option("--fresh", help="begin with new weights")] = False,
    resume: _Resume = False,
    hours: _Hours = 1.0,
    steps: _Steps = None,
    batch: _Batch = None,
    checkpoint: _Checkpoint = None,
    aligned: _Aligned = None,
    seed: _Seed = 0,
    threads: _Threads = None,
    as_json: _Json = False,
    quiet: _Quiet = False,
) -> None:
    """Distil a small recogniser from a teacher into DIR/identity_student.onnx."""
    from fluidvid.prior.training import run_identity

    _train(
        run_identity, threads, quiet, as_json, data=data, out=out, start=start, fresh=fresh, resume=resume,
        hours=hours, steps=steps, batch=batch, checkpoint=checkpoint, aligned=aligned, seed=seed, teacher=teacher,
    )  # fmt: skip


@train_app.command("bank")
def train_bank(
    data: _Data,
    out: _Out,
    teacher: Annotated[
        Path, typer.Option("--teacher", metavar="FILE", help="recogniser that guides, e.g. mobilefacenet_ms1m.onnx")
    ],
    start: _Start = "prior",
    resume: _Resume = False,
    hours: _Hours = 1.0,
    steps: _Steps = None,
    batch: _Batch = None,
    checkpoint: _Checkpoint = None,
    aligned: _Aligned = None,
    seed: _Seed = 0,
    threads: _Threads = None,
    licence: _Licence = None,
    as_json: _Json = False,
    quiet: _Quiet = False,
) -> None:
    """Train universal directions to pseudonyms, drawn from the first DATA, from a complete prior."""
    from fluidvid.prior.bank import run_bank

    _train(
        run_bank, threads, quiet, as_json, data=data, out=out, start=start, resume=resume, hours=hours, steps=steps,
        batch=batch, checkpoint=checkpoint, aligned=aligned, seed=seed, licence=licence, teacher=teacher,
    )  # fmt: skip


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
    sys.stdout.write((json.dumps(figures) if as_json else table(figures)) + "\n")
