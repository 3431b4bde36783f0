"""One optimizer step: batches, advantages, losses, adapters."""
