"""The typed configuration. Hydra composes it once; the rest of the package receives plain dataclasses."""

from compress.config.checks import MAX_OPSET
from compress.config.composition import COMPOSING, CONF, RECIPES, compose, dump, read, register, to_config
from compress.config.device import HOST, DeviceConfig, LatencyFit
from compress.config.messages import explain
from compress.config.schema import (
    BALANCED,
    MAX_CHANNELS,
    Accelerator,
    Activation,
    BudgetConfig,
    Config,
    DataConfig,
    ExportConfig,
    Family,
    FinetuneConfig,
    MetricConfig,
    ModelConfig,
    NumberFormat,
    Objective,
    Optimizer,
    PruneConfig,
    QuantizeConfig,
    ReconstructConfig,
    TaskConfig,
    check_name,
)

__all__ = [
    "BALANCED", "COMPOSING", "CONF", "HOST", "MAX_CHANNELS", "MAX_OPSET", "RECIPES", "Accelerator", "Activation",
    "BudgetConfig", "Config", "DataConfig", "DeviceConfig", "ExportConfig", "Family", "FinetuneConfig", "LatencyFit",
    "MetricConfig", "ModelConfig", "NumberFormat", "Objective", "Optimizer", "PruneConfig", "QuantizeConfig",
    "ReconstructConfig",
    "TaskConfig", "check_name", "compose", "dump", "explain", "read", "register", "to_config",
]  # fmt: skip
