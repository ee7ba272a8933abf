"""Remove a user's request from everything: journals, lake, exports, people's verdicts, logs, and what Dagster has stored.

A person's right to be forgotten outweighs reproducibility: time travel of the tables ends here. What lies outside the
home (copies of exports, files that were imported, back-ups) cannot be reached; the report names what it knows of.
"""

from qbawa.erasure.forget import ForgetReport, forget
from qbawa.erasure.plan import Plan, read_plan, unfinished

__all__ = ["ForgetReport", "Plan", "forget", "read_plan", "unfinished"]
