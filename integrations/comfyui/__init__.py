# SPDX-License-Identifier: Apache-2.0
"""fluxlora in ComfyUI: trains LoRAs for FLUX.1 from a graph. docs/comfyui.md is the page for users."""

from .nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
