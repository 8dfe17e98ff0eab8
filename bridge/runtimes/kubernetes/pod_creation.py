"""Create pods, each in the namespace that it names: a user's is made before his first one.

The agent may create namespaces and not read them, so whether one is there shows when it is
made: once for each user and agent, and again when a pod finds none.
"""

from bridge.runtimes.kubernetes import site, user_namespace
from bridge.runtimes.kubernetes.api import Api, Object, RefusedError


class PodCreation:
    """Creates the pods of the site whose own namespace is `namespace`."""

    def __init__(self, api: Api, namespace: str) -> None:
        self._api = api
        self._namespace = namespace
        self._made: set[str] = set()

    def create(self, pod: Object) -> Object:
        """Create the pod; raises `RefusedError`, also for what it needs and cannot have."""
        place = user_namespace.of_pod(pod, self._namespace)
        if place == self._namespace:
            return self._create(pod, place)
        if place not in self._made:
            self._make_namespace(pod, place)
        try:
            return self._create(pod, place)
        except RefusedError as error:
            if error.status != 404:
                raise
        self._make_namespace(pod, place)  # somebody has removed it
        return self._create(pod, place)

    def _create(self, pod: Object, place: str) -> Object:
        return self._api.create(f"/api/v1/namespaces/{place}/pods", pod)

    def _make_namespace(self, pod: Object, place: str) -> None:
        for wanted in site.user_objects_for(pod, self._namespace):
            try:
                self._api.create(site.collection(wanted), wanted)
            except RefusedError as error:
                if error.reason != "AlreadyExists":
                    raise
        self._made.add(place)
