"""What the forms of our operators are written with: nodes of an ONNX graph, through onnxscript.

A form is called while PyTorch translates a network. Its values have a shape where PyTorch knows one, that is at the
form's arguments; the batch may be free.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def constant(value: Any) -> Any:
    """Return a NumPy array or number as a constant of the graph."""
    from onnx.numpy_helper import from_array
    from onnxscript import opset18 as op

    return op.Constant(value=from_array(np.asarray(value)))


def reshape(x: Any, *shape: int) -> Any:
    """Return a value in another shape; 0 keeps the size of an axis, which the free batch needs."""
    from onnxscript import opset18 as op

    return op.Reshape(x, constant(np.array(shape, np.int64)))
