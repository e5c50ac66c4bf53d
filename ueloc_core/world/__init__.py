"""The world that reports come from, where it differs from the twin that the locator holds."""
