"""Who a person becomes: synthetic embeddings to draw pseudonyms from, and the universal direction to each of them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fluidvid.errors import ModelError

GIVEN = 0.75
"""Share of the bank that is out at once; after that, what was given away longest ago comes back, and whoever is not in
the picture may have to share."""
GENDER = 6.0
"""Misfit of another gender; ten years of age are 1, a likeness is 2 times its cosine by each recogniser."""
AWAY = 1.0
"""How far a direction is led away from what it shares with those of people like the pseudonym, in units of the rest."""
EMBEDDING = "embedding."
"""What the names of a file's tables of embeddings begin with."""
LIKE = 60
"""How many of the bank, the nearest in age and gender, are people like a pseudonym, itself among them."""


@dataclass(frozen=True)
class Person:
    """What decides which pseudonyms fit: age in years, probability of male."""

    age: float
    male: float


@dataclass(eq=False)
class PseudonymBank:
    """Embeddings of synthetic people only; no picture and no real person's template is inside.

    Attributes:
        embeddings: recogniser name -> `(N, D)` unit embeddings.
        ages: `(N,)` years.
        males: `(N,)` probabilities.
        coordinates: `(N, L, K)` universal direction to each pseudonym in the coordinates of the backbone's components
            (`fluidvid.engine.training.bank`), or None.
        drawn: `(N,)` bool who may be drawn, or None: everybody. The others are known only: an audit's gallery.
        used: indices already given away in this run, the oldest first.
    """

    embeddings: dict[str, Tensor]
    ages: Tensor
    males: Tensor
    coordinates: Tensor | None = None
    drawn: Tensor | None = None
    used: dict[int, None] = field(default_factory=dict)

    def draw(
        self,
        person: Person,
        source: dict[str, Tensor],
        generator: torch.Generator,
        count: int = 1,
        *,
        known: Collection[int] = (),
        present: Collection[int] = (),
    ) -> list[int]:
        """Draw pseudonyms of like age and gender, unlike the person and unlike those already given away.

        Args:
            person: estimates for the real person.
            source: the person's unit embedding `(D,)` by recogniser name.
            generator: the run's secret randomness.
            count: how many to choose from.
            known: rows of people who may come back; the first to be given to others when most of the bank is out.
            present: rows that nobody else may have now.

        Returns:
            Rows of the bank, fewer than `count` if it is small; none of them is given away before `take`.
        """
        everybody = len(self.ages) if self.drawn is None else int(self.drawn.sum())
        out = [row for row in known if row not in self.used and 0 <= row < len(self.ages)] + list(self.used)
        given = set(out[-max(1, int(GIVEN * everybody)) :]) | set(present)
        if len(given) >= everybody:  # everybody is here at once, and somebody has to share
            given = set(out[len(out) // 2 :])
        fit = self.misfit(person)
        for name, embedding in source.items():
            if name in self.embeddings:
                table = self.embeddings[name]
                fit = fit + 2 * (table @ embedding).clamp_min(0)
                fit = fit + (table @ table[list(given)].T).clamp_min(0.2).sum(1)
        fit[list(given)] = torch.inf
        if self.drawn is not None:
            fit[~self.drawn] = torch.inf
        free = int(fit.isfinite().sum())
        suited = fit.argsort()[: min(max(4 * count, free // 4), free)]
        return [int(row) for row in suited[torch.randperm(len(suited), generator=generator)[:count]]]

    def misfit(self, person: Person) -> Tensor:
        """`(N,)` how badly each one's age and gender suit a person."""
        return (self.ages - person.age).abs() / 10 + GENDER * (self.males - person.male).abs()

    def take(self, row: int) -> None:
        """Give a pseudonym away: nobody else gets it, or one like it, before most of the bank was given to others.

        A camera that runs for weeks sees more people than there are pseudonyms; from a nearly empty bank they would get
        ones of another age and gender.
        """
        self.used.pop(row, None)
        self.used[row] = None

    def target(self, row: int) -> dict[str, Tensor]:
        """Unit embedding `(D,)` of a pseudonym by recogniser name."""
        return {name: table[row] for name, table in self.embeddings.items()}

    def start(self, row: int) -> Tensor | None:
        """Coordinates `(L, K)` of the universal direction to pseudonym `row`: usable without any optimisation.

        What training leads all directions to alike makes two pseudonyms of a person alike. So the direction turns away
        from the mean of those of like people, and stays as long as it was (benchmarks/PRIOR.md).
        """
        if self.coordinates is None:
            return None
        own = self.coordinates[row]
        misfit = self.misfit(Person(float(self.ages[row]), float(self.males[row])))
        if self.drawn is not None:
            misfit[~self.drawn] = torch.inf
        like = misfit.argsort()[: min(LIKE, int(misfit.isfinite().sum()))]
        led = own + AWAY * (own - self.coordinates[like].mean(0))
        length: Tensor = own.norm(dim=1, keepdim=True) / led.norm(dim=1, keepdim=True).clamp_min(1e-9)
        return led * length

    def save(self, path: Path) -> None:
        """Write as float16 safetensors."""
        tensors = {f"{EMBEDDING}{name}": table for name, table in self.embeddings.items()}
        tensors |= {"ages": self.ages, "males": self.males}
        if self.coordinates is not None:
            tensors["coordinates"] = self.coordinates
        if self.drawn is not None:
            tensors["drawn"] = self.drawn
        save_file({k: v.half().contiguous() for k, v in tensors.items()}, path)

    @classmethod
    def load(cls, path: Path) -> PseudonymBank:
        """Read a file of `save`.

        Raises:
            ModelError: it is damaged, or another file.
        """
        try:
            with safe_open(path, "pt") as file:
                tensors = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
            ages, males = tensors["ages"], tensors["males"]
            for name, tensor in tensors.items():
                axes = 3 if name == "coordinates" else 2 if name.startswith(EMBEDDING) else 1
                if tensor.ndim != axes or len(tensor) != ages.numel() or not tensor.isfinite().all():
                    raise ValueError(f"{name} of {tuple(tensor.shape)} for {ages.numel()} people")
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise ModelError(
                f"{path} is not a pseudonym bank ({error}): get the backbone anew, or take the file away to do without "
                "pseudonyms"
            ) from error
        tables = {
            k.removeprefix(EMBEDDING): torch.nn.functional.normalize(v, dim=1)
            for k, v in tensors.items()
            if k.startswith(EMBEDDING)
        }
        drawn = tensors["drawn"] > 0.5 if "drawn" in tensors else None
        return cls(tables, ages, males, tensors.get("coordinates"), drawn)
