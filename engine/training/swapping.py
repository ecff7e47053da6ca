"""The decoding half of the embedded prior learns to draw another person's face: before the bank's training.

What an edit to a pseudonym should look like is known: the donor's face in the crop (`fluidvid.engine.training.swaps`).
So this is learnt like any mapping from examples, in latents and at a fraction of the bank's cost: the direction says
who, skips say the pose, the light and the expression. What is left of the person in it recognisers say, and a critic
what looks drawn, on a few of the pairs. These are edited as they will be once a search has led them away from their
donors and their strength goes beyond 1 (adversarial training, Goodfellow et al., arXiv 1412.6572): otherwise faces
come out right where training looked, and drawn where edits end up. Where nothing is displaced the decoding half is
held to denoising.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from fluidvid.engine.backbone import Backbone
from fluidvid.engine.composite import composite, edited_region, face_region, fitted, skin_region, unmarked
from fluidvid.engine.crops import to_crops
from fluidvid.engine.face_networks import AttributeNetworks, Recogniser
from fluidvid.engine.geodesic import displace
from fluidvid.engine.glasses import WORN, Glasses
from fluidvid.engine.hspace import Bottleneck, SplitUNet
from fluidvid.engine.losses import age_gender_change, expression_change
from fluidvid.engine.precision import autocast
from fluidvid.engine.subspace import ComponentSpace
from fluidvid.engine.training.critic import CriticTraining, FaceCritic
from fluidvid.engine.training.diffusion import drop_skips
from fluidvid.engine.training.directed import DirectedHalf, ReadOut, too_long
from fluidvid.engine.training.edits import mean_terms, who_terms
from fluidvid.engine.training.grimaces import grimaces
from fluidvid.engine.training.latents import LatentCache
from fluidvid.engine.training.pictures import augment
from fluidvid.engine.training.runs import TrainingOptions, TrainingRun, held, warmed
from fluidvid.engine.training.swaps import swapped
from fluidvid.engine.training.targets import Targets
from fluidvid.engine.training.turns import turns


@dataclass(frozen=True)
class SwapTraining(TrainingOptions):
    """Options of one run.

    Attributes:
        batch: pairs per step, an even number.
        learning_rate: of the decoding half.
        direction_rate: see `DirectedHalf`.
        fresh: pairs made anew at every step, an even number from 8 on.
        cache: pairs that are kept; the oldest give way. They take 17 KiB each.
        begin: pairs before the first step.
        length: weight of the bound on the directions' length, see `too_long`.
        denoise: weight of the ordinary denoising that is kept up.
        denoised: faces a step that are, others than the pairs': what edits see over and over is no measure of faces.
        highest: largest timestep of it.
        skin: weight of bare skin, where a feature's is 1.
        outside: weight of everything, whatever is seen there.
        judged: pairs of a step that recognisers and the critic see, if there are recognisers; an even number.
        asked: recognisers that are asked at a step.
        displace: weight of being who the picture to be drawn shows.
        suppress: weight of not being who the person was.
        apart: weight of two pseudonyms of one person being no more alike than what they are drawn to.
        expression: weight of the person's expression, which donors do not have.
        age_gender: weight of the person's age and gender, see `fluidvid.engine.losses.age_gender_change`.
        margin: cosine to the source, as a share of a recogniser's own threshold, below which nothing is gained.
        identity: length of the recognisers' push as a share of the pictures'.
        adversarial: the same of the critic's.
        critic_rate: learning rate of the critic.
        critic_warmup: steps in which the critic only learns; as many again in which its push grows.
        critic_updates: of the critic in each of those steps, for it must tell before it may push.
        calibrated: steps more in which the critic's push is measured.
        searched: by how many standard deviations over the donors the directions of judged pairs are led away, as a
            search would lead them, at most.
        strongest: strength at which judged pairs are shown, at most, see `fluidvid.engine.plan.extrapolated`.
        ema: decay of the average that is kept.
    """

    batch: int = 24
    learning_rate: float = 4e-4
    direction_rate: float = 1e-3
    fresh: int = 16
    cache: int = 40_000
    begin: int = 1024
    length: float = 1.0
    denoise: float = 8.0
    denoised: int = 48
    highest: int = 700
    skin: float = 0.5
    outside: float = 0.1
    judged: int = 8
    asked: int = 2
    displace: float = 2.0
    suppress: float = 10.0
    apart: float = 3.0
    expression: float = 3.0
    age_gender: float = 3.0
    margin: float = 0.3
    identity: float = 3.5
    adversarial: float = 1.4
    critic_rate: float = 5e-4
    critic_warmup: int = 60
    critic_updates: int = 10
    calibrated: int = 40
    searched: float = 1.5
    strongest: float = 2.0
    ema: float = 0.999


@dataclass(frozen=True, eq=False)
class Pairs:
    """Faces, and what they should become.

    Attributes:
        latents: `(n, C, h, w)` of the crops.
        wanted: the same of the crops with a donor's face.
        rows: `(n,)` the donors among the targets.
        weights: `(n, 1, h, w)` where it counts.
    """

    latents: Tensor
    wanted: Tensor
    rows: Tensor
    weights: Tensor

    def __getitem__(self, some: slice | Tensor) -> Pairs:
        return Pairs(self.latents[some], self.wanted[some], self.rows[some], self.weights[some])

    def put(self, places: Tensor, pairs: Pairs) -> None:
        """Replace those at `(k,)` places by k others."""
        for mine, other in zip(vars(self).values(), vars(pairs).values(), strict=True):
            mine[places] = other

    def float(self) -> Pairs:
        """In float32."""
        return Pairs(self.latents.float(), self.wanted.float(), self.rows, self.weights.float())


@dataclass(eq=False)
class PairCache:
    """Pairs in memory as float16, the oldest replaced by new ones: other faces, or other light on them, other donors.

    Attributes:
        backbone: its first stage makes the latents.
        attributes: with the mesh.
        targets: the donors.
        pictures: `(N, S, S, 3)` uint8 aligned faces.
        chances: `(N,)` sampling weights, 0 where held out.
        options: see `SwapTraining`.
        rng: chooses faces and pairs.
        generator: chooses augmentations and donors.
        glasses: finds those that are worn, which stay; None: donors, who wear none, take them off.
        made: pairs so far, also those that have given way.
    """

    backbone: Backbone
    attributes: AttributeNetworks
    targets: Targets
    pictures: NDArray[np.uint8]
    chances: NDArray[np.float64]
    options: SwapTraining
    rng: np.random.Generator
    generator: torch.Generator
    glasses: Glasses | None = None
    made: int = 0
    kept: Pairs | None = None
    """A person's first pair in the first half, the other at the same place of the second. Allocated at once: tensors
    that live long between larger ones that do not would keep the heap from shrinking."""

    def __post_init__(self) -> None:
        self.chances = self.chances / self.chances.sum()

    @torch.no_grad()
    def grow(self, count: int) -> None:
        """Make `count` pairs or as many as are kept, two of each face."""
        people = min(max(1, count // 2), self._room)
        picked = self.rng.choice(len(self.pictures), people, p=self.chances)
        x = augment(to_crops(self.pictures[picked]), self.generator)
        with autocast():
            solid = self.attributes.solid_mesh(x).float()
        x, mesh = turns(x, solid, self.generator)
        x = grimaces(x, mesh, self.generator)
        with autocast():
            kept = self.attributes(x, mesh=True).repeat(2)
        assert kept.mesh is not None
        rows = self.targets.alike(kept, self.generator)
        size = x.shape[-1]
        landmarks, region = kept.landmarks.float(), face_region(kept.landmarks, size)
        donors, meshes = self.targets.pictures[rows], self.targets.meshes[rows]
        both = torch.cat([x, x])
        wanted = swapped(both, landmarks, kept.mesh.float(), region, donors.to(x), meshes)
        face = region
        if self.glasses is not None:
            rims = worn_rims(self.glasses, x).repeat(2, 1, 1, 1)
            wanted, face = torch.lerp(wanted, both, rims), region * (1 - rims)
        wanted = torch.lerp(wanted, unmarked(both, wanted, landmarks, face), face)
        with autocast():
            z = self.backbone.encode(torch.cat([x, wanted])).half()
        weights = region * (1 - (1 - self.options.skin) * skin_region(landmarks, size))
        weights = F.avg_pool2d(weights, size // z.shape[-1]).half()
        new = Pairs(z[:people].repeat(2, 1, 1, 1), z[people:], rows, weights)
        if self.kept is None:
            self.kept = Pairs(*(t.new_zeros((2 * self._room, *t.shape[1:])) for t in vars(new).values()))
        places = (self.made // 2 + torch.arange(people)) % self._room
        self.kept.put(torch.cat([places, self._room + places]), new)
        self.made += 2 * people

    @property
    def _room(self) -> int:
        return max(1, self.options.cache // 2)

    def draw(self, count: int) -> Pairs:
        """`count` pairs in float32, of half as many people as are judged and then of the same again, as another."""
        while self.made < max(self.options.begin, count):
            self.grow(64)
        self.grow(self.options.fresh)
        assert self.kept is not None
        some = torch.from_numpy(self.rng.choice(min(self.made // 2, self._room), count // 2, replace=False))
        parts = some.split(max(1, self.options.judged // 2))
        return self.kept[torch.cat([half + part for part in parts for half in (0, self._room)])].float()


def worn_rims(glasses: Glasses, x: Tensor) -> Tensor:
    """`(N, 1, S, S)` in [0, 1], the rims in crops `(N, 3, S, S)` of people who wear glasses; 0 in the others'."""
    found: tuple[Tensor, Tensor] = glasses(x)
    rims, worn = found
    return rims * (worn >= WORN).reshape(-1, 1, 1, 1)


@dataclass(frozen=True, eq=False)
class _Edits:
    """Latents that may be edited along any coordinates, as often as one likes.

    Attributes:
        directed: makes directions of coordinates.
        unet: its decoding half draws.
        z: `(n, C, h, w)` latents.
        bottleneck: of these with noise.
        plain: `(n, C, h, w)` what is predicted of it where nothing is displaced.
    """

    directed: DirectedHalf
    unet: SplitUNet
    z: Tensor
    bottleneck: Bottleneck
    plain: Tensor

    def __getitem__(self, some: slice) -> _Edits:
        return _Edits(self.directed, self.unet, self.z[some], self.bottleneck[some], self.plain[some])

    def __call__(self, coordinates: Tensor) -> Tensor:
        """Latents `(n, C, h, w)` edited along `(n, 1, K)` coordinates."""
        h = self.bottleneck.h.float()
        directions = self.directed.directions(coordinates).reshape(h.shape)
        displaced = displace(h, directions, 1.0, "geodesic")
        with autocast():
            drawn = self.unet.decode(self.bottleneck, displaced).float()
        return self.z + drawn - self.plain


class _Beholders:
    """What recognisers and a critic ask of decoded pictures: the donor, nobody else, and that nothing looks drawn.

    They see edits as they are shown, put into the person's own picture. Their pushes are gradients at the latents,
    scaled against that of the pictures' difference while they are calibrated: recognisers alone end in drawn faces, and
    here the pictures hold them.

    Args:
        backbone: its first stage decodes.
        recognisers: a few of them, drawn anew, are asked at every step.
        attributes: say where the face is, expression, age and gender.
        options: see `SwapTraining`.
        glasses: see `PairCache`.
    """

    def __init__(
        self,
        backbone: Backbone,
        recognisers: Sequence[Recogniser],
        attributes: AttributeNetworks,
        options: SwapTraining,
        glasses: Glasses | None = None,
    ) -> None:
        self.backbone, self.recognisers, self.options = backbone, list(recognisers), options
        self.attributes, self.glasses = attributes, glasses
        self.critic = FaceCritic()
        self.training = CriticTraining(self.critic, options.critic_rate, batch=16)
        self.step, self.weights = 0, [0.0, 0.0]

    @torch.no_grad()
    def seen(self, latents: Tensor) -> Tensor:
        """`(n, 3, S, S)` the decoded pictures."""
        with autocast():
            return self.backbone.decode(latents).float()

    def into(self, source: Tensor) -> Callable[[Tensor], Tensor]:
        """From edited latents `(n, C, h, w)` to them as they are shown in pictures `source` `(n / 2, 3, S, S)`."""
        with torch.no_grad():
            with autocast():
                landmarks = self.attributes.landmarks(source).float()
            rims = None if self.glasses is None else worn_rims(self.glasses, source)
            mask, gaze = edited_region(landmarks, source.shape[-1], rims, gaze=True)
            assert gaze is not None
            crops, landmarks, mask, gaze = (torch.cat([x, x]) for x in (source, landmarks, mask, gaze))

        def put(latents: Tensor) -> Tensor:
            with autocast():
                decoded = self.backbone.decode(latents).float()
            return composite(crops, fitted(crops, decoded, landmarks, mask, gaze), mask)

        return put

    def likeness(
        self, leaf: Tensor, source: Tensor, put: Callable[[Tensor], Tensor], rng: np.random.Generator
    ) -> Tensor:
        """The gradient `(n, C, h, w)`, at edited latents, of how much one recogniser takes people for themselves.

        `leaf`, `source` and `put` as below.
        """
        net = self.recognisers[int(rng.integers(len(self.recognisers)))]
        leaf = leaf.detach().requires_grad_()
        shown = put(leaf)
        with autocast():
            new = net(shown).float()
            with torch.no_grad():
                old = net(source).float()
        (gradient,) = torch.autograd.grad((new * old.repeat(2, 1)).sum(), leaf)
        return gradient

    def __call__(
        self,
        leaf: Tensor,
        source: Tensor,
        put: Callable[[Tensor], Tensor],
        pairs: Pairs,
        pull: Tensor,
        rng: np.random.Generator,
        generator: torch.Generator,
    ) -> tuple[Tensor, dict[str, float]]:
        """The push `(n, C, h, w)` to be added to `pull` at edited latents, and figures.

        Args:
            leaf: `(n, C, h, w)` edited latents; n is even, the second half are the first half's people again.
            source: `(n / 2, 3, S, S)` these people as they were.
            put: shows latents in these pictures, see `into`.
            pairs: what they should be.
            pull: the gradient that is there.
            rng: chooses who is asked.
            generator: for the critic.
        """
        options, people = self.options, len(leaf) // 2
        leaf = leaf.detach().requires_grad_()
        drawn = put(leaf)
        with torch.no_grad():
            wanted = put(pairs.wanted)
        who = []
        for i in rng.permutation(len(self.recognisers))[: options.asked]:
            net = self.recognisers[int(i)]
            with autocast():
                new = net(drawn).float()
                with torch.no_grad():
                    goal, old = net(torch.cat([wanted, source])).float().split((2 * people, people))
            who.append(who_terms(new, goal, old.repeat(2, 1), leaf.new_ones(len(leaf)), options.margin * net.threshold))
        attributes = self.attributes
        with torch.no_grad():
            expression = attributes.expression(source).repeat(2, 1)
            ages, males = attributes.ages(source)
        terms = mean_terms(who) | {
            "expression": expression_change(attributes.expression(drawn), expression),
            "age_gender": age_gender_change(attributes.ages(drawn), (ages.repeat(2), males.repeat(2))),
        }
        (identity,) = torch.autograd.grad(
            torch.stack([getattr(options, name) * term for name, term in terms.items()]).sum(), leaf, retain_graph=True
        )
        warm = self.step < options.critic_warmup
        loss = self.training.step(wanted, drawn.detach(), generator, options.critic_updates if warm else 1)
        (natural,) = torch.autograd.grad(-self.critic(drawn).mean(), leaf)
        for i, (push, share) in enumerate(((identity, options.identity), (natural, options.adversarial))):
            if self.step < options.critic_warmup + options.calibrated * i:
                ratio = share * float(pull.norm() / push.norm().clamp_min(1e-12))
                self.weights[i] = ratio if self.step == 0 else self.weights[i] + 0.05 * (ratio - self.weights[i])
        begun = min(1.0, max(0, self.step - options.critic_warmup) / options.critic_warmup)
        self.step += 1
        figures = {name: term.item() for name, term in terms.items()} | {"critic": loss}
        return self.weights[0] * identity + begun * self.weights[1] * natural, figures

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"critic_training": self.training.state_dict(), "judged": self.step, "weights": self.weights}

    def load_state(self, state: dict[str, Any]) -> None:
        """From a checkpoint, of a run with recognisers or without."""
        if "critic_training" in state:
            self.training.load_state_dict(state["critic_training"])
            self.step, self.weights = state["judged"], state["weights"]


def train_swaps(
    backbone: Backbone,
    space: ComponentSpace,
    read_out: ReadOut,
    targets: Targets,
    recognisers: Sequence[Recogniser],
    attributes: AttributeNetworks,
    pictures: NDArray[np.uint8],
    chances: NDArray[np.float64],
    out: Path,
    options: SwapTraining,
    *,
    glasses: Glasses | None = None,
) -> None:
    """Train for `options.hours`, checkpointing the averages into `out` as `train_bank` does; resumes likewise.

    Args:
        backbone: its decoding half is trained in place.
        space: components at one level, the start of the basis.
        read_out: from the targets' codes to coordinates.
        targets: people to become; their pictures are the donors.
        recognisers: that are asked beside, with a critic; none: pictures alone are compared.
        attributes: with the mesh, and the expression.
        pictures: `(N, S, S, 3)` uint8 aligned faces, the people to edit.
        chances: `(N,)` sampling weights, 0 where held out.
        out: folder for checkpoints and `log.csv`.
        options: see `SwapTraining`.
        glasses: see `PairCache`.
    """
    run = TrainingRun(out, options)
    torch.manual_seed(options.seed)
    unet, schedule = backbone.unet, backbone.schedule
    directed = DirectedHalf(unet, space, read_out, options.learning_rate, options.direction_rate)
    beholders = _Beholders(backbone, recognisers, attributes, options, glasses)
    if (state := run.resume()) is not None:
        directed.load_state(state)
        beholders.load_state(state)
    generator = torch.Generator().manual_seed(options.seed + run.step)
    rng = np.random.default_rng(options.seed + run.step)
    faces = LatentCache(backbone.first_stage, pictures, chances, rng=rng, generator=generator)
    cache = PairCache(backbone, attributes, targets, pictures, chances, options, rng, generator, glasses)
    (level,) = space.timesteps
    judged = slice(options.judged)
    for progress in run.loop():
        pace = warmed(run.step, 100) * held(progress)
        directed.pace(pace)
        pairs = cache.draw(options.batch)
        z, n = pairs.latents, len(pairs.rows)
        coordinates = directed.read_out(targets.codes[pairs.rows])
        ts = torch.full((n,), level)
        z_t = schedule.add_noise(z, torch.randn(z.shape, generator=generator), ts)
        clean = faces.draw(options.denoised)
        times = torch.randint(60, options.highest + 1, (len(clean),), generator=generator)
        times[::3] = level
        keep = (torch.rand(len(clean), generator=generator) < 0.5).float()
        noisy = schedule.add_noise(clean, torch.randn(clean.shape, generator=generator), times)
        with autocast(), torch.no_grad():
            bottleneck = unet.encode(z_t, ts)
            plain = unet.decode(bottleneck).float()
            ordinary = drop_skips(unet.encode(noisy, times), keep)
        length = too_long(bottleneck.h, directed.directions(coordinates))
        edited = _Edits(directed, unet, z, bottleneck, plain)
        if recognisers:
            at = coordinates[judged].detach().requires_grad_()
            tried, source = edited[judged](at), beholders.seen(z[: len(at) // 2])
            put = beholders.into(source)
            (uphill,) = torch.autograd.grad(tried, at, beholders.likeness(tried, source, put, rng))
            far = options.searched * torch.rand((len(at), 1, 1), generator=generator)
            led = coordinates[judged] - far * directed.spread(targets.codes) * uphill.sign()
            coordinates = torch.cat([led, coordinates[len(at) :]])
        after = edited(coordinates)
        with autocast():
            denoise = (unet.decode(ordinary).float() - clean).pow(2).mean()
        leaf = after.detach().requires_grad_()
        weight = pairs.weights.square() + options.outside
        swap = (weight * (leaf - pairs.wanted).abs()).sum() / (z.shape[1] * weight.sum())
        (pull,) = torch.autograd.grad(swap, leaf)
        figures = {"swap": swap.item(), "denoise": denoise.item()}
        if recognisers:
            strength = 1 + (options.strongest - 1) * torch.rand((len(at), 1, 1, 1), generator=generator)
            shown = z[judged] + strength * (leaf[judged] - z[judged])
            push, found = beholders(shown, source, put, pairs[judged], pull[judged], rng, generator)
            pull[judged] += strength * push
            figures |= found
        unpaired = options.denoise * denoise + options.length * length
        directed.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward([after, unpaired], [pull, torch.ones_like(unpaired)])
        norm = directed.clip()
        run.check_finite(norm, "a gradient")
        directed.optimiser.step()
        run.made(figures | {"length": length.item(), "norm": norm})
        directed.follow(options.ema, run.step)
        if run.due:
            run.checkpoint(
                {"step": run.step, "hours": run.hours, "pace": pace} | run.means(), directed.state() | beholders.state()
            )
            directed.export(targets.codes, out)
