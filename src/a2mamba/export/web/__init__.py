"""A static page that runs an exported network in its visitor's browser, by onnxruntime-web."""

from a2mamba.export.web.runtime import find_runtime
from a2mamba.export.web.site import MODEL, TASKS, check_page, write_page

__all__ = ["MODEL", "TASKS", "check_page", "find_runtime", "write_page"]
