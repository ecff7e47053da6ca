"""Which tracks are the same person."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from fluidvid.trackers import link_tracks
from tests.trackers.scenes import noisy, unit


def _seen(first: int, last: int) -> NDArray[np.int64]:
    return np.arange(first, last, dtype=np.int64)


def _views(rng: np.random.Generator, person: NDArray[np.float32], count: int = 6) -> NDArray[np.float32]:
    return noisy(rng, np.repeat(person[None], count, 0), 0.5)


def _at(cosine: float, person: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float32]:
    """A unit vector at a cosine to `person`, in the plane with `other`."""
    side = other - (other @ person) * person
    side /= np.linalg.norm(side)
    return np.asarray(cosine * person + np.sqrt(1 - cosine**2) * side, dtype=np.float32)


def test_the_same_person_is_linked_and_others_are_not() -> None:
    rng = np.random.default_rng(0)
    who = unit(rng, 3)
    persons = {1: 0, 2: 1, 4: 0, 7: 2, 9: 1, 12: 0}
    embeddings = {track: _views(rng, who[p], 1 + track % 5) for track, p in persons.items()}
    frames = {track: _seen(100 * i, 100 * i + 90) for i, track in enumerate(persons)}
    assert link_tracks(embeddings, frames) == {1: 1, 2: 2, 4: 1, 7: 7, 9: 2, 12: 1}


def test_two_faces_seen_together_are_two_people_however_alike() -> None:
    person = unit(np.random.default_rng(1), 1)
    frames = {1: _seen(0, 100), 2: _seen(40, 140)}
    assert link_tracks({1: person, 2: person}, frames) == {1: 1, 2: 2}


def test_seen_together_holds_for_whole_groups() -> None:
    """3 looks like 1 and like 2, but 1 and 2 are two: 3 cannot join them."""
    rng = np.random.default_rng(2)
    person = unit(rng, 1)[0]
    embeddings = {t: _views(rng, person) for t in (1, 2, 3)}
    frames = {1: _seen(0, 100), 2: _seen(0, 100), 3: _seen(200, 300)}
    people = link_tracks(embeddings, frames)
    assert people[1] != people[2]


def test_who_is_not_one_of_a_group_is_none_of_it() -> None:
    """1 and 3 are one; 2 was seen with 3 only, and yet is not 1 either."""
    a, b = unit(np.random.default_rng(8), 2)
    embeddings = {1: a[None], 2: _at(0.7, a, b)[None], 3: _at(0.95, a, -b)[None]}
    frames = {1: _seen(0, 100), 2: _seen(200, 300), 3: _seen(200, 300)}
    assert link_tracks(embeddings, frames) == {1: 1, 2: 2, 3: 1}
    frames[2] = _seen(400, 500)
    assert link_tracks(embeddings, frames) == {1: 1, 2: 1, 3: 1}


def test_a_face_found_twice_for_a_moment_is_one_person() -> None:
    person = unit(np.random.default_rng(3), 1)
    frames = {1: _seen(0, 100), 2: _seen(96, 200)}
    assert link_tracks({1: person, 2: person}, frames) == {1: 1, 2: 1}
    assert link_tracks({1: person, 2: person}, frames, overlap=3) == {1: 1, 2: 2}


def test_the_threshold_decides() -> None:
    a, b = unit(np.random.default_rng(4), 2)
    frames = {1: _seen(0, 10), 2: _seen(50, 60)}
    for cosine, linked in ((0.45, False), (0.54, False), (0.57, True)):
        people = link_tracks({1: a[None], 2: _at(cosine, a, b)[None]}, frames)
        assert (people[2] == 1) is linked, cosine
    assert link_tracks({1: a[None], 2: _at(0.45, a, b)[None]}, frames, threshold=0.4) == {1: 1, 2: 1}


def test_a_track_that_could_be_either_of_two_people_stands_alone() -> None:
    """1 and 2 are seen together; 3 is as near to the one as to the other: a link would be a coin's toss."""
    a, b = unit(np.random.default_rng(5), 2)
    twin = _at(0.6, a, b)
    between = a + twin
    between /= np.linalg.norm(between)
    frames = {1: _seen(0, 100), 2: _seen(0, 100), 3: _seen(200, 300)}
    people = link_tracks({1: a[None], 2: twin[None], 3: between[None]}, frames)
    assert people == {1: 1, 2: 2, 3: 3}
    clear = link_tracks({1: a[None], 2: twin[None], 3: _at(0.98, a, twin)[None]}, frames)
    assert clear == {1: 1, 2: 2, 3: 1}


def test_tracks_without_embeddings_stand_alone() -> None:
    person = unit(np.random.default_rng(6), 1)
    frames = {1: _seen(0, 10), 2: _seen(20, 30), 3: _seen(40, 50)}
    people = link_tracks({1: person, 2: np.zeros((0, 64), np.float32)}, frames)
    assert people == {1: 1, 2: 2, 3: 3}
    assert link_tracks({}, frames) == {1: 1, 2: 2, 3: 3}
    assert link_tracks({}, {}) == {}


def test_a_zero_embedding_links_nothing() -> None:
    zero = np.zeros((1, 64), np.float32)
    frames = {1: _seen(0, 10), 2: _seen(20, 30)}
    assert link_tracks({1: zero, 2: zero}, frames) == {1: 1, 2: 2}


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_the_tracks_does_not_matter(seed: int) -> None:
    rng = np.random.default_rng(seed)
    who = unit(rng, 4)
    embeddings = {t: _views(rng, who[t % 4], 1 + t % 3) for t in range(1, 13)}
    frames = {t: _seen(100 * t, 100 * t + 50) for t in embeddings}
    order = [int(t) for t in rng.permutation(list(embeddings))]
    shuffled = link_tracks({t: embeddings[t] for t in order}, {t: frames[t] for t in order})
    assert shuffled == link_tracks(embeddings, frames)
    assert shuffled == {t: (t - 1) % 4 + 1 for t in embeddings}


def test_every_view_counts_not_every_track() -> None:
    """A long track outweighs a single bad view."""
    rng = np.random.default_rng(7)
    a, b = unit(rng, 2)
    embeddings = {1: _views(rng, a, 30), 2: _at(0.6, a, b)[None], 3: _at(0.75, a, -b)[None]}
    frames = {t: _seen(100 * t, 100 * t + 50) for t in embeddings}
    assert link_tracks(embeddings, frames) == {1: 1, 2: 1, 3: 1}


def _slowly(embeddings: dict[int, NDArray[np.float32]], frames: dict[int, NDArray[np.int64]]) -> dict[int, int]:
    """What `link_tracks` says, all cosines anew and all pairs in order at every step."""
    groups = [{track} for track in sorted(embeddings)]
    sums = [np.asarray(embeddings[min(g)], np.float64).mean(0) for g in groups]
    means = [s / np.linalg.norm(s) for s in sums]
    sizes = [len(embeddings[min(g)]) for g in groups]
    apart = [[a is not b and len(set(frames[min(a)]) & set(frames[min(b)])) > 5 for b in groups] for a in groups]
    while True:
        pairs = [(means[a] @ means[b], a, b) for a in range(len(groups)) for b in range(a + 1, len(groups))]
        for cosine, a, b in sorted((p for p in pairs if p[0] >= 0.55 and not apart[p[1]][p[2]]), reverse=True):
            thirds = [means[a] @ means[c] for c in range(len(groups)) if apart[b][c]]
            thirds += [means[b] @ means[c] for c in range(len(groups)) if apart[a][c]]
            if all(third <= cosine - 0.05 for third in thirds):
                break
        else:
            break
        joined = means[a] * sizes[a] + means[b] * sizes[b]
        means[a], sizes[a] = joined / np.linalg.norm(joined), sizes[a] + sizes[b]
        groups[a] |= groups[b]
        for c in range(len(groups)):
            apart[a][c] = apart[c][a] = apart[a][c] or apart[b][c]
        del groups[b], means[b], sizes[b], apart[b]
        for row in apart:
            del row[b]
    return {track: min(group) for group in groups for track in group}


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_what_is_kept_between_steps_changes_nothing(seed: int, twice: bool) -> None:
    """`twice`: everybody is in the picture two times (a mirror, a video wall), so that most pairs have a rival."""
    rng = np.random.default_rng(seed)
    people = rng.normal(size=(6, 24))
    embeddings, frames = {}, {}
    for track in range(40):
        who = track // 2 % 6 if twice else rng.integers(6)
        seen = people[who] + rng.normal(scale=0.9, size=(int(rng.integers(1, 5)), 24))
        embeddings[track] = np.asarray(seen / np.linalg.norm(seen, axis=1, keepdims=True), np.float32)
        begin = track // 2 * 60 if twice else int(rng.integers(0, 600))
        frames[track] = np.arange(begin, begin + 60)
    found = link_tracks(embeddings, frames)
    assert found == _slowly(embeddings, frames)
    assert 6 <= len(set(found.values())) < 40
