"""Question, best answer, worse answer, and the probability that best really is better."""

from qbawa.pairs.build import PairsReport, build_pairs
from qbawa.pairs.policy import Policy, choose

__all__ = ["PairsReport", "Policy", "build_pairs", "choose"]
