"""The settings of a server: arguments, or environment variables that begin with KERAS_TFCL_."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class ServerSettings(BaseSettings):
    """Settings of the server. Each may also come from the environment, such as `KERAS_TFCL_MAX_QUEUE=512`."""

    model_config = SettingsConfigDict(
        env_prefix="KERAS_TFCL_",
        env_ignore_empty=True,
        extra="ignore",
        protected_namespaces=(),
        allow_inf_nan=False,
    )

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8000, ge=0, le=65_535, description="Port to listen on; 0 lets the system choose.")
    api_key: SecretStr | None = Field(default=None, description="Bearer key that all requests except health need.")
    model_name: str | None = Field(default=None, description="Name of the model; by default, the name of the file.")
    max_batch_size: int = Field(default=64, ge=1, description="Largest number of samples in one run of the model.")
    batch_wait_ms: float = Field(default=0.0, ge=0, description="Wait of a run for more samples; 0: no wait.")
    max_queue: int = Field(default=1024, ge=1, description="Largest number of waiting samples; beyond it, 429.")
    deadline_s: float = Field(default=30.0, gt=0, description="Longest time to a response; after it, 504.")
    max_items: int = Field(default=2048, ge=1, description="Largest number of inputs in one request.")
    max_body_bytes: int = Field(default=32 * 2**20, ge=1, description="Largest request.")
    max_tokens: int = Field(default=8192, ge=1, description="Most tokens of one text.")
    max_pixels: int = Field(default=50_000_000, ge=1, description="Largest image that is decoded.")
    drain_s: float = Field(default=0.0, ge=0, description="How long to continue serving, not ready, after SIGTERM.")
    images: Path | None = Field(default=None, description="Folder whose images the search page may show.")
