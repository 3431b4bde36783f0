"""From a record to the prompt that both planes consume."""
