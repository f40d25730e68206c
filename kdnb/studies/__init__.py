"""Many runs as one experiment: every arm tuned alike, then paired seeds; and tables of recorded runs.

``plan`` reads a study file, ``progress`` says what is finished and what can start, ``cluster`` brings
workers, ``engine`` gives them the runs, ``results`` and ``report`` tell what was found, and ``recorded``
reads that back.
"""

from kdnb.studies.plan import Arm, Study, read_study, study_of
from kdnb.studies.progress import Failed, Finished, Progress
from kdnb.studies.recorded import RecordedStudy, recorded
from kdnb.studies.results import comparison, results_table, warnings

__all__ = [
    "Arm",
    "Failed",
    "Finished",
    "Progress",
    "RecordedStudy",
    "Study",
    "comparison",
    "read_study",
    "recorded",
    "results_table",
    "study_of",
    "warnings",
]
