"""This server cannot do it at present: 503."""

from __future__ import annotations

from headmap.errors.base import HeadmapError


class Unavailable(HeadmapError):
    code, status, title = "unavailable", 503, "Unavailable"


class TooManyConnections(Unavailable):
    """All connections that the server takes have a request at work."""

    code, title = "too_many_connections", "Too many connections"


class RegistryUnavailable(Unavailable):
    code, title = "registry_unavailable", "Registry unavailable"


class RegistryBroken(RegistryUnavailable):
    """The registry's file is damaged, or is not one of ours: waiting does not help."""

    title = "Registry broken"


class ClusterUnavailable(Unavailable):
    """What a client was told to call does not answer, or not as Headmap does."""

    code, title = "cluster_unavailable", "Cluster unavailable"


class DatasetUnavailable(Unavailable):
    """Files of a dataset are missing or damaged, or what holds them cannot be reached now."""

    code, title, not_here = "dataset_unavailable", "Dataset unavailable", True


class HubUnavailable(Unavailable):
    code, title = "hub_unavailable", "Hub unavailable"


class ShuttingDown(Unavailable):
    code, title = "shutting_down", "Shutting down"


class OutOfMemory(Unavailable):
    code, title, not_here = "out_of_memory", "Out of memory", True


class DeviceNotFound(Unavailable):
    """This host has no such device."""

    code, title, not_here = "device_not_found", "Device not found", True


class PackageMissing(Unavailable):
    """A Python package is not installed on this host."""

    code, title, not_here = "package_missing", "Package missing", True


class DeviceFailed(Unavailable):
    """This process can no longer use the device; it ends and is started again."""

    code, title = "device_failed", "Device failed"
