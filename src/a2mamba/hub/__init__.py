"""Networks as folders that timm and transformers read too, here and on the Hugging Face hub."""

from a2mamba.hub.folder import CONFIG_FILE, WEIGHTS_FILE, is_saved_folder, read_folder, write_folder
from a2mamba.hub.remote import HUB_PREFIX, download_folder, upload_folder

__all__ = [
    "CONFIG_FILE",
    "HUB_PREFIX",
    "WEIGHTS_FILE",
    "download_folder",
    "is_saved_folder",
    "read_folder",
    "upload_folder",
    "write_folder",
]
