"""The ``SecretManager`` of plugins: all places of section ``secrets``, from the scope of the task outwards."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final, Self

from propfan.engine.clock import Clock
from propfan.engine.cluster import Cluster
from propfan.engine.secret_managers.config import Place, SecretsSection
from propfan.engine.secret_managers.kubernetes import KubernetesSecrets
from propfan.engine.secret_managers.scopes import SecretScope, object_name
from propfan.engine.secrets import SECRET_NOT_FOUND, FileEnvSecrets
from propfan.pluginmachinery.errors import PermanentError


class CascadingSecrets:
    """Of all tasks; ``of`` gives the one of a project and domain.

    A key without a group is looked for by scope: the value for the project and domain, for the domain, for all. A
    group is the name of a Secret in the configured namespace.
    """

    def __init__(
        self, section: SecretsSection, local: FileEnvSecrets, kubernetes: KubernetesSecrets, scope: SecretScope
    ) -> None:
        self._section: Final = section
        self._local: Final = local
        self._kubernetes: Final = kubernetes
        self._scope: Final = scope

    @classmethod
    def configured(cls, section: SecretsSection, environ: Mapping[str, str], cluster: Cluster, clock: Clock) -> Self:
        local = FileEnvSecrets(environ, Path(section.secrets_prefix), section.env_prefix)
        kubernetes = KubernetesSecrets(cluster, clock, section.expiry_s)
        return cls(section, local, kubernetes, SecretScope(section.organization))

    def of(self, project: str, domain: str) -> CascadingSecrets:
        """The same places for tasks of a project and domain."""
        scope = SecretScope(self._section.organization, project, domain)
        return CascadingSecrets(self._section, self._local, self._kubernetes, scope)

    async def get(self, key: str, group: str = "", group_version: str = "") -> str:
        """As ``SecretManager``.

        Raises:
            PermanentError: there is none by that name in any place.
            ApiError: the cluster does not say now.
        """
        problems = []
        for place in self._section.types:
            if place is Place.LOCAL:
                try:
                    return await self._local.get(key, group, group_version)
                except PermanentError as error:
                    problems.append(error.message)
                continue
            value = await self._in_kubernetes(key, group)
            if value is not None:
                return value
            problems.append(f"Kubernetes Secret [{self._place(key, group)}]")
        raise PermanentError(SECRET_NOT_FOUND, "; ".join(problems) or f"secret {key!r}: 'secrets.types' names no place")

    def forget(self, key: str, group: str = "") -> None:
        """What Kubernetes has of it is read anew."""
        if group:
            self._kubernetes.forget(self._section.namespace, group)
            return
        for scope in self._scope.cascade():
            self._kubernetes.forget(self._section.namespace, object_name(scope.id_of(key)))

    async def _in_kubernetes(self, key: str, group: str) -> str | None:
        namespace = self._section.namespace
        ids = [scope.id_of(key) for scope in self._scope.cascade()]
        places = [(group, key)] if group else [(object_name(identifier), identifier) for identifier in ids]
        for name, data_key in places:
            value = await self._kubernetes.value(namespace, name, data_key)
            if value is None:
                continue
            try:
                return value.decode()
            except UnicodeDecodeError:
                problem = (
                    f'secret "{key}" has a binary value that is not a valid UTF-8 string: Secret {namespace}/{name}'
                )
                raise PermanentError(SECRET_NOT_FOUND, problem) from None
        return None

    def _place(self, key: str, group: str) -> str:
        namespace = self._section.namespace
        if group:
            return f"{namespace}/{group}, key {key}"
        scopes = ", ".join(str(scope) for scope in self._scope.cascade())
        return f"of '{key}' in namespace {namespace} for {scopes}"
