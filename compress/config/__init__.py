"""The typed configuration. Hydra composes it once; the rest of the package receives plain dataclasses."""

from compress.config.checks import MAX_OPSET
from compress.config.composition import (
    COMPOSING,
    CONF,
    RECIPES,
    compose,
    device_profiles,
    dump,
    read,
    register,
    to_config,
)
from compress.config.data import DATA_TASKS, TASK_FORMATS, DataConfig, MetricConfig, TaskConfig
from compress.config.device import HOST, PRECISIONS, Basis, DeviceConfig, Figure
from compress.config.messages import explain
from compress.config.mission import MissionConfig
from compress.config.schema import (
    BALANCED,
    MAX_CHANNELS,
    Accelerator,
    Activation,
    BudgetConfig,
    Config,
    ExportConfig,
    Family,
    FinetuneConfig,
    Measure,
    MlflowConfig,
    ModelConfig,
    NumberFormat,
    Objective,
    Optimizer,
    PruneConfig,
    QuantizeConfig,
    ReconstructConfig,
    check_name,
)

__all__ = [
    "BALANCED", "COMPOSING", "CONF", "DATA_TASKS", "HOST", "MAX_CHANNELS", "MAX_OPSET", "PRECISIONS", "RECIPES",
    "TASK_FORMATS", "Accelerator", "Activation", "Basis", "BudgetConfig", "Config", "DataConfig", "DeviceConfig",
    "ExportConfig", "Family", "Figure", "FinetuneConfig", "Measure", "MetricConfig", "MissionConfig", "MlflowConfig",
    "ModelConfig", "NumberFormat", "Objective", "Optimizer", "PruneConfig", "QuantizeConfig", "ReconstructConfig",
    "TaskConfig", "check_name", "compose", "device_profiles", "dump", "explain", "read", "register", "to_config",
]  # fmt: skip
