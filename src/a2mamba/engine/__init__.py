"""One training loop for all tasks, and what it needs. It knows no model and no data set."""

from a2mamba.engine.checkpoint import CheckpointManager, load_checkpoint_file, save_checkpoint
from a2mamba.engine.distributed import (
    Strategy,
    is_main_process,
    merge_metrics,
    process_group,
    rank,
    unwrap,
    world_size,
)
from a2mamba.engine.ema import Ema
from a2mamba.engine.errors import Interrupted, TrainingError
from a2mamba.engine.faults import FaultPolicy
from a2mamba.engine.hooks import (
    CheckpointHook,
    CsvLogger,
    EvaluationHook,
    Hook,
    ProgressHook,
    SignalHook,
    TensorBoardLogger,
    TimeLimitHook,
)
from a2mamba.engine.optimizer import OptimizerConfig, build_optimizer, parameter_groups
from a2mamba.engine.precision import Precision, PrecisionName, resolve_precision
from a2mamba.engine.quarantine import QuarantineHook
from a2mamba.engine.schedule import PolynomialScheduleConfig, Schedule, ScheduleConfig, StepScheduleConfig
from a2mamba.engine.task import Progress, TrainingTask
from a2mamba.engine.trainer import Loader, ResumableSampler, Trainer
from a2mamba.engine.tree import move_to

__all__ = [
    "CheckpointHook",
    "CheckpointManager",
    "CsvLogger",
    "Ema",
    "EvaluationHook",
    "FaultPolicy",
    "Hook",
    "Interrupted",
    "Loader",
    "OptimizerConfig",
    "PolynomialScheduleConfig",
    "Precision",
    "PrecisionName",
    "Progress",
    "ProgressHook",
    "QuarantineHook",
    "ResumableSampler",
    "Schedule",
    "ScheduleConfig",
    "SignalHook",
    "StepScheduleConfig",
    "Strategy",
    "TensorBoardLogger",
    "TimeLimitHook",
    "Trainer",
    "TrainingError",
    "TrainingTask",
    "build_optimizer",
    "is_main_process",
    "load_checkpoint_file",
    "merge_metrics",
    "move_to",
    "parameter_groups",
    "process_group",
    "rank",
    "resolve_precision",
    "save_checkpoint",
    "unwrap",
    "world_size",
]
