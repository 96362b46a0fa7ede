"""The functions of `components` under the module name of Agent-Lightning 0.3."""

from .components import build_component, instantiate_component, instantiate_from_spec, load_class

__all__ = ["build_component", "instantiate_component", "instantiate_from_spec", "load_class"]
