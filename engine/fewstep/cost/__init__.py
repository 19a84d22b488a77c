"""What a step costs apart from arithmetic: kernel launches, bytes moved, waits for the GPU; counted without a GPU."""

from fewstep.cost.counter import Call, Cost, CostCounter
from fewstep.cost.report import Report, Row, SubjectReport, report
from fewstep.cost.subjects import PRESETS, Subject, folder_subject

__all__ = [
    "PRESETS",
    "Call",
    "Cost",
    "CostCounter",
    "Report",
    "Row",
    "Subject",
    "SubjectReport",
    "folder_subject",
    "report",
]
