"""What an audit can be asked for. A leaf: the command reads it before anything heavy is loaded."""

from __future__ import annotations

from fluidvid.errors import ConfigError

ATTACKS = ("sharpen", "average", "superresolve", "negate", "rerun")


def chosen_attacks(text: str | None) -> tuple[str, ...]:
    """`all`, or names between commas, in the order of `ATTACKS`.

    Raises:
        ConfigError: an unknown name.
    """
    names = [name.strip() for name in (text or "").split(",") if name.strip()]
    for name in names:
        if name not in ("all", *ATTACKS):
            raise ConfigError(f"no attack {name!r}: known are all, {', '.join(ATTACKS)}")
    return tuple(name for name in ATTACKS if name in names or "all" in names)
