"""The one place that knows system calls: one thin function a call."""
