"""Where the agent looks for a site's pods: in one namespace, or in all that it may look into."""

from bridge.config import Kubernetes
from bridge.runtimes.kubernetes import user_namespace
from bridge.runtimes.kubernetes.api import Api, Object
from bridge.runtimes.kubernetes.rights import Authorizer, Right

_EVERYWHERE = "/api/v1/pods"


class PodScope:
    """The pods of a site; `path` is the collection that holds them, as last found."""

    def __init__(self, api: Api, settings: Kubernetes) -> None:
        self._api = api
        self._settings = settings
        self.path = f"/api/v1/namespaces/{settings.namespace}/pods"

    def find(self) -> str:
        """Find out where there may be pods and return `path`.

        Users' namespaces may still hold some of before the setting was switched off, for as long
        as the agents have their role for these.
        """
        if self._settings.user_namespaces or self._may_look_everywhere():
            self.path = _EVERYWHERE
        else:
            self.path = f"/api/v1/namespaces/{self._settings.namespace}/pods"
        return self.path

    def _may_look_everywhere(self) -> bool:
        authorizer = Authorizer(self._api, self._settings.namespace, is_agent=True)
        return authorizer.allows(Right("list", "pods"))

    def covers(self, pod: Object) -> bool:
        """Whether a pod that was found there is the site's."""
        return user_namespace.is_of_site(pod, self._settings.namespace)
