"""Passwords and keys of services, which results folders must not hold. Stdlib only.

Configs, command lines and tracebacks are stored with the results, and those are shared. So a config
or a command line with a credential is refused before anything is written, and what reaches a record
otherwise is cut. Found are the forms of some services' keys, passwords in URLs, values behind a
word such as password, secret, token or api_key, and the values of environment variables so named.
What has none of these forms is not found.
"""

import json
import os
import re
from typing import Any

CUT = "[cut]"
_PATTERN = re.compile(
    r"""
    (?<![A-Za-z0-9])(?:hf_|gh[pousr]_|github_pat_|wandb_v1_|glpat-|sk-(?:proj-|ant-)?)\w{20,}
  | (?<![A-Za-z0-9])(?:xox[abprs]-|AIza)[\w-]{20,}
  | (?<![A-Za-z0-9])(?:AKIA|ASIA)[0-9A-Z]{16}(?![A-Za-z0-9])
  | (?<=://)[^/\s:@'"]+:[^/\s@'"]+(?=@)                      # user:password@ of a URL
  | (?i:password|passwd|secret)["']?\s*[=:]\s*["']?[^\s"',;()]{4,}
    # with a digit, for `token = next(tokens)` is code; n_tokens is another word
  | (?i:(?:api|access|private)[_-]?key|credentials?|(?<![a-z])token)["']?\s*[=:]\s*["']?
    (?=[^\s"',;()]*\d)[\w+/=.~-]{8,}
    """,
    re.VERBOSE,
)
_NAME = re.compile(r"(?:TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_KEY|CREDENTIALS?)(?:_|$)")
_SHORTEST = 8  # characters of an environment variable that is looked for


def cut(text: str) -> str:
    """Text without credentials."""
    for value in _of_environment():
        text = text.replace(value, CUT)
    return _PATTERN.sub(CUT, text)


def refuse_credentials(what: str, values: Any) -> None:
    """Raises ValueError if plain values (nested lists and dicts) hold a credential.

    what: their name in the message, which does not show the credential.
    """
    text = json.dumps(values, ensure_ascii=False, default=str)
    if not _PATTERN.search(text) and not any(value in text for value in _of_environment()):
        return
    where = _find(values, "")
    raise ValueError(
        f"{what} holds what looks like a password or key{f' ({where})' if where else ''}; it would "
        "be stored with the results. Put it into an environment variable, such as HF_TOKEN or "
        "WANDB_API_KEY, or into a file that your programs read"
    )


def _find(node: Any, path: str) -> str:
    """Dotted path of the first value that is cut; empty if it spans several."""
    items: Any = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in items:
        here = f"{path}.{key}" if path else str(key)
        if isinstance(value, (dict, list, tuple)):
            if found := _find(value, here):
                return found
        elif isinstance(value, str) and cut(value) != value:
            return here if isinstance(node, dict) else value.partition("=")[0][:40]
    return ""


def _of_environment() -> list[str]:
    """Values of variables that are named as credentials are; paths are none."""
    return [
        value
        for name, value in os.environ.items()
        if _NAME.search(name.upper()) and len(value) >= _SHORTEST and not value.startswith("/")
    ]
