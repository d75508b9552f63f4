"""pytest fixtures: machines that run the image."""
