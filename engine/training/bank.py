"""Third phase of the embedded prior: universal directions in h, and a decoding half that obeys them.

A direction that is searched for one person on a few pictures may satisfy every loss and still look like make-up. Here
directions are learnt for many synthetic people at once, each applied to many others, on the path that is applied later:
coordinates are a linear read-out of the target's embedding, the basis of h-space and the U-Net's decoding half follow.
What is asked of the composited picture is what `fluidvid.engine.losses` asks of one person; the prior of the second
phase asks for a face: by how much more it would correct the edited latents than the source's is a direction back to
the manifold (delta denoising score, arXiv 2304.07090). A critic that learns beside it says where an edited face looks
drawn. Where nothing is displaced the decoding half is held to denoising, so that the model stays an unconditional
diffusion model.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fluidvid.engine.backbone import Backbone
from fluidvid.engine.composite import composite, face_region
from fluidvid.engine.crops import to_crops
from fluidvid.engine.face_networks import AttributeNetworks, Recogniser
from fluidvid.engine.precision import autocast
from fluidvid.engine.subspace import ComponentSpace
from fluidvid.engine.training.critic import CriticTraining, FaceCritic
from fluidvid.engine.training.diffusion import drop_skips
from fluidvid.engine.training.directed import DirectedHalf, ReadOut
from fluidvid.engine.training.edits import displaced, faces_of, identity_terms, kept_terms, swaps
from fluidvid.engine.training.pictures import augment
from fluidvid.engine.training.runs import TrainingOptions, TrainingRun, held, warmed
from fluidvid.engine.training.swaps import likeness
from fluidvid.engine.training.targets import Targets


@dataclass(frozen=True)
class BankTraining(TrainingOptions):
    """Options of one run; weights multiply the mean of each term.

    Attributes:
        batch: edits per step, an even number: each person becomes two others.
        learning_rate: of the decoding half.
        direction_rate: see `DirectedHalf`.
        swap: 0: recognisers alone say who an edited face should be; otherwise so does a donor's face in the crop, see
            `fluidvid.engine.training.swaps`.
        margin: cosine to the source, as a share of a recogniser's own threshold, below which nothing is gained.
        length: weight of the bound on the directions' length, see `too_long`.
        highest: largest timestep of the ordinary denoising that is kept up.
        manifold: length of the pull back to the manifold as a share of the other gradients'.
        levels: timesteps between which the manifold is looked at.
        adversarial: length of the critic's push as a share of the other gradients'.
        critic_rate: learning rate of the critic.
        critic_steps: updates of the critic per step.
        critic_warmup: steps in which the critic only learns, and its push is measured.
        partial: share of the samples that are edited at less than full strength, as in a fade.
        ema: decay of the average that is kept.
    """

    batch: int = 8
    learning_rate: float = 6e-5
    direction_rate: float = 2e-3
    margin: float = 0.3
    swap: float = 0.0
    displace: float = 6.0
    suppress: float = 14.0
    apart: float = 8.0
    landmarks: float = 1200.0
    mesh: float = 400.0
    expression: float = 2.0
    parts: float = 5.0
    colour: float = 15.0
    skin: float = 14.0
    manifold: float = 0.15
    levels: tuple[int, int] = (450, 700)
    adversarial: float = 0.6
    critic_rate: float = 5e-4
    critic_steps: int = 2
    critic_warmup: int = 300
    denoise: float = 20.0
    length: float = 5.0
    highest: int = 700
    partial: float = 0.2
    ema: float = 0.998


def train_bank(
    backbone: Backbone,
    space: ComponentSpace,
    read_out: ReadOut,
    targets: Targets,
    recognisers: Sequence[Recogniser],
    attributes: AttributeNetworks,
    pictures: NDArray[np.uint8],
    chances: NDArray[np.float64],
    out: Path,
    options: BankTraining,
) -> None:
    """Train for `options.hours`, checkpointing the averages into `out`; resumes from `out/state.pt`.

    Writes `unet/` and `hspace.safetensors`, and `coordinates.pt` `(N, L, K)` for the rows of `targets`.

    Args:
        backbone: after the second phase; its decoding half is trained in place.
        space: components at one level or several, the start of the basis.
        read_out: from the targets' codes to coordinates.
        targets: people to become.
        recognisers: what "who" means; those that judge later must not be among them.
        attributes: what stays.
        pictures: `(N, S, S, 3)` uint8 aligned faces, the people to edit.
        chances: `(N,)` sampling weights, 0 where held out.
        out: folder for checkpoints and `log.csv`.
        options: see `BankTraining`.
    """
    run = TrainingRun(out, options)
    torch.manual_seed(options.seed)
    generator, rng = torch.Generator().manual_seed(options.seed), np.random.default_rng(options.seed)
    unet, schedule = backbone.unet, backbone.schedule
    teacher = copy.deepcopy(unet)
    directed = DirectedHalf(unet, space, read_out, options.learning_rate, options.direction_rate)
    critic = FaceCritic()
    critic_training = CriticTraining(critic, options.critic_rate)
    share = 0.0
    judged, weight = 0, 0.0  # the critic's steps, and what its gradient is multiplied by
    if (state := run.resume()) is not None:
        directed.load_state(state)
        share = state["share"]
        if "critic_training" in state:
            critic_training.load_state_dict(state["critic_training"])
            judged, weight = state["judged"], state["weight"]
        rng = np.random.default_rng(options.seed + run.step)
        generator.manual_seed(options.seed + run.step)
    chances = chances / chances.sum()
    for progress in run.loop():
        pace = warmed(run.step, 100) * held(progress)
        directed.pace(pace)
        people = options.batch // 2
        n = 2 * people
        x = augment(to_crops(pictures[rng.choice(len(pictures), people, p=chances)]), generator)
        strength = torch.ones(people)
        faded = round(options.partial * people)
        strength[:faded] = 0.4 + 0.6 * torch.rand(faded, generator=generator)
        faces = faces_of(backbone, recognisers, attributes, x, strength, mesh=True)
        z, kept = faces.latents, faces.kept
        rows = targets.alike(kept, generator)
        region = face_region(kept.landmarks, backbone.crop_size)
        noise = torch.randn((people, *z.shape[1:]), generator=generator).repeat(2, 1, 1, 1)
        directions = directed.directions(directed.read_out(targets.codes[rows]))
        with autocast():
            after, denoise, length = displaced(backbone, space, faces, noise, directions)
            leaf = after.detach().requires_grad_()
            decoded = backbone.decode(leaf)
        edited = composite(faces.crops, decoded, region)
        goals = {net.name: targets.embeddings[net.name][rows] for net in recognisers}
        if options.swap:
            wanted, weights = swaps(faces, region, targets.pictures[rows], targets.meshes[rows])
            with torch.no_grad(), autocast():
                goals = {net.name: net(wanted).float() for net in recognisers}
        terms = identity_terms(faces, edited, recognisers, goals, options.margin)
        terms |= kept_terms(faces, edited, region * (decoded - faces.decoded), region, attributes)
        if options.swap:
            full = faces.strength >= 1
            terms["swap"] = likeness(edited[full], wanted[full], weights[full])
        # Ordinary denoising at any level, with and without skips.
        clean = z[:people]
        ts = torch.randint(60, options.highest + 1, (len(clean),), generator=generator)
        with autocast():
            with torch.no_grad():
                plain = unet.encode(schedule.add_noise(clean, torch.randn(clean.shape, generator=generator), ts), ts)
                plain = drop_skips(plain, (torch.rand(len(clean), generator=generator) < 0.5).float())
            terms["denoise"] = 0.5 * denoise + 0.5 * (unet.decode(plain).float() - clean).pow(2).mean()
        # Both sides went through the first stage, so that its blur gives nobody away.
        drawn = faces.crops + region * (decoded - faces.crops)
        real = x + region[:people] * (faces.decoded[:people] - x)
        times = options.critic_steps * (2 if judged < options.critic_warmup else 1)
        terms["critic"] = z.new_tensor(critic_training.step(real, drawn, generator, times))
        (push,) = torch.autograd.grad(-critic(drawn).mean(), leaf, retain_graph=True)
        unpaired = options.denoise * terms["denoise"] + options.length * length
        loss = torch.stack([getattr(options, k) * v for k, v in terms.items() if k not in ("denoise", "critic")]).sum()
        (pull,) = torch.autograd.grad(loss, leaf)
        if judged < options.critic_warmup:  # calibrated while only the critic learns, then fixed
            ratio = options.adversarial * float(pull.norm() / push.norm().clamp_min(1e-12))
            weight = ratio if judged == 0 else weight + 0.05 * (ratio - weight)
        else:
            pull = pull + weight * min(1.0, (judged - options.critic_warmup) / options.critic_warmup) * push
        judged += 1
        with torch.no_grad(), autocast():
            ts = torch.randint(*options.levels, (n,), generator=generator).repeat(2)
            pair, noise = torch.cat([leaf, z]), torch.randn(z.shape, generator=generator).repeat(2, 1, 1, 1)
            z_t = schedule.add_noise(pair, noise, ts)
            correction = teacher.decode(teacher.encode(z_t, ts)).float() - pair
        back = correction[n:] - correction[:n]
        if run.step < 200:  # calibrated at first, then fixed: what is near the manifold is hardly pulled
            ratio = options.manifold * float(pull.norm() / back.norm().clamp_min(1e-12))
            share = ratio if run.step == 0 else share + 0.05 * (ratio - share)
        directed.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward([after, unpaired], [pull + share * back, torch.ones_like(unpaired)])
        norm = directed.clip()
        run.check_finite(norm, "a gradient")
        directed.optimiser.step()
        run.made(
            {k: v.item() for k, v in terms.items() if k != "mesh"}
            | {"manifold": float(back.pow(2).mean()), "share": share, "weight": weight, "norm": norm}
        )
        directed.follow(options.ema, run.step)
        if run.due:
            row = {"step": run.step, "hours": run.hours, "pace": pace} | run.means()
            state = directed.state() | {"share": share}
            state |= {"critic_training": critic_training.state_dict(), "judged": judged, "weight": weight}
            run.checkpoint(row, state)
            directed.export(targets.codes, out)
