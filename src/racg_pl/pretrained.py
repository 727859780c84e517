"""Models that load from a folder of config.json and model.safetensors: huggingface_hub's mixin, made strict.

By itself the mixin forgives what changes scores without a word: weights that are missing, options that are unknown or left out.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, ClassVar, Self

from huggingface_hub import PyTorchModelHubMixin, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError
from safetensors import SafetensorError

from racg_pl.errors import DataError

CONFIG, WEIGHTS = "config.json", "model.safetensors"
FETCHED = {"revision", "token", "cache_dir", "local_files_only", "force_download"}  # options of a download
BESIDES = {"text_source"}  # what a config.json says besides the arguments of the model


class Pretrained(PyTorchModelHubMixin):
    """Adds `save_pretrained(DIR)` and `from_pretrained(DIR)` to an nn.Module whose arguments are scalars."""

    source: ClassVar[str]  # whose method it is and from what it was written, as the model card says it

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that this model was made with."""
        assert isinstance(self._hub_mixin_config, dict)  # as the mixin keeps the arguments of a class that takes no `config`
        return self._hub_mixin_config

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **options: Any) -> Self:
        """The model of a folder, in evaluation mode. Nothing in the folder is run; a folder is read without any network.

        Args:
            pretrained_model_name_or_path: the folder, or the name of a repository on the Hugging Face Hub.
            options: of huggingface_hub: map_location, revision, token, cache_dir, local_files_only, force_download.
        Raises: DataError where config.json and weights are missing, damaged, or do not fit this class exactly.
        """
        source = Path(pretrained_model_name_or_path)
        try:
            if source.is_dir():
                cls._check_config(source / CONFIG)
            else:
                where = {name: options[name] for name in FETCHED & options.keys()}
                cls._check_config(Path(hf_hub_download(str(pretrained_model_name_or_path), CONFIG, **where)))
            with open(os.devnull, "w") as nothing, redirect_stdout(nothing):  # it prints that it loads
                return super().from_pretrained(pretrained_model_name_or_path, strict=True, **options)
        except DataError:
            raise
        except (
            OSError,
            RuntimeError,
            TypeError,
            SafetensorError,
            HfHubHTTPError,
            HFValidationError,
            EntryNotFoundError,
        ) as error:
            what = f"{source / WEIGHTS}: expected the weights of {cls.__name__} as its {CONFIG} describes it"
            if not source.is_dir():
                what = (
                    f"{source}: expected a folder by racg export, or a repository of the Hugging Face Hub that can be reached"
                )
            raise DataError(f"{what}, got: {' '.join(str(error).split())[:200]}; export it again") from error

    @classmethod
    def _check_config(cls, path: Path) -> None:
        """All arguments of the model must be there, and nothing that this version does not know."""
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            got = getattr(error, "strerror", None) or str(error)
            raise DataError(f"{path}: expected the options of a model in JSON, got: {got}; export it again") from error
        known = set(cls._hub_mixin_init_parameters) - {"self"}
        names = set(config) - BESIDES if isinstance(config, Mapping) else set()
        if names != known:
            missing, unknown = (", ".join(sorted(part)) or "none" for part in (known - names, names - known))
            raise DataError(
                f"{path}: expected the options of this version of {cls.__name__}, missing: {missing}; unknown: {unknown}; "
                f"load it with the version of racg_pl that wrote it"
            )
