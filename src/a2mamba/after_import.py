"""Importing one module as soon as another one is imported by anybody.

timm has no entry points: models are known to it once their module is imported. Importing timm for that takes seconds,
which those who do not use it need not wait for.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


def after_import(trigger: str, module: str, *, but_not_inside: Sequence[str] = ()) -> None:
    """Import ``module`` now if ``trigger`` is imported already, or else right after it is.

    but_not_inside: modules that ``module`` needs. Where one of them is what imports ``trigger``, it is not complete yet
    and cannot be used; ``module`` is then left to whoever imports that one.
    """
    if trigger in sys.modules:
        importlib.import_module(module)
    else:
        sys.meta_path.insert(0, _Finder(trigger, module, but_not_inside))


class _Finder(MetaPathFinder):
    """Finds the trigger where everybody finds it, once, and has its loader import the module afterwards."""

    def __init__(self, trigger: str, module: str, but_not_inside: Sequence[str]) -> None:
        self.trigger = trigger
        self.module = module
        self.but_not_inside = but_not_inside

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self.trigger:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self.module, self.but_not_inside)
        return spec


class _Loader(Loader):
    """Loads like ``loader``, then imports ``module``."""

    def __init__(self, loader: Loader, module: str, but_not_inside: Sequence[str]) -> None:
        self.loader = loader
        self.module = module
        self.but_not_inside = but_not_inside

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__loader__ = module.__spec__.loader = self.loader
        self.loader.exec_module(module)
        if not any(map(_is_being_imported, (self.module, *self.but_not_inside))):
            importlib.import_module(self.module)


def _is_being_imported(name: str) -> bool:
    """Whether a module has begun to be imported and is not complete."""
    module = sys.modules.get(name)
    return module is not None and getattr(module.__spec__, "_initializing", False)
