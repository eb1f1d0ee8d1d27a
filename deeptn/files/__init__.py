"""Files of networks and models: safetensors with a JSON header. Nothing in them is executed."""

from .checkpoint import load_checkpoint, save_checkpoint
from .model_file import (
    LONE,
    MODEL,
    StoredLayer,
    StoredModel,
    load_model,
    place_of,
    renamed,
    rounded_model,
    save_model,
    size_of_model,
)
from .network_file import NETWORK, NOTHING, fingerprint, load, network_from_dict, network_to_dict, save
from .rounding import CORES, Cores
from .stream import as_read, is_mapped, release, unread
from .tensors import HEADER, VERSION, Header, OldHeader, form_of, open_safetensors, read_tensors, write_tensors

__all__ = [
    "CORES",
    "HEADER",
    "LONE",
    "MODEL",
    "NETWORK",
    "NOTHING",
    "VERSION",
    "Cores",
    "Header",
    "OldHeader",
    "StoredLayer",
    "StoredModel",
    "as_read",
    "fingerprint",
    "form_of",
    "is_mapped",
    "load",
    "load_checkpoint",
    "load_model",
    "network_from_dict",
    "network_to_dict",
    "open_safetensors",
    "place_of",
    "read_tensors",
    "release",
    "renamed",
    "rounded_model",
    "save",
    "save_checkpoint",
    "save_model",
    "size_of_model",
    "unread",
    "write_tensors",
]
