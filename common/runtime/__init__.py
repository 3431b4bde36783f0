"""A process and its surroundings: command lines, files, HTTP, memory, metrics."""
