"""How a server is set up."""

from dataclasses import dataclass, field

from fewstep.serve.limits import Limits


@dataclass(frozen=True)
class Settings:
    """Of one server.

    Attributes:
        limits: how much it takes on.
        api_key: that every request but /health, /ready and the page's files has to bear; None for no key.
        page: whether "/" has the page.
        admin: whether /admin is there, which it is only with a key.
        lora_folder: where /admin/lora may read from; None where it may not.
    """

    limits: Limits = field(default_factory=Limits)
    api_key: str | None = None
    page: bool = True
    admin: bool = False
    lora_folder: str | None = None
