from typing import Any, Final

MAX_DEPTH: Final = 96

class StructError(ValueError): ...

def to_value(data: bytes) -> dict[str, Any]: ...
