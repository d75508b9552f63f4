"""Writing an image to a disk. `aer image write` uses all of it but the service."""
