"""The repository keeps its promises: documents against code, rules of the core, what a clone must hold."""
