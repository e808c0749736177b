"""Gates: evidence and a policy in, verdicts and one decision out. Cheap, deterministic, no torch."""

from mmpt.gating.baselines import Accepted, accept, load_baselines, read_accepted
from mmpt.gating.checks import Check, Gate
from mmpt.gating.decision import Decision, decide, evaluate_all, read_decision, require, withdraw
from mmpt.gating.history import read_history
from mmpt.gating.policy import GATES_FOLDER, Policy, load_policy
from mmpt.gating.verdicts import CheckResult, Verdict, evaluate_gate, read_verdict
from mmpt.gating.waivers import Waiver, load_waivers, waive

__all__ = [
    "GATES_FOLDER",
    "Accepted",
    "Check",
    "CheckResult",
    "Decision",
    "Gate",
    "Policy",
    "Verdict",
    "Waiver",
    "accept",
    "decide",
    "evaluate_all",
    "evaluate_gate",
    "load_baselines",
    "load_policy",
    "load_waivers",
    "read_accepted",
    "read_decision",
    "read_history",
    "read_verdict",
    "require",
    "waive",
    "withdraw",
]
