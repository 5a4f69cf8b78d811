"""One training loop for all tasks, and what it needs. It knows no model and no data set."""

from a2mamba.engine.checkpoint import CheckpointManager, load_checkpoint_file, save_checkpoint
from a2mamba.engine.distributed import is_main_process, merge_metrics, process_group, rank, unwrap, world_size
from a2mamba.engine.duration import duration
from a2mamba.engine.ema import Ema
from a2mamba.engine.errors import Interrupted, ScheduleError, TrainingError
from a2mamba.engine.faults import FaultPolicy
from a2mamba.engine.hooks import CheckpointHook, EarlyStoppingHook, EvaluationHook, SignalHook, TimeLimitHook
from a2mamba.engine.loading import Loader, ResumableSampler
from a2mamba.engine.loggers import CsvLogger, ScalarLogger, TensorBoardLogger, WandbLogger, read_metrics
from a2mamba.engine.optimizer import OptimizerConfig, build_optimizer, parameter_groups
from a2mamba.engine.precision import Precision, PrecisionName, resolve_precision
from a2mamba.engine.progress import ProgressHook
from a2mamba.engine.quarantine import QuarantineHook
from a2mamba.engine.rng import kept_rng, seeded_cpu
from a2mamba.engine.schedule import PolynomialScheduleConfig, Schedule, ScheduleConfig, StepScheduleConfig
from a2mamba.engine.task import Progress, TrainingTask
from a2mamba.engine.trainer import Hook, Trainer
from a2mamba.engine.tree import move_to

__all__ = [
    "CheckpointHook",
    "CheckpointManager",
    "CsvLogger",
    "EarlyStoppingHook",
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
    "ScalarLogger",
    "Schedule",
    "ScheduleConfig",
    "ScheduleError",
    "SignalHook",
    "StepScheduleConfig",
    "TensorBoardLogger",
    "TimeLimitHook",
    "Trainer",
    "TrainingError",
    "TrainingTask",
    "WandbLogger",
    "build_optimizer",
    "duration",
    "is_main_process",
    "kept_rng",
    "load_checkpoint_file",
    "merge_metrics",
    "move_to",
    "parameter_groups",
    "process_group",
    "rank",
    "read_metrics",
    "resolve_precision",
    "save_checkpoint",
    "seeded_cpu",
    "unwrap",
    "world_size",
]
