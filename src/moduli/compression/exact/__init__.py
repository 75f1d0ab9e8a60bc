"""The same function on all inputs."""
