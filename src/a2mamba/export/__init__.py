"""Networks as files for other runtimes: ONNX, torch.export, OpenVINO; checked by running what was written."""

from a2mamba.export.comparison import Comparison, ExportError
from a2mamba.export.formats import FORMATS
from a2mamba.export.model import TOLERANCE, Exported, export_model
from a2mamba.export.opened import SUFFIXES, open_exported, read_sidecar
from a2mamba.export.served import OutputName

__all__ = [
    "FORMATS",
    "SUFFIXES",
    "TOLERANCE",
    "Comparison",
    "ExportError",
    "Exported",
    "OutputName",
    "export_model",
    "open_exported",
    "read_sidecar",
]
