"""Orchestration: definitions, jobs, schedules, sensors, executors and the command line."""
