"""Names, hashes and secret annotations."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Any

from flyteidl2.core import security_pb2

from propfan.pluginmachinery import names, secrets
from propfan.pluginmachinery.errors import PropfanError
from tests.golden.inputs import error_output


def run(case: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return {"result": _FUNCTIONS[case["function"]](case)}
    except PropfanError as error:
        return {"error": error_output(error), "result": getattr(error, "result", None)}


def _algorithm(case: Mapping[str, Any]) -> names.HashAlgorithm:
    return names.HashAlgorithm(case.get("algorithm") or "fnv32a")


def _unique_id(case: Mapping[str, Any]) -> str:
    return names.fixed_length_unique_id(case.get("value", ""), case.get("max_length", 0), _algorithm(case))


def _unique_id_for_parts(case: Mapping[str, Any]) -> str:
    return names.fixed_length_unique_id_for_parts(case.get("parts", ()), case.get("max_length", 0), _algorithm(case))


def _secret_annotations(case: Mapping[str, Any]) -> Mapping[str, str]:
    encoded = case.get("secrets") or ()
    return secrets.to_annotations([security_pb2.Secret.FromString(base64.b64decode(secret)) for secret in encoded])


def _of_value(function: Callable[[str], str | bool]) -> Callable[[Mapping[str, Any]], str | bool]:
    return lambda case: function(case.get("value", ""))


_FUNCTIONS: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
    "fixed_length_unique_id": _unique_id,
    "fixed_length_unique_id_for_parts": _unique_id_for_parts,
    "secret_annotations": _secret_annotations,
    "camel_to_kebab": _of_value(names.camel_to_kebab),
    "clustered_sanitize_label_value": _of_value(lambda value: names.sanitize_label_value(value) or "none"),
    "dns1123_subdomain": _of_value(names.dns1123_subdomain),
    "is_dns1123_label": _of_value(names.is_dns1123_label),
    "is_dns1123_subdomain": _of_value(names.is_dns1123_subdomain),
    "mig_slices": _of_value(names.mig_slices),
    "sanitize_label_value": _of_value(names.sanitize_label_value),
}
