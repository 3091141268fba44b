"""What the commands that carry out a study have in common."""

from simpo.backend import keep_compiled
from simpo.experiments.report import Study, reproduce

__all__ = ["carry_out"]


def carry_out(study: Study) -> int:
    """Do it, or go on with it; print what was found and where everything is."""
    keep_compiled()
    report = reproduce(study)
    print("\n".join(report.lines))
    print(f"results  {report.folder}")
    page = report.folder / "report.html"
    if page.exists():
        print(f"page     {page}")
    return 0
