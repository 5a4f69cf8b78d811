"""Networks as files for other runtimes: ONNX, torch.export, OpenVINO; checked by running what was written."""

from a2mamba.export.comparison import Comparison, ExportError
from a2mamba.export.formats import FORMATS
from a2mamba.export.model import Exported, export_model

__all__ = ["FORMATS", "Comparison", "ExportError", "Exported", "export_model"]
