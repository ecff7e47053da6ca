"""The audit of a result, whoever made it: who is still recognised, what stayed, how steady it is; and a verdict.

The public names are loaded on first use, so that the command can refuse wrong arguments quickly.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fluidvid.audit.report import AuditReport
    from fluidvid.audit.run import Auditor, audit
    from fluidvid.audit.verdict import Limits, State, Verdict

__all__ = ["AuditReport", "Auditor", "Limits", "State", "Verdict", "audit"]

_HOMES = {
    "AuditReport": "fluidvid.audit.report",
    "Auditor": "fluidvid.audit.run",
    "audit": "fluidvid.audit.run",
    "Limits": "fluidvid.audit.verdict",
    "State": "fluidvid.audit.verdict",
    "Verdict": "fluidvid.audit.verdict",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'fluidvid.audit' has no attribute {name!r}")
