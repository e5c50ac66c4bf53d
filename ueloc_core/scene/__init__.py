"""Scenes for ray tracing: meshes, materials, Mitsuba files."""
