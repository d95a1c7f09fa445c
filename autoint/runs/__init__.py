"""From a command line to a finished run, and from finished runs to tables."""

from autoint.names import public

# Looked up on first use: what is light in here, such as seeding, is used where there is no Lightning.
__getattr__, __dir__, __all__ = public(
    __name__,
    {
        "EvaluateConfig": "autoint.runs.evaluation",
        "RunConfig": "autoint.runs.config",
        "StepLoader": "autoint.runs.steps",
        "Sweep": "autoint.runs.sweeps",
        "Task": "autoint.runs.build",
        "generator": "autoint.runs.seeding",
        "learning_rate": "autoint.runs.schedule",
        "report_layout": "autoint.runs.sweeps",
    },
)
