"""Files of networks and of models: safetensors with a header of JSON, nothing in them is executed."""

from .model_file import StoredLayer, StoredModel, load_model, save_model
from .network_file import fingerprint, load, network_from_dict, network_to_dict, save
from .tensors import HEADER, VERSION, open_safetensors, read_tensors, write_tensors

__all__ = [
    "HEADER",
    "VERSION",
    "StoredLayer",
    "StoredModel",
    "fingerprint",
    "load",
    "load_model",
    "network_from_dict",
    "network_to_dict",
    "open_safetensors",
    "read_tensors",
    "save",
    "save_model",
    "write_tensors",
]
