"""Why a program or a map failed, in words: a table of the kernel's and libbpf's answers, each with its cause, first release and remedy.

Pure: it reads what the guest reported. An answer that no row matches has no diagnosis, and is shown as it is. `rows` is the table, the other
modules have the functions that its rows name.
"""

from kmatrix.verdict.diagnosis.cause import Diagnosis, Failing
from kmatrix.verdict.diagnosis.classes import CLASSES, UNCLASSIFIED
from kmatrix.verdict.diagnosis.explain import causes, diagnose, explain, has_failed, of_opening, unclassified

__all__ = [
    "CLASSES",
    "UNCLASSIFIED",
    "Diagnosis",
    "Failing",
    "causes",
    "diagnose",
    "explain",
    "has_failed",
    "of_opening",
    "unclassified",
]
