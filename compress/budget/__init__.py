"""The budget: limits, the verdict on a run, and remarks. Reads ledger rows only; imports no torch."""

from compress.budget.limits import Check
from compress.budget.remarks import NO_DETECTION, Remark, chance_level_remark
from compress.budget.selection import baseline, recommend
from compress.budget.verdict import MET, NOT_MET, Verdict, judge, undetermined_verdict

__all__ = [
    "MET", "NOT_MET", "NO_DETECTION", "Check", "Remark", "Verdict", "baseline", "chance_level_remark",
    "judge", "recommend", "undetermined_verdict",
]  # fmt: skip
