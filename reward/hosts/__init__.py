"""The hosts of user rewards: processes, Ray actors, HTTP services."""
