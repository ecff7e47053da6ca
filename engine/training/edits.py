"""What one step of the bank's training edits, and what is asked of the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fluidvid.engine.backbone import Backbone
from fluidvid.engine.composite import skin_region
from fluidvid.engine.face_networks import AttributeNetworks, Attributes, Recogniser
from fluidvid.engine.geodesic import displace
from fluidvid.engine.losses import (
    change_within,
    colour_shift,
    expression_change,
    part_correlation,
    part_windows,
    parts,
    suppress,
)
from fluidvid.engine.precision import autocast
from fluidvid.engine.subspace import ComponentSpace
from fluidvid.engine.training.directed import too_long
from fluidvid.engine.training.swaps import swapped


@dataclass(frozen=True, eq=False)
class Faces:
    """The people of one step, one after another and then again: each becomes two others.

    Attributes:
        crops: `(N, 3, S, S)`.
        latents: `(N, c, s, s)` of the crops.
        decoded: `(N, 3, S, S)` what the first stage makes of them.
        strength: `(N,)` of the edits.
        kept: what stays.
        source: embeddings `(N, D)` by recogniser name.
    """

    crops: Tensor
    latents: Tensor
    decoded: Tensor
    strength: Tensor
    kept: Attributes
    source: dict[str, Tensor]


def faces_of(
    backbone: Backbone,
    recognisers: Sequence[Recogniser],
    attributes: AttributeNetworks,
    x: Tensor,
    strength: Tensor,
    *,
    mesh: bool,
) -> Faces:
    """What has to be known of `(N / 2, 3, S, S)` crops; `(N / 2,)` strengths."""
    with torch.no_grad(), autocast():
        z = backbone.encode(x).float()
        kept = attributes(x, mesh=mesh).repeat(2)
        source = {r.name: r(x).repeat(2, 1) for r in recognisers}
        decoded = backbone.decode(z).repeat(2, 1, 1, 1)
    return Faces(x.repeat(2, 1, 1, 1), z.repeat(2, 1, 1, 1), decoded, strength.repeat(2), kept, source)


def displaced(
    backbone: Backbone, space: ComponentSpace, faces: Faces, noise: Tensor, directions: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Difference editing along `(N, L, C * h * w)` directions: latents after it, the error of what was not moved, and
    how much too long the directions are.

    The encoding half has no gradient at the first level: nothing that is trained comes before it.
    """
    n, after = len(noise), faces.latents
    denoise = length = noise.new_zeros(())
    for level, t in enumerate(space.timesteps):
        ts = torch.full((n,), t)
        with torch.set_grad_enabled(level > 0):
            bottleneck = backbone.unet.encode(backbone.schedule.add_noise(after, noise, ts), ts)
        if level == 0:
            length = too_long(bottleneck.h, directions)
        direction = directions[:, level].reshape(n, *space.shape)
        moved = displace(bottleneck.h.float(), direction, faces.strength, "geodesic")
        both = backbone.unet.decode(bottleneck.repeat(2), torch.cat([bottleneck.h.float(), moved])).float()
        if level == 0:
            denoise = (both[:n] - faces.latents).pow(2).mean()
        after = after + both[n:] - both[:n].detach()
    return after, denoise, length


def who_terms(new: Tensor, goal: Tensor, source: Tensor, strength: Tensor, margin: float) -> dict[str, Tensor]:
    """How much edited faces are who they become, are not who they were, and are two people, as one recogniser sees it.

    Args:
        new: `(N, D)` embeddings of the edited faces; the second half are the first half's people again.
        goal: `(N, D)` to become.
        source: `(N, D)` of the people.
        strength: `(N,)` of the edits; what was faded is asked less.
        margin: cosine to the source below which nothing is gained.
    """
    people, full = len(new) // 2, strength >= 1
    # Two pseudonyms of one person are no more alike than what they are drawn to.
    like, limit = ((e[:people] * e[people:]).sum(1)[full[:people]] for e in (new, goal))
    return {
        "displace": (strength * (1 - (new * goal).sum(1))).mean(),
        "suppress": suppress(new[full], source[full], margin),
        "apart": (like - limit).relu().mean(),
    }


def mean_terms(found: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The terms of several recognisers, each the mean."""
    return {name: torch.stack([terms[name] for terms in found]).mean() for name in found[0]}


def identity_terms(
    faces: Faces, edited: Tensor, recognisers: Sequence[Recogniser], goals: dict[str, Tensor], margin: float
) -> dict[str, Tensor]:
    """`who_terms` of edited faces, mean over recognisers; `margin` as a share of their thresholds.

    `goals`: `(N, D)` embeddings to become, by recogniser name.
    """
    return mean_terms(
        [
            who_terms(
                net(edited), goals[net.name], faces.source[net.name].float(), faces.strength, margin * net.threshold
            )
            for net in recognisers
        ]
    )


def kept_terms(
    faces: Faces, edited: Tensor, change: Tensor, region: Tensor, attributes: AttributeNetworks
) -> dict[str, Tensor]:
    """What should have stayed: shape, expression, eyes and mouth, colours, bare skin."""
    kept = faces.kept
    windows = part_windows(kept.landmarks)
    terms = {
        "landmarks": (attributes.landmarks(edited) - kept.landmarks.float()).pow(2).mean(),
        "expression": expression_change(attributes.expression(edited), kept.expression.float()),
        "parts": part_correlation(parts(edited, windows), parts(faces.crops, windows)),
        "colour": colour_shift(change, region),
        "skin": change_within(change, region * skin_region(kept.landmarks, edited.shape[-1])),
    }
    if kept.mesh is not None:
        terms["mesh"] = (attributes.mesh(edited) - kept.mesh.float()).pow(2).mean()
    return terms


@torch.no_grad()
def swaps(faces: Faces, region: Tensor, donors: Tensor, meshes: Tensor) -> tuple[Tensor, Tensor]:
    """`(N, 3, S, S)` crops with the donors' faces, and `(N, 1, S, S)` how much they count: features most.

    Args:
        faces: who is edited, with their mesh.
        region: `(N, 1, S, S)`.
        donors: `(N, 3, S, S)` the people to become.
        meshes: `(N, 468, 2)` of them.
    """
    kept = faces.kept
    assert kept.mesh is not None
    wanted = swapped(faces.crops, kept.landmarks.float(), kept.mesh.float(), region, donors, meshes)
    return wanted, region * (1 - 0.6 * skin_region(kept.landmarks, region.shape[-1]))
