"""From a trained prior: the components of its h-space, the pseudonym bank and the linear first guess."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fluidvid.engine.backbone import Backbone
from fluidvid.engine.face_networks import AttributeNetworks, Recogniser
from fluidvid.engine.pseudonyms import PseudonymBank
from fluidvid.engine.subspace import ComponentSpace, principal_components


@torch.inference_mode()
def bottlenecks(backbone: Backbone, crops: Tensor, timesteps: Sequence[int], generator: torch.Generator) -> Tensor:
    """`(N, L, C * h * w)` activations of `(N, 3, S, S)` crops, each with one fresh noise shared by its levels."""
    rows = []
    for part in crops.split(32):
        z = backbone.encode(part)
        noise = torch.randn(z.shape, generator=generator).to(z)
        levels = []
        for t in timesteps:
            ts = torch.full((len(z),), t, device=z.device)
            levels.append(
                backbone.unet.encode(backbone.schedule.add_noise(z, noise, ts), ts).h.flatten(1).float().cpu()
            )
        rows.append(torch.stack(levels, 1))
    return torch.cat(rows)


def fit_components(h: Tensor, timesteps: Sequence[int], shape: tuple[int, int, int], count: int) -> ComponentSpace:
    """Principal components of `bottlenecks` per level."""
    basis = torch.stack([principal_components(h[:, level], count) for level in range(len(timesteps))])
    return ComponentSpace(tuple(timesteps), basis, shape)


@torch.inference_mode()
def fit_bank(
    space: ComponentSpace,
    h: Tensor,
    crops: Tensor,
    recognisers: Sequence[Recogniser],
    attributes: AttributeNetworks,
    *,
    predictor_recogniser: str,
    size: int,
    ridge: float = 0.05,
) -> PseudonymBank:
    """Embeddings, ages and genders of the first `size` crops, and a ridge regression from all of them.

    The regression explains coordinates of h by the embedding and, so that it does not carry them, by pose and light
    (landmarks and mean colours); only the embedding's part is kept.
    """
    parts = crops.split(32)
    embeddings = {r.name: torch.cat([r(part) for part in parts]) for r in recognisers}
    kept = [attributes(part, mesh=False) for part in parts]
    landmarks = torch.cat([a.landmarks for a in kept]).flatten(1)
    ages, males = torch.cat([a.age for a in kept]), torch.cat([a.male for a in kept])
    colour = torch.nn.functional.adaptive_avg_pool2d(crops, 2).flatten(1)
    nuisance = torch.cat([landmarks, colour], 1)
    nuisance = (nuisance - nuisance.mean(0)) / nuisance.std(0).clamp_min(1e-6)
    # The landmarks are strongly correlated: their leading components are enough.
    nuisance = nuisance @ torch.linalg.svd(nuisance, full_matrices=False)[2][:24].T
    nuisance = nuisance / nuisance.std(0)
    identity = embeddings[predictor_recogniser]
    width = identity.shape[1]
    design = torch.cat([identity - identity.mean(0), nuisance], 1).double()
    wanted = space.coordinates_of(h - h.mean(0)).flatten(1).double()
    scale = design.pow(2).mean(0).sqrt()
    normed = design / scale
    gram = normed.T @ normed / len(normed) + ridge * torch.eye(normed.shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(gram, normed.T @ wanted / len(normed)) / scale[:, None]
    predictor = weights[:width].T.reshape(*space.basis.shape[:2], width).float()
    tables = {name: e[:size] for name, e in embeddings.items()}
    return PseudonymBank(tables, ages[:size], males[:size], predictor, predictor_recogniser)
