"""Every phase of training makes steps, writes what it should, and goes on where it stopped."""

from __future__ import annotations

import csv
import resource
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from diffusers import UNet2DModel
from numpy.typing import NDArray

from fluidvid.engine.autoencoder import FaceAutoencoder
from fluidvid.engine.composite import edited_region
from fluidvid.engine.crops import to_crops
from fluidvid.engine.face_networks import AttributeNetworks, Attributes, Recogniser
from fluidvid.engine.subspace import ComponentSpace
from fluidvid.engine.training.bank import BankTraining, train_bank
from fluidvid.engine.training.critic import CriticTraining, FaceCritic, hinge
from fluidvid.engine.training.diffusion import DiffusionTraining, train_diffusion
from fluidvid.engine.training.directed import ReadOut
from fluidvid.engine.training.latents import LatentCache
from fluidvid.engine.training.pictures import read_pictures
from fluidvid.engine.training.runs import TrainingOptions, TrainingRun, append_row, load_state, save_state, whole
from fluidvid.engine.training.swapping import PairCache, SwapTraining, _Beholders, train_swaps
from fluidvid.engine.training.targets import Targets
from fluidvid.errors import ConfigError, InputError, OutputError
from tests.engine.tiny import TINY_AUTOENCODER, FixedGlasses, tiny_attributes, tiny_backbone, tiny_recogniser, tiny_unet

ONE_STEP = 1e-9  # hours


def test_rows_of_other_terms_begin_under_a_header_of_their_own(tmp_path: Path) -> None:
    for row in ({"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}, {"step": 3, "loss": 0.125, "apart": -1.0}):
        append_row(tmp_path, row)
    lines = (tmp_path / "log.csv").read_text().splitlines()
    assert lines == ["step,loss", "1,0.5", "2,0.25", "step,loss,apart", "3,0.125,-1.0"]


def test_a_run_stops_at_its_steps_and_makes_one_more_where_it_has_them_already(tmp_path: Path) -> None:
    for expected in (2, 3, 4):
        run = TrainingRun(tmp_path, TrainingOptions(hours=100.0, steps=2))
        run.resume()
        for _ in run.loop():
            run.made({"loss": 1.0})
            assert run.due == run.done
            if run.due:
                run.checkpoint({"step": run.step} | run.means(), {})
            assert run.step <= expected
        assert run.step == expected


@contextmanager
def _small_files(limit: int) -> Iterator[None]:
    """The system refuses to make files larger, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_the_last_state_and_nothing_else(tmp_path: Path) -> None:
    save_state(tmp_path, {"step": 1})
    with _small_files(100_000), pytest.raises(OutputError, match=r"state\.pt .* make room .* --resume"):
        save_state(tmp_path, {"step": 2, "weights": torch.ones(100_000)})
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]
    assert load_state(tmp_path) == {"step": 1}
    with _small_files(1000), pytest.raises(OutputError, match="make room"), whole(tmp_path / "x.npy") as part:
        part.write_bytes(bytes(2000))
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]


class _Trap:
    """What runs code where it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_state_runs_no_code(tmp_path: Path) -> None:
    torch.save({"step": 1, "trap": _Trap(tmp_path / "sprung")}, tmp_path / "state.pt")
    for content in ((tmp_path / "state.pt").read_bytes(), b"", b"no state"):
        (tmp_path / "state.pt").write_bytes(content)
        with pytest.raises(ConfigError, match=r"state\.pt is damaged or of another version .* another --out"):
            load_state(tmp_path)
    assert not (tmp_path / "sprung").exists()


def test_a_log_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    run = TrainingRun(tmp_path, TrainingOptions())
    with _small_files(0), pytest.raises(OutputError, match=r"log\.csv cannot be written \(File too large"):
        run.checkpoint({"step": 1}, {})


@pytest.fixture
def pictures() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (12, 64, 64, 3), dtype=np.uint8)


@pytest.fixture
def autoencoder() -> FaceAutoencoder:
    torch.manual_seed(0)
    return FaceAutoencoder(TINY_AUTOENCODER).eval().requires_grad_(False)


def _latents() -> dict[str, torch.Tensor]:
    return {"real": torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1))}


def _saved(folder: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = UNet2DModel.from_pretrained(folder / "unet").state_dict()
    return state


def test_diffusion_trains_and_resumes(
    pictures: NDArray[np.uint8], autoencoder: FaceAutoencoder, tmp_path: Path
) -> None:
    held_out = np.arange(12) >= 10
    done = 0
    for runs in (1, 2):
        train_diffusion(
            tiny_unet(),
            autoencoder,
            pictures,
            held_out,
            np.ones(12),
            np.ones((12, 5), np.float32),
            _latents(),
            tmp_path,
            DiffusionTraining(hours=ONE_STEP, batch=4, fresh_per_step=2, sheet_steps=2),
        )
        before, done = done, torch.load(tmp_path / "state.pt", weights_only=True)["step"]
        assert done > before
        assert len((tmp_path / "log.csv").read_text().splitlines()) == 1 + runs
    sheets = sorted(path.name for path in (tmp_path / "samples").iterdir())
    assert sheets == [f"{step:07d}.png" for step in range(2, done + 1, 2)]
    side = 4 * pictures.shape[1]
    sheet = cv2.imread(str(tmp_path / "samples" / sheets[0]))
    assert sheet is not None and sheet.shape == (side, side, 3)
    old, after = tiny_unet().state_dict(), _saved(tmp_path)
    assert any(not torch.equal(old[k], after[k]) for k in old)
    assert all(torch.isfinite(v).all() for v in after.values())


def _targets(pictures: NDArray[np.uint8], attributes: AttributeNetworks) -> Targets:
    """Six people with codes of three values."""
    donors = to_crops(pictures[:6])
    people = torch.nn.functional.normalize(torch.randn(6, 8), dim=1)
    ages, males, meshes = torch.linspace(20, 60, 6), torch.full((6,), 0.5), attributes.mesh(donors)
    return Targets(torch.randn(6, 3), {"who": people}, ages, males, torch.rand(6, 7), donors, meshes)


def _moved(run: Path) -> set[str]:
    """The parts of the U-Net that a run changed."""
    before, after = tiny_unet().state_dict(), _saved(run)
    return {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])}


def _swapping(
    pictures: NDArray[np.uint8],
    tmp_path: Path,
    space: ComponentSpace,
    options: SwapTraining,
    recognisers: Sequence[Recogniser] = (),
) -> None:
    torch.manual_seed(3)
    attributes = tiny_attributes(tmp_path)
    train_swaps(
        tiny_backbone(tmp_path),
        space,
        ReadOut(3, 1, 4),
        _targets(pictures, attributes),
        recognisers,
        attributes,
        pictures,
        np.ones(12),
        tmp_path / "swaps",
        options,
    )


def test_the_decoding_half_learns_to_draw_donors_and_directions_stay_within_a_quarter_turn(
    pictures: NDArray[np.uint8], tmp_path: Path
) -> None:
    space = ComponentSpace((100,), 100 * torch.randn(1, 4, 16 * 4 * 4), (16, 4, 4))
    options = SwapTraining(
        hours=1, steps=60, batch=8, fresh=8, begin=8, cache=16, denoise=0.1, learning_rate=4e-3, direction_rate=0.05
    )
    _swapping(pictures, tmp_path, space, replace(options, steps=5))
    _swapping(pictures, tmp_path, space, options)
    rows = list(csv.DictReader((tmp_path / "swaps" / "log.csv").read_text().splitlines()))
    assert [int(row["step"]) for row in rows] == [5, 60]
    assert float(rows[1]["swap"]) < 0.9 * float(rows[0]["swap"])
    assert float(rows[1]["length"]) < 0.5 * float(rows[0]["length"])
    assert _moved(tmp_path / "swaps") == {"up_blocks", "conv_norm_out", "conv_out"}
    assert torch.load(tmp_path / "swaps" / "coordinates.pt").shape == (6, 1, 4)
    assert ComponentSpace.load(tmp_path / "swaps" / "hspace.safetensors", (16, 4, 4)).timesteps == (100,)


def test_recognisers_and_a_critic_are_asked_beside_the_pictures(pictures: NDArray[np.uint8], tmp_path: Path) -> None:
    space = ComponentSpace((100,), torch.randn(1, 4, 16 * 4 * 4), (16, 4, 4))
    options = SwapTraining(hours=1, steps=3, batch=8, fresh=8, begin=8, cache=16, critic_warmup=2, calibrated=1)
    nets = [tiny_recogniser(tmp_path, name) for name in ("who", "whom", "whose")]
    _swapping(pictures, tmp_path, space, options, nets)
    _swapping(pictures, tmp_path, space, replace(options, steps=5), nets)
    rows = list(csv.DictReader((tmp_path / "swaps" / "log.csv").read_text().splitlines()))
    assert {"displace", "suppress", "apart", "critic"} <= rows[0].keys()
    state = torch.load(tmp_path / "swaps" / "state.pt", weights_only=True)
    assert (state["step"], state["judged"]) == (5, 5)
    assert min(state["weights"]) > 0


def test_recognisers_and_the_critic_see_edits_as_they_are_shown(pictures: NDArray[np.uint8], tmp_path: Path) -> None:
    """In the person's own picture, in its light, with its gaze: not the decoded latents around the face."""
    backbone, attributes = tiny_backbone(tmp_path), tiny_attributes(tmp_path)
    beholders = _Beholders(backbone, [tiny_recogniser(tmp_path, "who")], attributes, SwapTraining())
    source = to_crops(pictures[:2])
    latents = (backbone.encode(source) + 1).repeat(2, 1, 1, 1).requires_grad_()
    shown = beholders.into(source)(latents)
    mask, gaze = edited_region(attributes.landmarks(source), source.shape[-1], None, gaze=True)
    outside = (mask == 0).repeat(2, 3, 1, 1)
    assert outside.any() and not outside.all() and gaze is not None
    torch.testing.assert_close(shown[outside], source.repeat(2, 1, 1, 1)[outside], atol=0.02, rtol=0)
    decoded = backbone.decode(latents).float()
    assert float((shown - decoded)[~outside].abs().mean()) > 0.05
    (gradient,) = torch.autograd.grad(shown.sum(), latents)
    assert float(gradient.abs().max()) > 0


def test_judged_pairs_are_edited_as_a_search_would_and_beyond(pictures: NDArray[np.uint8], tmp_path: Path) -> None:
    space = ComponentSpace((100,), torch.randn(1, 4, 16 * 4 * 4), (16, 4, 4))
    plain = SwapTraining(
        hours=1, steps=1, batch=8, fresh=8, begin=8, cache=16, margin=-9.0, searched=0.0, strongest=1.0
    )
    seen = {}
    for name, options in {
        "plain": plain,
        "searched": replace(plain, searched=2.0),
        "stronger": replace(plain, strongest=3.0),
    }.items():
        (tmp_path / name).mkdir()
        _swapping(pictures, tmp_path / name, space, options, [tiny_recogniser(tmp_path, "who")])
        (row,) = csv.DictReader((tmp_path / name / "swaps" / "log.csv").read_text().splitlines())
        seen[name] = {term: float(row[term]) for term in ("swap", "suppress", "age_gender")}
    assert seen["searched"]["suppress"] < seen["plain"]["suppress"]
    # The pictures are compared at strength 1, the beholders see what is beyond it.
    assert seen["stronger"]["swap"] == seen["plain"]["swap"]
    assert seen["stronger"]["suppress"] != seen["plain"]["suppress"]
    assert seen["stronger"]["age_gender"] != seen["plain"]["age_gender"]


def test_pairs_are_two_donors_of_each_face_and_the_oldest_give_way(pictures: NDArray[np.uint8], tmp_path: Path) -> None:
    attributes, options = tiny_attributes(tmp_path), SwapTraining(fresh=8, begin=8, cache=16)
    generator = torch.Generator().manual_seed(0)
    targets, rng = _targets(pictures, attributes), np.random.default_rng(0)
    cache = PairCache(tiny_backbone(tmp_path), attributes, targets, pictures, np.ones(12), options, rng, generator)
    others = False
    for _ in range(8):
        pairs = cache.draw(8)
        others = others or not torch.equal(pairs.rows[:4], pairs.rows[4:])
        assert len(pairs.rows) == len(pairs.latents) == len(pairs.wanted) == len(pairs.weights) == 8
        assert torch.equal(pairs.latents[:4], pairs.latents[4:])
        assert float(pairs.weights.min()) >= 0
        assert float(pairs.weights.max()) <= 1
    assert others
    assert cache.made == 16 + 8 * 8
    assert cache.kept is not None and len(cache.kept.rows) == 16
    before = cache.kept.wanted.clone()
    cache.grow(8)  # in place of one half of the people, the older ones
    changed = (cache.kept.wanted != before).flatten(1).any(1)
    assert changed.tolist() == ([True] * 4 + [False] * 4) * 2
    cache.options = replace(options, judged=4)
    pairs = cache.draw(8)
    for first, second in ((0, 2), (4, 6)):  # as many people as are judged, and the same again
        assert torch.equal(pairs.latents[first : first + 2], pairs.latents[second : second + 2])


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_glasses_stay_in_what_is_to_be_drawn(pictures: NDArray[np.uint8], tmp_path: Path, probability: float) -> None:
    attributes, options = tiny_attributes(tmp_path), SwapTraining(fresh=8, begin=8, cache=16)
    targets, rng = _targets(pictures, attributes), np.random.default_rng(0)
    networks = tiny_backbone(tmp_path), attributes, targets, pictures, np.ones(12), options, rng
    cache = PairCache(*networks, torch.Generator().manual_seed(0), FixedGlasses(probability, slice(None)))
    pairs = cache.draw(8)
    stayed = (pairs.wanted - pairs.latents).abs().amax((1, 2, 3)) < 1e-3
    assert bool(stayed.all()) == (probability == 1.0)


@pytest.mark.parametrize("swap", [0.0, 40.0])
def test_the_bank_learns_directions_and_moves_the_decoding_half_only(
    pictures: NDArray[np.uint8], tmp_path: Path, swap: float
) -> None:
    recognisers, attributes = [tiny_recogniser(tmp_path, "who")], tiny_attributes(tmp_path)
    targets = _targets(pictures, attributes)
    space = ComponentSpace((300,), torch.randn(1, 4, 16 * 4 * 4), (16, 4, 4))
    read_out = ReadOut(3, 1, 4)
    done = 0
    for _ in range(2):
        train_bank(
            tiny_backbone(tmp_path),
            space,
            read_out,
            targets,
            recognisers,
            attributes,
            pictures,
            np.ones(12),
            tmp_path / "bank",
            BankTraining(hours=ONE_STEP, batch=4, swap=swap),
        )
        last, done = done, torch.load(tmp_path / "bank" / "state.pt", weights_only=True)["step"]
        assert done > last
    columns = (tmp_path / "bank" / "log.csv").read_text().splitlines()[0].split(",")
    assert ("swap" in columns) == (swap > 0)
    assert _moved(tmp_path / "bank") == {"up_blocks", "conv_norm_out", "conv_out"}
    coordinates = torch.load(tmp_path / "bank" / "coordinates.pt")
    assert coordinates.shape == (6, 1, 4)
    torch.testing.assert_close(coordinates.std(0), torch.ones(1, 4))  # in standard deviations over the targets
    assert ComponentSpace.load(tmp_path / "bank" / "hspace.safetensors", (16, 4, 4)).timesteps == (300,)


def test_a_critic_learns_what_is_drawn_and_goes_on_where_it_stopped() -> None:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)

    def pictures(*, drawn: bool) -> torch.Tensor:
        coarse = torch.rand((4, 3, 4, 4), generator=generator) * 2 - 1
        faces = torch.nn.functional.interpolate(coarse, size=64, mode="bilinear")
        if drawn:
            faces[:, :, 30:34, 20:44] = -1.0
        return faces

    critic = FaceCritic()
    training = CriticTraining(critic, 1e-3, kept=16)
    losses = [training.step(pictures(drawn=False), pictures(drawn=True), generator, times=2) for _ in range(25)]
    assert losses[0] > 1.2 and np.mean(losses[-5:]) < 0.5
    real, drawn = pictures(drawn=False), pictures(drawn=True)
    with torch.no_grad():
        scores = critic(real), critic(drawn)
    assert scores[0].mean() > scores[1].mean() and hinge(*scores) < 1.0
    again = FaceCritic()
    resumed = CriticTraining(again, 1e-3)
    resumed.load_state_dict(training.state_dict())
    with torch.no_grad():
        assert torch.equal(again(real), scores[0])
    moments = [s["exp_avg_sq"] for s in resumed.optimiser.state_dict()["state"].values()]
    assert moments and all(float(m.abs().max()) > 0 for m in moments)


def test_targets_are_of_like_age_and_gender_and_pose() -> None:
    ages, males = torch.linspace(10, 80, 100), (torch.arange(100) % 2).float()
    turned = (torch.arange(100) // 2 % 2).float()[:, None, None]
    meshes = torch.rand(1, 468, 2, generator=torch.Generator().manual_seed(1)) + 0.3 * turned
    targets = Targets(torch.zeros(100, 1), {}, ages, males, torch.zeros(100, 7), torch.zeros(100, 3, 8, 8), meshes)
    kept = Attributes(
        torch.zeros(2, 68, 2), meshes[[0, 2]], torch.zeros(2, 7), torch.tensor([20.0, 70.0]), torch.tensor([0.0, 1.0])
    )
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        young_woman, old_man = targets.alike(kept, generator).tolist()
        assert males[young_woman] == 0
        assert males[old_man] == 1
        assert abs(ages[young_woman] - 20) < 20
        assert abs(ages[old_man] - 70) < 20
        assert turned[young_woman] == 0
        assert turned[old_man] == 1


def test_targets_are_of_like_expression() -> None:
    expressions = torch.eye(7)[torch.arange(100) % 4]
    meshes = torch.zeros(100, 468, 2)
    targets = Targets(
        torch.zeros(100, 1), {}, torch.full((100,), 30.0), torch.ones(100), expressions, torch.zeros(0), meshes
    )
    kept = Attributes(torch.zeros(2, 68, 2), None, expressions[[1, 2]], torch.full((2,), 30.0), torch.ones(2))
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        assert [row % 4 for row in targets.alike(kept, generator).tolist()] == [1, 2]


def test_the_cache_never_draws_what_is_held_out(pictures: NDArray[np.uint8], autoencoder: FaceAutoencoder) -> None:
    cache = LatentCache(autoencoder, pictures, (np.arange(12) < 8).astype(float), fresh=3)
    drawn = set()
    for _ in range(20):
        assert cache.draw(5).shape == (5, 4, 8, 8)
        drawn |= set(cache.picked.tolist())
    assert drawn == set(range(8))


def test_pictures_are_read_and_bad_ones_named(tmp_path: Path) -> None:
    red = np.zeros((32, 32, 3), np.uint8)
    red[:, :, 2] = 200  # OpenCV writes BGR
    cv2.imwrite(str(tmp_path / "a.png"), red)
    ((name, found),) = read_pictures(tmp_path)
    assert name == "a.png" and found.shape == (32, 32, 3)
    assert found[0, 0].tolist() == [200, 0, 0]
    (tmp_path / "b.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"b\.png"):
        list(read_pictures(tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no pictures"):
        list(read_pictures(tmp_path / "empty"))
