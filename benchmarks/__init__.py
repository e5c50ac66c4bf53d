"""One script a question; each prints one JSON object as its last line."""
