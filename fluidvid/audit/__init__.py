"""The audit of a result, whoever made it: who is still recognised, what stayed, how steady it is; and a verdict."""

from fluidvid.audit.report import AuditReport
from fluidvid.audit.run import Auditor, audit
from fluidvid.audit.verdict import Limits, State, Verdict

__all__ = ["AuditReport", "Auditor", "Limits", "State", "Verdict", "audit"]
