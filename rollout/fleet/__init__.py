"""The engines of a run as a fleet: their states, their health, and the routing of draws."""
