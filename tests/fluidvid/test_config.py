"""The one table of options: files, flags and the API agree, and what is wrong is named in one line."""

from __future__ import annotations

import tomllib
from fractions import Fraction
from pathlib import Path
from typing import get_args

import pytest

from fluidvid import config
from fluidvid.config import Config
from fluidvid.errors import ConfigError


@pytest.mark.parametrize(
    ("written", "seconds"), [("1", 1), ("1.5", Fraction(3, 2)), ("00:01:02", 62), ("00:00:00.25", Fraction(1, 4))]
)
def test_files_may_hold_times_without_quotes(written: str, seconds: Fraction, tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(f"[media]\nend = {written}\n")
    end = config.load(str(tmp_path / "own.toml")).media.end
    assert end is not None and config.parse_time(end) == seconds


@pytest.mark.parametrize("written", ["-1", "true", "nan", "1979-05-27"])
def test_other_values_are_no_times(written: str, tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(f"[media]\nend = {written}\n")
    with pytest.raises(ConfigError, match=r"media\.end"):
        config.load(str(tmp_path / "own.toml"))


@pytest.mark.parametrize("name", config.PRESETS)
def test_presets_load(name: str) -> None:
    assert isinstance(config.load(name), Config)


def test_default_preset_is_the_defaults_and_lists_every_key(root: Path) -> None:
    text = (root / "configs" / "default.toml").read_text()
    assert config.load("default") == Config()
    for key, option in config.options().items():
        leaf = key.rsplit(".", 1)[-1]
        (line,) = [line for line in text.splitlines() if line.startswith((f"{leaf} =", f"# {leaf} ="))]
        words, allowed = str(option.field.description), option.allowed.removesuffix(" or none")
        assert line.endswith((f" # {words}", f" # {words} ({allowed})")), key


@pytest.mark.parametrize(
    ("rate", "frames"),
    [(60, (29, 72, 36, 144)), (25, (12, 30, 15, 60)), (10, (12, 30, 15, 60)), (90000, (116, 288, 144, 576))],
)
def test_tracks_are_held_as_long_at_higher_frame_rates(rate: int, frames: tuple[int, ...]) -> None:
    track = Config().track.at_rate(Fraction(rate))
    assert (track.look_ahead, track.max_gap, track.strict_held, track.strict_gap) == frames
    assert track.cut_threshold == Config().track.cut_threshold
    assert Config().track.at_rate(None) == Config().track


def test_presets_differ_from_the_defaults() -> None:
    assert len({config.load(name).model_dump_json() for name in config.PRESETS}) == len(config.PRESETS)


@pytest.mark.parametrize("key", [k for k, o in config.options().items() if o.flag])
def test_file_and_flag_give_the_same_tree(key: str, tmp_path: Path) -> None:
    examples = {
        "mode": "blur",
        "device": "cuda:1",
        "seed": "7",
        "strict": "true",
        "detect.detector": "yunet",
        "detect.second": "none",
        "detect.long_side": "640",
        "detect.every": "4",
        "edit.editor": "inversion",
        "edit.geometry": "linear",
        "edit.strength": "0.75",
        "edit.backbone": "folder",
        "edit.min_face": "50",
        "edit.iterations": "21",
        "mask.kind": "pixelate",
        "media.start": "1:02.5",
        "media.end": "70",
        "media.codec": "libx265",
        "media.crf": "20",
        "media.preset": "slow",
        "media.keep_metadata": "true",
        "cache.path": "people.cache",
        "cache.key_file": "secret.key",
        "cache.passphrase": "true",
        "live.latency": "250ms",
        "live.retries": "3",
        "live.timeout": "4s",
        "live.transport": "udp",
        "live.metrics": "127.0.0.1:9187",
        "live.segment": "5m",
    }
    text = examples[key]
    from_flag = Config().updated({key: config.parse_value(key, text)})
    *section, leaf = key.split(".")
    number = config.option_at(key).allowed.startswith(("a number", "a whole", "true"))
    path = tmp_path / "own.toml"
    path.write_text((f"[{section[0]}]\n" if section else "") + f"{leaf} = " + (text if number else f'"{text}"') + "\n")
    assert config.load(path) == from_flag != Config()


@pytest.mark.parametrize("word", ["none", "None"])
@pytest.mark.parametrize("key", [k for k, o in config.options().items() if type(None) in get_args(o.field.annotation)])
def test_none_empties_an_optional_key_in_file_and_flag(key: str, word: str, tmp_path: Path) -> None:
    *section, leaf = key.split(".")
    path = tmp_path / "own.toml"
    path.write_text((f"[{section[0]}]\n" if section else "") + f'{leaf} = "{word}"\n')
    emptied = Config().updated({key: None})
    assert config.load(path) == emptied == Config().updated({key: config.parse_value(key, word)})


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("[edit]\nstrenth = 1.0", ["edit.strenth", "edit.strength"]),
        ("[edt]\nstrength = 1.0", ["edt"]),
        ("[edit]\nstrength = 7.5", ["edit.strength", "7.5", "0.1 to 2.0"]),
        ('[edit]\nstrength = "much"', ["edit.strength", "much", "0.1 to 2.0"]),
        ("[mask]\ncells = 9", ["mask.cells", "9", "1 to 8"]),
        ("[mask]\ncells = 2.5", ["mask.cells", "2.5", "1 to 8"]),
        ('mode = "raw"', ["mode", "raw", "fluid, blur, pixelate, solid"]),
        ("edit = 3", ["edit", "3"]),
        ("[edit]\ntimesteps = [700, 5000]", ["edit.timesteps", "5000"]),
        ('[media]\nstart = "soon"', ["media.start", "soon", "seconds"]),
        ("mode = ", ["TOML"]),
        ('[cache]\npath = "people\\u0000cache"', [r"cache.path = 'people\x00cache' is not allowed"]),
        ("[edit]\nstrength = nan", ["edit.strength", "nan"]),
        ('device = "gpu"', ["device = 'gpu' is not allowed: auto, cpu, mps, cuda, or one card as in cuda:1"]),
        ('[live]\nmetrics = "9187"', ["live.metrics = '9187' is not allowed: HOST:PORT as in 127.0.0.1:9187 or none"]),
        ("[detect]\nlow_score = 0.95", ["detect.low_score", "0.95", "at most detect.score (0.5)"]),
        pytest.param("seed = " + "1" * 5000, ["TOML", "4300 digits"], id="long number"),
        pytest.param("seed = 0x" + "f" * 5000, ["seed = a number of thousands of digits"], id="long hexadecimal"),
        pytest.param("seed = " + "1" * 4000, ["seed = 111", "1... is not allowed"], id="number of 4000 digits"),
        pytest.param("[media]\nstart = 0x" + "f" * 500, ["media.start", "is not allowed"], id="start of 600 digits"),
        pytest.param("seed = " + "[" * 5000 + "]" * 5000, ["TOML"], id="deep list"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(content: str, named: list[str], tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(content)
    with pytest.raises(ConfigError) as caught:
        config.load(path)
    message = str(caught.value)
    assert "\n" not in message and len(message) < len(str(path)) + 400
    for word in named:
        assert word in message, message


@pytest.mark.parametrize(
    "content",
    [
        'cache = "redis://user:hunter2@host/0"',
        '[cache]\npath = ["redis://user:hunter2@host/0"]',
        '[cache]\nttl_days = "redis://user:hunter2@host/0"',
    ],
)
def test_no_message_shows_a_login(content: str, tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(content)
    with pytest.raises(ConfigError, match="cache") as caught:
        config.load(path)
    assert "hunter2" not in str(caught.value)


def test_a_file_as_windows_editors_save_it(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text("[edit]\nstrength = 1.0", encoding="utf-8-sig")
    assert config.load(path).edit.strength == 1.0


def test_missing_file_and_preset() -> None:
    with pytest.raises(ConfigError, match="no preset or file 'fastt'"):
        config.load("fastt")


def test_updated_refuses_unknown_keys() -> None:
    with pytest.raises(ConfigError, match=r"did you mean mask\.cells"):
        Config().updated({"mask.cell": 3})


@pytest.mark.parametrize(
    ("key", "words"),
    [("edti", "did you mean edit"), ("edit", "is a section of keys: name one in it, as edit."), ("sed", "mean seed")],
)
def test_a_hint_is_of_the_kind_that_was_meant(key: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        config.option_at(key)


def test_values_of_the_documented_files_are_within_range(root: Path) -> None:
    paths = list((root / "configs").glob("*.toml"))
    assert {path.stem for path in paths} == set(config.PRESETS)
    for path in paths:
        config.from_mapping(tomllib.loads(path.read_text()), origin=path.name)


@pytest.mark.parametrize(
    ("text", "value"), [("12.5", Fraction(25, 2)), ("1:02.5", Fraction(125, 2)), ("1:00:02", 3602)]
)
def test_times_are_exact(text: str, value: Fraction) -> None:
    assert config.parse_time(text) == value


@pytest.mark.parametrize("text", ["", "a", "-3", "5:-3", "1:2:3:4", "1/0", "1e400", "1e99999999", "9" * 5000])
def test_times_refused(text: str) -> None:
    with pytest.raises(ValueError, match="time"):
        config.parse_time(text)
