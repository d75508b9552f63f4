"""Measurements of the image and the API, each with its method and, where there is one, its bar."""
