"""Dagster assets: one thin module a stage, over the functions of `ueloc_core`."""
