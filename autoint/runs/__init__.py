"""From a command line to a finished run, and from finished runs to tables."""

from typing import TYPE_CHECKING

from autoint.names import public

if TYPE_CHECKING:
    from autoint.runs.build import Task as Task
    from autoint.runs.config import RunConfig as RunConfig
    from autoint.runs.evaluation import EvaluateConfig as EvaluateConfig
    from autoint.runs.evaluation import Evaluation as Evaluation
    from autoint.runs.schedule import learning_rate as learning_rate
    from autoint.runs.seeding import generator as generator
    from autoint.runs.steps import StepLoader as StepLoader
    from autoint.runs.sweeps import Sweep as Sweep
    from autoint.runs.sweeps import report_layout as report_layout

# Looked up on first use: what is light in here, such as seeding, is used where there is no Lightning.
__getattr__, __dir__, __all__ = public(
    __name__,
    {
        "EvaluateConfig": "autoint.runs.evaluation",
        "Evaluation": "autoint.runs.evaluation",
        "RunConfig": "autoint.runs.config",
        "StepLoader": "autoint.runs.steps",
        "Sweep": "autoint.runs.sweeps",
        "Task": "autoint.runs.build",
        "generator": "autoint.runs.seeding",
        "learning_rate": "autoint.runs.schedule",
        "report_layout": "autoint.runs.sweeps",
    },
)
